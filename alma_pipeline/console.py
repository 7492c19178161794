"""Where output goes: a terminal with a width, or a file or pipe without one. Independent of what is printed."""

import sys

from rich.console import Console

PIPE_WIDTH = 100_000
"""Width of a pipe in columns: lines there are never wrapped."""


class LiteralConsole(Console):
    """A console that prints text literally: `[de, nl]` is not markup and `:es:` not an emoji."""

    def __init__(self) -> None:
        width = None if sys.stdout.isatty() else PIPE_WIDTH
        super().__init__(width=width, highlight=False, markup=False, emoji=False)

    def print_line(self, text: str, style: str = "") -> None:
        """Print a line that the terminal may wrap but rich never breaks, so that paths and commands can be copied."""
        self.print(text, style=style, soft_wrap=True)

    def on_broken_pipe(self) -> None:
        """Raise BrokenPipeError for `cli` to handle like any other error; rich would exit the process."""
        raise BrokenPipeError

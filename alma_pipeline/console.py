"""Where output goes: a terminal of some width, or a file or pipe that has none. Nothing of what is printed."""

import sys

from rich.console import Console

UNBOUNDED = 100_000
"""Columns of a pipe: a line there is as long as its text."""


class Screen(Console):
    """A console that prints texts as they are: `[de, nl]` is no markup, `:es:` no picture."""

    def __init__(self) -> None:
        width = None if sys.stdout.isatty() else UNBOUNDED
        super().__init__(width=width, highlight=False, markup=False, emoji=False)

    def say(self, text: str, style: str = "") -> None:
        """A line that the terminal may wrap but rich does not break: paths and commands stay whole for copying."""
        self.print(text, style=style, soft_wrap=True)

    def on_broken_pipe(self) -> None:
        """Leave it to `cli`, as any other error; rich would end the process."""
        raise BrokenPipeError

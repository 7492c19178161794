"""The ways a command can end badly. Not a place for handling: `cli` maps these to exit codes."""

import difflib


class PipelineError(Exception):
    """Anything this project raises on purpose."""


class UserError(PipelineError):
    """The request cannot be carried out as given: one paragraph, exit code 2, nothing written."""


class ConfigError(UserError):
    """One or several problems of a configuration, each with its full key."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class StageFailed(PipelineError):
    """A node's worker ended without a result: exit code 1, with the log's tail and path."""

    def __init__(self, node: str, reason: str, log: str, tail: str = "") -> None:
        self.node, self.reason, self.log, self.tail = node, reason, log, tail
        super().__init__(f"{node}: {reason}")


def nearest(word: str, known: list[str]) -> str:
    """`; did you mean 'beta'?` where a known name is close, else the known names."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(sorted(known))}"

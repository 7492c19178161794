"""The errors that end a command. `cli` handles them and maps them to exit codes."""

import difflib

RENAMED = {
    "clip": "max_grad_norm",
    "global_batch": "global_batch_size",
    "choose_by": "select_by",
    "diverged_above": "max_dev_loss_ratio",
    "diverged_below": "min_dev_score_ratio",
    "diverged_loops": "max_loop_share",
    "base_weights": "quantization",
    "documents": "cross_document_attention",
    "beams": "num_beams",
    "shots": "num_shots",
    "row_tokens": "micro_batch_tokens",
    "side_by_side": "max_parallel_nodes",
    "scorer": "score_by",
    "mean_of": "score_by",
    "most_contaminated": "max_contamination",
    "own": "native",
    "as_is": "none",
}
"""Old names of settings and values to their new ones, for messages only: an old name is an error."""


class PipelineError(Exception):
    """Base class of every error this project raises deliberately."""


class UserError(PipelineError):
    """The request is invalid or impossible: one paragraph, exit code 2, nothing written."""


class ConfigError(UserError):
    """One or more problems in a configuration, each with its full key."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class StageFailed(PipelineError):
    """A node's worker exited without a result: exit code 1, with the path and the tail of its log."""

    def __init__(self, node: str, reason: str, log: str, tail: str = "") -> None:
        self.node, self.reason, self.log, self.tail = node, reason, log, tail
        super().__init__(f"{node}: {reason}")


class Interrupted(KeyboardInterrupt):
    """The command received a signal other than Ctrl-C. Workers may then write a resume point first, if there is time."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.hurried = False
        """A second signal came: nothing is waited for any more."""
        self.left: list[str] = []
        """From where each node resumes that was running, in words."""


def suggestion(word: str, known: list[str]) -> str:
    """`did you mean 'beta'?` if a known name is close, else `known: ...` with all of them; for an old name the new one."""
    return nearest(word, known) or f"known: {', '.join(sorted(known))}"


def nearest(word: str, known: list[str]) -> str:
    """As `suggestion`, but empty if no known name is close: for a text that lists them all anyway."""
    if (renamed := RENAMED.get(word)) in known:
        return f"it is now called '{renamed}'"
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else ""

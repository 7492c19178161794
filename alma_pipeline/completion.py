"""Tab completion of the console script: Hydra's own, with this project's verbs and flags in front.

`eval "$(alma-pipeline -sc install=bash)"` in the shell; Hydra cannot complete `python -m` (its issue 1957, B28).
"""

import os
import sys

from alma_pipeline.cli import COUNTS, VERBS


def asked(words: list[str]) -> bool:
    """Whether this is the shell asking, or somebody installing the completion."""
    return any(word in ("-sc", "--shell-completion") for word in words)


def answer(words: list[str]) -> int:
    """Print Hydra's answer; for a query, on a line without our verb and flags, and with them as candidates."""
    from alma_pipeline import invocation

    query = any(word.startswith("query=") for word in words)
    if query and "COMP_LINE" in os.environ:
        line = os.environ["COMP_LINE"]
        _print_own(line)
        os.environ["COMP_LINE"] = without_ours(line)
        os.environ["COMP_POINT"] = str(len(os.environ["COMP_LINE"]))
    return invocation.hydra_command(words)


def without_ours(line: str) -> str:
    """`alma-pipeline plan --json sta` as Hydra knows it: `alma-pipeline sta`."""
    program, _, rest = line.partition(" ")
    ends_open = rest.endswith(" ") or not rest
    kept = [word for word in rest.split() if word not in VERBS and word.partition("=")[0] not in COUNTS]
    return " ".join([program, *kept]) + (" " if ends_open else "")


def _print_own(line: str) -> None:
    words = line.split(" ")
    last, before = words[-1], [word for word in words[1:-1] if word]
    candidates = [*COUNTS] if last.startswith("-") else [*VERBS] if not before else []
    for name in candidates:
        if name.startswith(last):
            sys.stdout.write(f"{name}\n")
    sys.stdout.flush()

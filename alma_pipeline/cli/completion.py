"""Tab completion of the console script: Hydra's own, with this project's verbs, flags and node names in front.

`eval "$(alma-pipeline -sc install=bash)"` in the shell; Hydra cannot complete `python -m` (its issue 1957, B28).
"""

import os
import sys

from alma_pipeline.cli.arguments import CONFIGURED, FLAGS, HYDRA_FLAGS, SHORT, VERBS, Flag
from alma_pipeline.errors import UserError
from alma_pipeline.paths import CONF

SHELLS = ("bash", "zsh", "fish")
KEYS = ("groups", "group", "languages", "seed", "stages", "target", "targets", "upstream")
"""Top-level settings that are no group of options."""


def answer(words: list[str]) -> int:
    """Print what the shell asked for. Raises UserError for an unknown shell, and for `python -m`."""
    asked = words[-1]
    action, _, shell = asked.partition("=")
    if action not in ("install", "uninstall", "query") or shell not in SHELLS:
        raise UserError(
            f'-sc {asked}: expected install=SHELL with one of {", ".join(SHELLS)}: eval "$(alma-pipeline -sc install=bash)"'
        )
    if sys.argv[0].endswith(".py"):
        raise UserError("tab completion is for the command alma-pipeline, not for python -m: alma-pipeline -sc install=bash")
    if action == "query" and not _query(os.environ.get("COMP_LINE", "")):
        return 0
    from alma_pipeline.config import load

    return load.ask_hydra(["--shell-completion", asked])


def _query(line: str) -> bool:
    """Print this project's candidates; whether Hydra may know more, and then the line as Hydra wants it."""
    *before, last = line.split(" ")[1:] or [""]
    before = [word for word in before if word]
    for name in candidates(before, last):
        sys.stdout.write(f"{name}\n")
    sys.stdout.flush()
    verb = next((word for word in before if word in VERBS), "run")
    if verb not in CONFIGURED or last.startswith("-") or (before and _taking(before[-1])) or not _may_be_setting(last):
        return False
    os.environ["COMP_LINE"] = " ".join(["alma-pipeline", *settings(before), last])
    os.environ["COMP_POINT"] = str(len(os.environ["COMP_LINE"]))
    return True


def candidates(before: list[str], last: str) -> list[str]:
    """Verbs, flags, and what a flag takes, that go on from `last`."""
    verb = next((word for word in before if word in VERBS), "")
    flag = _taking(before[-1]) if before else None
    if flag:
        known = list(flag.values) or (_nodes() if flag.takes == "NODE" else [])
    elif last.startswith("-"):
        known = [name for name, flag in (FLAGS | HYDRA_FLAGS).items() if not verb or verb in flag.verbs] + ["--help"]
    elif verb in ("show", "export", "compare"):
        known = _nodes()
    else:
        known = [] if verb else list(VERBS)
    return [name for name in known if name.startswith(last)]


def settings(before: list[str]) -> list[str]:
    """`plan --only mono stage=cpo` as Hydra knows it: `stage=cpo`."""
    return [word for word in before if "=" in word and not word.startswith("-")]


def _taking(word: str) -> Flag | None:
    """The flag that takes the word after this one."""
    flag = (FLAGS | HYDRA_FLAGS).get(SHORT.get(word, word))
    return flag if flag and flag.takes else None


def _nodes() -> list[str]:
    return sorted(path.stem for path in (CONF / "node").glob("*.yaml"))


def _may_be_setting(last: str) -> bool:
    """Saves the second that Hydra takes where it can know nothing: `pla` begins no setting."""
    names = [*KEYS, *(path.name for path in CONF.iterdir())]
    return any(name.startswith(last) or last.startswith(name) for name in names)

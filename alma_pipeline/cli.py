"""The command line: verb and flags off, overrides to Hydra, exceptions to exit codes.

0 done; 2 the user's mistake, in one paragraph; 1 a stage failed, with its log's tail; 130 interrupted.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from alma_pipeline.errors import ConfigError, PipelineError, StageFailed, UserError

VERBS = {
    "run": "make the target's checkpoint and its scores exist (the default)",
    "plan": "print what would run and why, with steps, tokens, memory, disk and time",
    "show": "one artifact: record, lineage, scores",
    "doctor": "check the environment and the store; --verify reads every file",
}
FLAGS = {
    "--force": "NODE  make this node again",
    "--from": "NODE  make this node and everything after it again",
    "--only": "NODE  make nothing else",
    "--json": "plan as JSON",
    "--diff": "A B  compare the settings of two artifacts by key or folder name",
    "--verify": "doctor: compare every file with its recorded size and readability",
}
COUNTS = {"--force": 1, "--from": 1, "--only": 1, "--json": 0, "--diff": 2, "--verify": 0}
REPEATED = ("--force", "--from", "--only")


def main() -> int:
    """Entry point of `alma-pipeline` and `python -m alma_pipeline`."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _main(sys.argv[1:])
    except ConfigError as error:
        many = len(error.problems) > 1
        lines = [f"{len(error.problems)} problems:", *(f"  {text}" for text in error.problems)] if many else error.problems
        _say("\n".join(lines))
        return 2
    except UserError as error:
        _say(str(error))
        return 2
    except StageFailed as error:
        _say(f"{error}\n{error.tail}\nlog: {error.log}")
        return 1
    except PipelineError as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        _say("interrupted; the same command goes on from the last resume point")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _say(text: str) -> None:
    from alma_pipeline.redact import redact

    print(f"alma-pipeline: {redact(text)}", file=sys.stderr)


def _main(words: list[str]) -> int:
    from alma_pipeline import completion

    if completion.asked(words):
        return completion.answer(words)
    verb, flags, rest = split(words)
    if verb == "show":
        from alma_pipeline import show

        return show.main(store_root(), rest)
    if verb == "doctor":
        from alma_pipeline import doctor

        return doctor.main(store_root(), verify="--verify" in flags)
    if "--diff" in flags:
        from alma_pipeline import show

        return show.diff(store_root(), *flags["--diff"])
    from alma_pipeline import invocation

    return invocation.main(verb, flags, rest)


def split(words: list[str]) -> tuple[str, dict[str, list[str]], list[str]]:
    """(verb, flags with their arguments, what Hydra gets). Raises UserError for a wrong verb or flag."""
    verb = "run"
    words = list(words)
    if words and "=" not in words[0] and not words[0].startswith(("-", "+", "~")):
        verb = words.pop(0)
        if verb not in VERBS:
            from alma_pipeline.fields import nearest

            raise UserError(f"'{verb}' is no verb; {nearest(verb, list(VERBS))}. An override is GROUP=OPTION or KEY=VALUE")
    flags: dict[str, list[str]] = {}
    rest = []
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if name not in COUNTS:
            rest.append(word)
            continue
        given = [value] if equals else words[: COUNTS[name]]
        if len(given) != COUNTS[name] or any(text.startswith("--") for text in given):
            raise UserError(f"{name} takes {FLAGS[name]}; found {' '.join(given) or 'nothing'}")
        words = words if equals else words[COUNTS[name] :]
        flags[name] = [*flags.get(name, []), *given] if name in REPEATED else given
    return verb, flags, rest


def store_root() -> Path:
    """Where everything a run leaves is kept; `ALMA_PIPELINE_STORE`, else `.alma` in the current folder."""
    return Path(os.environ.get("ALMA_PIPELINE_STORE", ".alma")).expanduser().absolute()


def help_text() -> str:
    """The part of `--help` that Hydra does not know."""
    verbs = "\n".join(f"  {name:8} {text}" for name, text in VERBS.items())
    flags = "\n".join(f"  {name:9} {text}" for name, text in FLAGS.items())
    return f"verbs\n{verbs}\n\nflags\n{flags}"


def _exit_code(value: Any) -> int:
    return int(value or 0)

"""The command line: each verb to the module that does it, exceptions to exit codes.

0 done; 2 the user's mistake, in one paragraph; 1 a stage failed, with its log's tail; 130 interrupted.
"""

import os
import signal
import sys

from alma_pipeline.cli.arguments import Command, parse
from alma_pipeline.errors import ConfigError, PipelineError, StageFailed, UserError
from alma_pipeline.paths import store_root

PIPE_CLOSED = 128 + signal.SIGPIPE
"""What a shell reports of a program whose reader went away."""


def main() -> int:
    """Entry point of `alma-pipeline` and `python -m alma_pipeline`."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = _main(sys.argv[1:])
        sys.stdout.flush()
        return code
    except ConfigError as error:
        many = len(error.problems) > 1
        lines = [f"{len(error.problems)} problems:", *(f"  {text}" for text in error.problems)] if many else error.problems
        return _end(2, "\n".join(lines))
    except UserError as error:
        return _end(2, str(error))
    except StageFailed as error:
        return _end(1, "\n".join(text for text in (str(error), error.tail, f"log: {error.log}") if text))
    except PipelineError as error:
        return _end(1, str(error))
    except KeyboardInterrupt:
        return _end(130, "interrupted; what was finished is kept, and the same command goes on from there")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains at its end
        return PIPE_CLOSED


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _end(code: int, text: str) -> int:
    from alma_pipeline.redact import redact

    print(f"alma-pipeline: {redact(text)}", file=sys.stderr)
    return code


def _main(words: list[str]) -> int:
    if any(word in ("-sc", "--shell-completion") for word in words):
        from alma_pipeline.cli import completion

        return completion.answer(words)
    if any(word in ("-h", "--help", "--version") for word in words):
        from alma_pipeline.cli import help

        return help.answer(words)
    return _carry_out(parse(words))


def _carry_out(command: Command) -> int:
    if command.verb == "show":
        from alma_pipeline.cli import show

        return show.main(store_root(), command.names)
    if command.verb == "doctor":
        from alma_pipeline.cli import doctor

        return doctor.main(store_root(), verify="--verify" in command.flags)
    if command.verb == "adopt":
        from alma_pipeline.cli import adopt

        return adopt.main(command)
    if command.verb == "gc":
        from alma_pipeline.cli import gc

        return gc.main(store_root(), command)
    if command.verb == "export":
        from alma_pipeline.cli import export

        return export.main(store_root(), command)
    if command.verb == "translate":
        from alma_pipeline.cli import translate

        return translate.main(command)
    if command.verb == "compare":
        from alma_pipeline.cli import compare

        return compare.main(store_root(), command.names, command.flags.get("--significance", [""])[-1])
    if command.verb == "report":
        from alma_pipeline.cli import report

        return report.main(store_root(), command)
    if "--diff" in command.flags:
        from alma_pipeline.cli import show

        return show.diff(store_root(), *command.flags["--diff"])
    if "--multirun" in command.flags:
        from alma_pipeline.cli import sweep

        return sweep.main(command)
    from alma_pipeline.cli import run

    return run.main(command)

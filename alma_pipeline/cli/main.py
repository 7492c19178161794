"""Entry point: runs the module named like the verb, and maps exceptions to exit codes.

0 done; 1 a stage failed, with the tail of its log; 2 a user's mistake, in one paragraph; 128 + n ended by signal n.
"""

import contextlib
import importlib
import os
import signal
import sys
from pathlib import Path

from alma_pipeline import disk
from alma_pipeline.cli import interruption
from alma_pipeline.cli.arguments import Arguments, parse
from alma_pipeline.errors import ConfigError, PipelineError, StageFailed, UserError
from alma_pipeline.paths import store_root
from alma_pipeline.streams import prepare_streams
from alma_pipeline.units import size

PIPE_CLOSED = 128 + signal.SIGPIPE
"""The exit code a shell reports for a program whose reader closed the pipe."""


def main() -> int:
    """Entry point of `alma-pipeline` and `python -m alma_pipeline`."""
    interruption.handle_signals()
    prepare_streams()
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
    except KeyboardInterrupt as error:
        code = _end(interruption.exit_code(error), interruption.message(error))
        # Last: Slurm ends this process then.
        if text := interruption.requeue(error):
            _end(code, text)
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains when it exits
        return PIPE_CLOSED
    except OSError as error:
        if not disk.is_full(error):
            raise
        return _end(1, f"{_full_disk(error)}; finished work is kept, and the same command resumes from there")


def _full_disk(error: OSError) -> str:
    """What is full: the disk of the file that the error names, such as --output's, else the store's, else that of the output."""
    folder = Path(error.filename).parent if error.filename else disk.fullest(store_root())
    if not error.filename and disk.free_bytes(folder) > disk.NOTHING_BYTES:
        return f"no space left on the disk of the output (the store's has {size(disk.free_bytes(store_root()))} free)"
    return disk.no_space(folder)


def _end(code: int, text: str) -> int:
    from alma_pipeline.redact import redact

    with contextlib.suppress(OSError):  # the terminal is gone, or the disk of the log is full
        print(f"alma-pipeline: {redact(text)}", file=sys.stderr)
    return code


def _main(words: list[str]) -> int:
    if "-sc" in words or "--shell-completion" in words:
        from alma_pipeline.cli import completion

        return completion.answer(words)
    try:
        arguments = parse(words)
    except SystemExit:  # --help and --version have printed
        return 0
    if any(getattr(arguments, name, None) for name in ("cfg", "info", "hydra_help")):
        return _ask_hydra(arguments)
    verb = importlib.import_module(f"alma_pipeline.cli.{arguments.verb}")
    code: int = verb.main(arguments)
    _note_undelivered(arguments.verb)
    return code


def _note_undelivered(verb: str) -> None:
    """Name on standard error the MLflow servers that records in the store wait for; `doctor` lists them itself."""
    root = store_root()
    if verb != "doctor" and any((root / "tracking").glob("*.jsonl")):
        from alma_pipeline.tracking import undelivered

        for line in undelivered.waiting_lines(root):
            print(f"alma-pipeline: {line}", file=sys.stderr)


def _ask_hydra(arguments: Arguments) -> int:
    """`--cfg`, `--info` and `--hydra-help`, which Hydra answers itself, whatever the verb."""
    from alma_pipeline.cli import session
    from alma_pipeline.config import load

    if arguments.cfg:
        words = ["--cfg", arguments.cfg]
        words += ["--resolve"] if arguments.resolve else []
        words += ["--package", arguments.package] if arguments.package else []
    else:
        words = ["--info", arguments.info] if arguments.info else ["--hydra-help"]
    return load.ask_hydra([*words, *session.overrides(arguments)])

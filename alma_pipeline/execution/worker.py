"""One rank of one node: reads the job, runs the stage, writes the result. Never imports Hydra or MLflow.

python alma_pipeline/start.py alma_pipeline.execution.worker WORK_FOLDER TOKEN        (as torchrun, srun or DeepSpeed start it)
"""

import contextlib
import importlib
import os
import socket
import sys
import traceback
from pathlib import Path

from alma_pipeline import disk
from alma_pipeline.errors import UserError
from alma_pipeline.execution import energy
from alma_pipeline.execution.guard import Guard, wait_for_first
from alma_pipeline.files import sync_tree, write_json
from alma_pipeline.job import Again, read_job

EXIT_USER_ERROR = 2
EXIT_FAILURE = 1
EXIT_AGAIN = 4
"""It ended without a result and continues where it is started again; `again-<rank>.json` has the reason."""
RESERVE_BYTES = 65_536
"""Space that a worker keeps on the disk, so that it can still write down why it failed when the disk is full."""


def main(work: Path, token: str) -> int:
    """Run the job in `work` as long as `token` is its owner's, and return the exit code."""
    if not (work / "owner.json").exists():
        host = socket.gethostname()
        print(f"{work} does not exist on {host}; the store must be on a disk that all machines share", file=sys.stderr)
        return EXIT_USER_ERROR
    # Libraries that write to the current folder must not write to the user's.
    os.chdir(work)
    rank = int(os.environ.get("RANK", "0"))
    guard = Guard(work, token, rank)
    reserve = work / f"reserve-{rank}"
    try:
        reserve.write_bytes(bytes(RESERVE_BYTES))
        job = read_job(work / "job.json")
        job.out.mkdir(exist_ok=True)
        if rank == 0:
            job.given.verify()
        meter = energy.start_meter(job)
        # By name: a worker imports only its own kind and the libraries which that needs.
        result = importlib.import_module(f"stages.{job.config.kind}.run").run(job)
        if rank == 0:
            job.given.check_unchanged()
            sync_tree(job.out)  # a result promises that the files are on disk, even after a power cut
            write_json(work / "result.json", result | meter.stop())
        else:
            wait_for_first(work)
        return 0
    except Again as again:
        reserve.unlink(missing_ok=True)
        write_json(
            work / f"again-{rank}.json",
            {"reason": str(again), "signal": again.signal, "micro_batch_tokens": again.micro_batch_tokens},
        )
        print(again, file=sys.stderr)
        return EXIT_AGAIN
    except UserError as error:
        reserve.unlink(missing_ok=True)
        if rank == 0:
            write_json(work / "error.json", {"message": str(error)})
        print(error, file=sys.stderr)
        return EXIT_USER_ERROR
    except Exception:
        _report_failure(work, rank, reserve)
        return EXIT_FAILURE
    finally:
        with contextlib.suppress(OSError):  # a full disk
            reserve.unlink(missing_ok=True)
            sys.stdout.flush()
            sys.stderr.flush()
        guard.release()


def _report_failure(work: Path, rank: int, reserve: Path) -> None:
    """Write the traceback of the exception in flight; on a full disk into the space of `reserve`, with the folder's name."""
    text = traceback.format_exc()
    if disk.FULL.search(text):
        text += f"{disk.no_space(disk.fullest(work.parent.parent))}\n"
    with contextlib.suppress(OSError):  # a full disk, which the parent then measures itself
        reserve.unlink(missing_ok=True)
        # In its own file: in the log, the launcher's messages follow the traceback.
        (work / f"failed-{rank}.txt").write_text(text, encoding="utf-8")
        print(text, file=sys.stderr, end="", flush=True)


if __name__ == "__main__":
    # Exit without Python's shutdown, like a forked worker: libraries with threads can abort during it, and the result is
    # already on disk.
    os._exit(main(Path(sys.argv[1]), sys.argv[2]))

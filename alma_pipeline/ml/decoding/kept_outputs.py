"""Outputs of decoding kept as they are finished, so that a run that was killed goes on with the prompts that are left.

An output depends on its prompt's index and not on its batch, so a run that goes on leaves what an undisturbed one would,
up to rounding in the model's own arithmetic.
"""

import json
from pathlib import Path

from alma_pipeline.job import Job
from alma_pipeline.ml.decoding.search import Results
from alma_pipeline.ml.distributed import from_first


class KeptOutputs:
    """Outputs of one set of prompts in a job's resume folder: one JSON line a prompt, a file for each process."""

    def __init__(self, job: Job, name: str) -> None:
        """All of the job's processes must make it together: they agree on what was found."""
        self.path = job.resume / f"{name}.{job.rank}.jsonl"
        self.found: Results = from_first(_read(job.resume, name) if job.rank == 0 else {})
        if self.path.exists():
            _drop_torn_line(self.path)

    def add(self, finished: Results) -> None:
        """Keep these too; what is written outlives the process."""
        self.path.parent.mkdir(exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.writelines(json.dumps([index, outputs]) + "\n" for index, outputs in finished.items())


def _read(folder: Path, name: str) -> Results:
    """What all processes left, also if they were more than there are now."""
    found: Results = {}
    for path in sorted(folder.glob(f"{name}.*.jsonl")):
        with open(path, encoding="utf-8") as file:
            found |= {index: outputs for line in file if line.endswith("\n") for index, outputs in [json.loads(line)]}
    return found


def _drop_torn_line(path: Path) -> None:
    """Cut off a last line whose writer was killed in the middle of it: the next one must not be joined to it."""
    with open(path, "rb+") as file:
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)

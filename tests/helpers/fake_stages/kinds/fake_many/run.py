"""As `fake`; ranks above 0 write down that they were there, and take as long as a step."""

import time
from typing import Any

from stages.fake import run as fake

from alma_pipeline.job import Job


def run(job: Job) -> dict[str, Any]:
    if job.rank == 0:
        result: dict[str, Any] = fake.run(job)
        return result
    fake.note(job, f"rank {job.rank}")
    time.sleep(fake.orders(job).get("pause", 0.0))
    return {}

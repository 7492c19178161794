"""Where the recipe stopped itself: training that diverged from its parent, and rounds that no longer helped."""

import re
from collections.abc import Iterator

from alma_pipeline.plan import rounds
from alma_pipeline.plan.plan import Step
from alma_pipeline.redact import redact
from alma_pipeline.report.jobs import Job
from alma_pipeline.store.store import Store

FIRED = re.compile(r"^\S*Diverged: (.+)$", re.MULTILINE)
"""The last line of the traceback that a worker leaves."""


def stops(jobs: list[Job], store: Store) -> list[str]:
    """A sentence for each node of the recipe, of all jobs once."""
    found = [text for job in jobs for step in job.plan.steps for text in _stop(step, store)]
    return list(dict.fromkeys(found))


def _stop(step: Step, store: Store) -> Iterator[str]:
    if step.reason.startswith(rounds.STOPPED):
        yield f"{step.node.name}: {step.reason}"
    if step.record is not None:
        return
    for path in sorted(store.work_path(step.node.name, step.key).glob("failed-*.txt")):
        fired = FIRED.findall(redact(path.read_text(encoding="utf-8", errors="replace")))
        if fired:
            yield f"{step.node.name} diverged and was stopped: {fired[-1]}"
            return  # all ranks say the same

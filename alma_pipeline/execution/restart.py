"""Whether a worker that ended without a result is started again, with which settings, and whether that gets a node further.

<work>/again-<rank>.json   why a rank ended, by the worker
<work>/lowered.json        the token budgets that were too large for the device; kept until the artifact is complete
"""

import dataclasses
import json
import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alma_pipeline.job import Job
from alma_pipeline.schema import Hardware
from alma_pipeline.store.store import Store

LOST_ALLOCATION = re.compile(r"CANCELLED AT \S+ DUE TO (TIME LIMIT|PREEMPTION|NODE FAILURE)")
"""What srun writes when Slurm, and not a person, ended its allocation (Slurm 22.05, slurmstepd)."""
Position = tuple[int, int]
"""How far an unfinished node is: the step of its newest resume point, and the bytes of its finished outputs."""


@dataclass(frozen=True)
class Restart:
    """A worker ended, and another one continues."""

    reason: str
    micro_batch_tokens: int = 0
    """Of the next start, if the device ran out of memory; else 0."""
    for_good: bool = False
    """SIGTERM from elsewhere, such as scancel, ended it: another one starts only when the command is repeated."""


def wanted(job: Job, log: str) -> Restart | None:
    """What the worker of a job left behind; None if it failed. `log`: what it and its launcher wrote since they were started."""
    by_slurm = job.hardware.launcher == "slurm" and job.config.distributed
    lost = LOST_ALLOCATION.search(log) if by_slurm else None
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path(job.work).glob("again-*.json"))]
    if lost:
        return Restart(f"its allocation was ended by Slurm ({lost[1].lower()})")
    if lowered := [one for one in found if one["micro_batch_tokens"]]:
        return Restart(lowered[0]["reason"], lowered[0]["micro_batch_tokens"])
    if not found:
        return None
    # A rank that a signal reached knows more than those that only heard of it.
    first = max(found, key=lambda one: int(one["signal"]))
    return Restart(first["reason"], for_good=first["signal"] == signal.SIGTERM)


def position(store: Store, name: str, key: str) -> Position:
    """How far an unfinished node is; a larger one is further."""
    point = store.resume_point(name, key)
    outputs = (store.work_path(name, key) / "resume").glob("*.jsonl")
    return int(point["step"]) if point else 0, sum(path.stat().st_size for path in outputs)


def in_words(at: Position) -> str:
    """`from step 40`: from where the node continues."""
    if at[0]:
        return f"from step {at[0]:,}"
    return "with the remaining sentences" if at[1] else "from the beginning"


def no_progress(hardware: Hardware, config: Any, restart: Restart, at: Position) -> str:
    """The reason for an error: the last start got the node no further."""
    where = f"{restart.reason}, before it got further than where it had started ({in_words(at)})"
    if hardware.launcher != "slurm" or "preemption" in where or "node failure" in where:
        return f"{where}; the same command tries again"
    need = "one step, an evaluation and a resume point" if config.saves_on_notice else "one batch of this stage"
    return f"{where}; raise hardware.time_limit={hardware.time_limit}: too short for {need}"


def remember_budget(work: Path, found: int, lowered: int) -> None:
    """Note that a token budget was too large, for later starts and for the record."""
    values = [*_noted(work), {"found": found, "lowered": lowered}]
    (work / "lowered.json").write_text(json.dumps(values), encoding="utf-8")


def lowered_hardware(work: Path, hardware: Hardware) -> Hardware:
    """The hardware with the budget that earlier starts came down to from this one; as it is if none of them had this setting."""
    lowered, tokens = {one["found"]: one["lowered"] for one in _noted(work)}, hardware.micro_batch_tokens
    while tokens in lowered:
        tokens = lowered[tokens]
    return dataclasses.replace(hardware, micro_batch_tokens=tokens)


def provenance(work: Path) -> dict[str, str]:
    """For the record: `lowered`, a sentence with the budgets that were tried; empty if the device had enough memory."""
    if not (noted := _noted(work)):
        return {}
    budgets = " → ".join(dict.fromkeys(str(value) for one in noted for value in (one["found"], one["lowered"])))
    return {"lowered": f"the device ran out of memory: hardware.micro_batch_tokens {budgets}"}


def _noted(work: Path) -> list[dict[str, int]]:
    path = work / "lowered.json"
    values: list[dict[str, int]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return values

"""Whether a plan fits on the disk of the store, to which it writes everything.

Sizes come from the estimates, so text and scores are not counted. A model that the hub's cache has already is not either.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from alma_pipeline import disk
from alma_pipeline.errors import UserError
from alma_pipeline.plan.estimates.estimate import checkpoint_bytes
from alma_pipeline.plan.estimates.model_size import parameters
from alma_pipeline.plan.plan import Plan
from alma_pipeline.plan.step import Step
from alma_pipeline.schema import PRECISION_BYTES, Config, Decoding, Training
from alma_pipeline.store.store import Store
from alma_pipeline.units import size

ADVICE = "free some (`alma-pipeline gc` lists what the store can spare), or set ALMA_PIPELINE_STORE to a folder on a larger disk"


def check(plan: Plan, config: Config, store: Store) -> None:
    """Raise UserError if the plan does not fit."""
    if problems := shortages(plan, config, store):
        raise UserError("\n".join([*problems, ADVICE]))


def shortages(plan: Plan, config: Config, store: Store) -> list[str]:
    """A sentence if the store's disk has less space than the plan needs; else nothing."""
    kept, resume_points = store_bytes(plan.work, config, store)
    merged = max(_merged_bytes(plan, config), default=0)
    temporary, what = max((resume_points, "resume points"), (merged, "a merged model"))
    free = disk.free_bytes(store.root)
    if kept + temporary <= free:
        return []
    while_running = f", of which {size(temporary)} while nodes run, for {what}" if temporary else ""
    return [f"{_shortage(store.root, free, kept + temporary)}{while_running}"]


def node_shortage(step: Step, store: Store) -> str:
    """As `shortages`, for one node that is about to run; empty if there is enough."""
    free, needed = disk.free_bytes(store.root), sum(node_bytes(step, store))
    return f"{step.node.name}: {_shortage(store.root, free, needed)}" if needed > free else ""


def _shortage(folder: Path, free: int, needed: int) -> str:
    return f"not enough space on {folder}: {size(free)} free, about {size(needed)} needed"


def store_bytes(steps: Sequence[Step], config: Config, store: Store) -> tuple[int, int]:
    """Bytes that steps add to the store: what stays, and the most that their work folders hold besides at any one time."""
    nodes = [node_bytes(step, store) for step in steps]
    adopted = [
        checkpoint_bytes(step.node.config, config.model)
        for step in steps
        if step.verdict == "adopt" and isinstance(step.node.config, Training) and not _is_cached(step)
    ]
    at_once = sorted(temporary for _, temporary in nodes)[-config.hardware.max_parallel_nodes :]
    return sum(kept for kept, _ in nodes) + sum(adopted), sum(at_once)


def node_bytes(step: Step, store: Store) -> tuple[int, int]:
    """Bytes that a node adds to the store: its artifact, and what its work folder holds besides while it runs; 0 if unknown."""
    if step.estimate is None or _is_cached(step):
        return 0, 0
    # What an earlier attempt left is on the disk already.
    left = _left_bytes(store.work_path(step.node.name, step.key))
    return step.estimate.disk_bytes, max(0, step.estimate.work_bytes - left)


def _is_cached(step: Step) -> bool:
    """Whether the step takes a published model that was downloaded before."""
    own: Any = step.node.config
    repo = step.released.repo if step.released else own.repo if step.node.kind == "base" and own.source == "hub" else None
    return bool(repo) and disk.is_in_hub_cache(str(repo))


def _left_bytes(work: Path) -> int:
    """Bytes of the resume points and of the best checkpoints so far."""
    found = [path for pattern in ("resume/**/*", "best-*/**/*") for path in work.glob(pattern)]
    return sum(path.stat().st_size for path in found if path.is_file())


def _merged_bytes(plan: Plan, config: Config) -> Iterator[int]:
    """Bytes of each model that is merged into a node's work folder; an adapter that vLLM serves unmerged counts too."""
    for step in plan.work:
        own: Any = step.node.config
        makers = [plan[name].node.config for name in step.inputs.values()]
        decodes_merged = isinstance(own, Decoding) and own.quantization == "none" and any(map(_makes_adapter, makers))
        if decodes_merged or (isinstance(own, Training) and own.adapter == "merge_then_new"):
            yield parameters(config.model.architecture) * PRECISION_BYTES[own.precision]


def _makes_adapter(config: object) -> bool:
    return isinstance(config, Training) and config.adapter != "none"

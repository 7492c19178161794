"""What a run would make again because a finished artifact has lost files: named with its cost, refused where that is long.

Decides nothing about artifacts that are whole, and reads no file.
"""

from alma_pipeline.errors import UserError
from alma_pipeline.plan.plan import Plan
from alma_pipeline.plan.step import Cause, Step
from alma_pipeline.schema import Training
from alma_pipeline.units import rough_duration

MAX_SECONDS = 600.0
"""What takes longer than this is made again on request only (our choice)."""


def made_again(plan: Plan) -> list[str]:
    """A sentence for each node that runs because its artifact is incomplete.

    Raises UserError for those that take long, and for adopted checkpoints, which training would replace by another one.
    """
    steps = [step for step in plan.work if step.cause is Cause.INCOMPLETE]
    if refused := [_refusal(step) for step in steps if step.requested_key or _is_long(step)]:
        raise UserError("\n".join(refused))
    return [f"{step.node.name} is made again{_cost(step)}: {step.reason}" for step in steps]


def _is_long(step: Step) -> bool:
    """Whether making it again is known to take long; for training also whether that is unknown."""
    seconds = step.estimate.seconds if step.estimate else 0.0
    return seconds > MAX_SECONDS or (isinstance(step.node.config, Training) and not seconds)


def _refusal(step: Step) -> str:
    name = step.node.name
    if step.requested_key:
        return f"{name}: {step.reason}. Adopt it again, as in alma-pipeline adopt {name} SOURCE; --force {name} trains it instead"
    return f"{name}: {step.reason}. Restore the file, or make {name} again{_cost(step)} with --force {name}"


def _cost(step: Step) -> str:
    return f" (about {rough_duration(step.estimate.seconds)})" if step.estimate and step.estimate.seconds else ""

"""Findings of a finished recipe: sentences with numbers computed from its records. Interprets nothing."""

from collections.abc import Iterator
from typing import Any

from alma_pipeline.plan.plan import Plan
from alma_pipeline.store.record import Record


def findings(plan: Plan, records: dict[str, Record]) -> list[str]:
    """The comparisons that the recipe is designed for; each only if this plan has both sides of it."""
    return [
        *_bits(plan, records),
        *_controls(plan, records),
        *_own_group(plan, records),
        *_preferences(plan, records),
    ]


def terminal_lines(plan: Plan, records: dict[str, Record]) -> Iterator[str]:
    """The findings for a terminal, indented below a heading; nothing if there are none."""
    if found := findings(plan, records):
        yield "\nwhat the stages did"
        yield from (f"  {text}" for text in found)


def _bits(plan: Plan, records: dict[str, Record]) -> Iterator[str]:
    """Change in held-out bits per byte by monolingual training."""
    for step in plan.steps:
        result = _result(records, step.node.name)
        before, after = (result.get(side, {}).get("bits_per_byte") for side in ("before", "after"))
        if step.node.kind in ("mono", "group_adapter") and before and after:
            change = 100 * (after - before) / before
            yield f"{step.node.name}: held-out bits per byte {before:.3f} → {after:.3f} ({change:+.0f} %)"


def _controls(plan: Plan, records: dict[str, Record]) -> Iterator[str]:
    """Parallel fine-tuning from the base model compared with the same fine-tuning from a trained checkpoint."""
    parallel = [step.node for step in plan.steps if step.node.kind == "parallel" and step.node.group is None]
    for control in parallel:
        if control.inputs.get("init") != "base":
            continue
        for node in parallel:
            ours, theirs = _mean(records, node.name), _mean(records, control.name)
            if node is not control and ours is not None and theirs is not None:
                yield (
                    f"{node.name} (from {node.inputs['init']}) vs. {control.name} (from base), equal steps: "
                    f"chrF++ {ours:.1f} vs. {theirs:.1f}"
                )


def _own_group(plan: Plan, records: dict[str, Record]) -> Iterator[str]:
    """Each group's adapter compared with the other groups' adapters, on its own directions."""
    nodes = [step.node for step in plan.steps if step.node.kind == "parallel" and step.node.group is not None]
    for node in nodes:
        own = _directions(plan, node.group or 0)
        ours = _mean(records, node.name, own)
        for other in nodes:
            theirs = _mean(records, other.name, own)
            if other is not node and ours is not None and theirs is not None:
                yield (
                    f"directions of group {node.group}: chrF++ {ours:.1f} with its own adapter, "
                    f"{theirs:.1f} with that of group {other.group}"
                )


def _preferences(plan: Plan, records: dict[str, Record]) -> Iterator[str]:
    """Change in held-out preference accuracy and margin, and in chrF++ if both the node and its parent are scored."""
    for step in plan.steps:
        result = _result(records, step.node.name)
        before, after = result.get("before", {}), result.get("after", {})
        # Only preference kinds measure these, before and after training.
        if "rewards/accuracies" not in before or "rewards/accuracies" not in after:
            continue
        parent = step.node.inputs["init"]
        text = (
            f"{step.node.name}: held-out preference accuracy {100 * before['rewards/accuracies']:.0f} % → "
            f"{100 * after['rewards/accuracies']:.0f} %, mean margin of log-probabilities "
            f"{before['logps/margins']:.2f} → {after['logps/margins']:.2f}"
        )
        # A group's adapter is compared with its parent on the group's own directions.
        directions = _directions(plan, step.node.group) if step.node.group is not None else None
        old = _mean(records, parent, directions)
        new = _mean(records, step.node.name, directions)
        yield f"{text}, chrF++ {old:.1f} → {new:.1f}" if old is not None and new is not None else text


def _result(records: dict[str, Record], name: str) -> dict[str, Any]:
    return records[name].result if name in records else {}


def _directions(plan: Plan, group: int) -> set[str]:
    """The directions that a group's adapter is trained on: those of its corpora."""
    corpora = [step.node for step in plan.steps if step.node.group == group and step.node.kind == "corpus"]
    codes = {code for node in corpora for code in getattr(node.config, "languages", {})} - {"en"}
    return {direction for code in codes for direction in (f"{code}-en", f"en-{code}")}


def _mean(records: dict[str, Record], name: str, directions: set[str] | None = None) -> float | None:
    """A checkpoint's mean chrF++ over these directions, by default all; None if it is scored on none of them."""
    scores = _result(records, f"{name}.score").get("directions", {})
    chosen = [value["chrf++"] for key, value in scores.items() if directions is None or key in directions]
    return sum(chosen) / len(chosen) if chosen else None

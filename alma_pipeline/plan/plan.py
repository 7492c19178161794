"""What will happen and why: every node with its key, a verdict and a reason. Imports no torch, writes nothing."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from alma_pipeline import errors
from alma_pipeline.errors import ConfigError
from alma_pipeline.files import Digests
from alma_pipeline.plan import released, rounds
from alma_pipeline.plan.corpus_size import counts
from alma_pipeline.plan.estimate import Estimate, estimate
from alma_pipeline.plan.graph import build
from alma_pipeline.plan.node import Node, is_training
from alma_pipeline.plan.pins import pinned
from alma_pipeline.plan.reasons import because
from alma_pipeline.plan.step import Forced, Step
from alma_pipeline.plan.text_files import with_files
from alma_pipeline.schema import Config
from alma_pipeline.store.identity import differences, key_of, payload, settings
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store


@dataclass(frozen=True)
class Plan:
    """Every node that the targets need, in an order in which inputs come first."""

    steps: list[Step]

    def __getitem__(self, name: str) -> Step:
        return next(step for step in self.steps if step.node.name == name)

    @property
    def work(self) -> list[Step]:
        """Steps that run something, in order."""
        return [step for step in self.steps if step.works]


def make_plan(config: Config, store: Store, forced: Forced | None = None) -> Plan:
    """Resolve the targets of a configuration against a store. Raises ConfigError."""
    nodes = pinned(with_files(build(config), config, Digests(store.root / "digests.json")), store)
    forced = forced or Forced()
    _check_names(nodes, forced)
    draft: dict[str, Step] = {}
    for node in nodes:
        draft[node.name] = _unless_stopped(_resolve(node, draft, config, store, forced), draft)
    needed = _needed(draft, forced)
    problems = [text for step in draft.values() if step.node.name in needed for text in _resume_problems(step, config, store)]
    if problems:
        raise ConfigError(problems)
    steps = []
    for step in draft.values():
        if step.works and step.node.name not in needed:
            step = dataclasses.replace(step, verdict="unneeded", reason="what it leads to exists, or is not asked for")
        steps.append(dataclasses.replace(step, estimate=_estimate(step, draft, config)))
    return Plan(steps)


def _check_names(nodes: list[Node], forced: Forced) -> None:
    known = [node.name for node in nodes]
    wrong = [
        f"--{flag} {name}: no such node in this plan; {errors.nearest(name, known)}"
        for flag, names in (("force", forced.force), ("from", forced.since), ("only", forced.only))
        for name in names
        if name not in known
    ]
    if wrong:
        raise ConfigError(wrong)


def _resolve(node: Node, draft: dict[str, Step], config: Config, store: Store, forced: Forced) -> Step:
    inputs = {role: draft[source].key for role, source in node.inputs.items()}
    content = payload(node.config, inputs)
    key = key_of(content)
    refusal = ""
    entry = config.model.released.get(node.name)
    fresh = _is_forced(node, draft, forced)
    record = store.find(key)
    if record is not None and record.alias_of and not fresh:  # what somebody adopted comes before what was published
        record = store.find(record.alias_of)
        if record is not None:  # its own key, so that lineage never claims training that did not happen
            source = record.result.get("repo") or record.path.name
            return Step(node, record.key, record.payload, "reuse", f"adopted: {source}", record, None, requested_key=key)
    if entry and not fresh:
        refusal = released.why_not(node, draft, config, entry)
        if not refusal:
            return released.adopted(node, key, entry, draft, store)
    step = Step(node, key, content, "reuse", "", record, None, fresh=fresh)
    reason = _why_run(node, draft, store, content, forced, record)
    if reason is None:
        return step
    point = store.resume_point(node.name, key)
    if point and record is None and not fresh:
        return dataclasses.replace(step, verdict="resume", reason=f"from step {point['step']:,}")
    return dataclasses.replace(step, verdict="run", reason=refusal or reason)


def _unless_stopped(step: Step, draft: dict[str, Step]) -> Step:
    """Not a further round of preferences where an earlier one made the checkpoint worse."""
    sources = [draft[name] for name in step.node.inputs.values()] if step.works else []
    fell = [rounds.stopped(source.record.result) for source in sources if source.record and not source.works]
    reason = max([*fell, *(source.reason for source in sources if source.reason.startswith(rounds.STOPPED))], default="")
    return dataclasses.replace(step, verdict="unneeded", reason=reason) if reason else step


def _is_forced(node: Node, draft: dict[str, Step], forced: Forced) -> bool:
    if node.name in forced.force or node.name in forced.since:
        return True
    return any(draft[source].reason.startswith("--from") for source in node.inputs.values())


def _resume_problems(step: Step, config: Config, store: Store) -> list[str]:
    """Why a resume point cannot be taken up: its state was cut up for another set of processes (B1, B3)."""
    point = store.resume_point(step.node.name, step.key) if step.verdict == "resume" else None
    there = point.get("topology", {}) if point else {}
    hardware, distributed = config.hardware, step.node.config.distributed
    here = {"processes": hardware.world if distributed else 1, "zero_stage": hardware.zero_stage}
    changed = [f"{name} {there[name]}, now {value}" for name, value in here.items() if there.get(name, value) != value]
    if not changed:
        return []
    return [
        f"{step.node.name} can go on {step.reason} only with the hardware it was left with: found {', '.join(changed)}. Set "
        f"hardware.devices x hardware.nodes and hardware.zero_stage as they were, or start it again with --force {step.node.name}"
    ]


def _why_run(
    node: Node, draft: dict[str, Step], store: Store, content: dict[str, Any], forced: Forced, record: Record | None
) -> str | None:
    """The reason to make a node, in words; None when its artifact serves."""
    if node.name in forced.force:
        return "--force"
    if node.name in forced.since:
        return f"--from {node.name}"
    after = [source for source in node.inputs.values() if draft[source].reason.startswith("--from")]
    if after:
        return draft[after[0]].reason
    if record is not None:
        return None
    earlier = store.named(node.name)
    if not earlier:
        return "new"
    alike = [other for other in earlier if other.payload["kind"] == content["kind"]] or earlier
    return because(node, min(alike, key=lambda other: _distance(other.payload, content)).payload, content)


def _distance(old: Mapping[str, Any], new: Mapping[str, Any]) -> int:
    return len(differences(old["config"], new["config"])) + len(differences(old["inputs"], new["inputs"]))


def _needed(draft: dict[str, Step], forced: Forced) -> set[str]:
    """Nodes that must be there: asked for themselves, or read by one that runs."""
    if forced.only:
        return set(forced.only)
    sources = {source for step in draft.values() for source in step.node.inputs.values()}
    wanted = {name for name, step in draft.items() if step.node.target or name not in sources}
    wanted |= {name for name, step in draft.items() if step.works and step.reason.startswith(("--force", "--from"))}
    needed: set[str] = set()
    frontier = list(wanted)
    while frontier:
        name = frontier.pop()
        if name in needed:
            continue
        needed.add(name)
        if draft[name].works:
            frontier += draft[name].inputs.values()
    return needed


def _estimate(step: Step, draft: dict[str, Step], config: Config) -> Estimate | None:
    if not step.works or step.verdict == "adopt":
        return None
    sources = {role: (draft[name].node.config, draft[name].record) for role, name in step.node.inputs.items()}
    found = counts(step.node.config, sources, config.data.expected)
    return estimate(step.node.kind, step.node.config, config.model, config.hardware, found)


def to_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain values, for `--json` and for the tracking artifact."""
    return {
        "steps": [
            {
                "node": step.node.name,
                "kind": step.node.kind,
                "key": step.key,
                "verdict": step.verdict,
                "reason": step.reason,
                "inputs": step.inputs,
                "settings": settings(step.node.config),
                "estimate": dataclasses.asdict(step.estimate) if step.estimate else None,
                "path": str(step.record.path) if step.record else None,
            }
            for step in plan.steps
        ]
    }


__all__ = ["Forced", "Plan", "Step", "is_training", "make_plan", "to_json"]

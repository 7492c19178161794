"""What will happen and why: every node with its key, a verdict and a reason. Imports no torch, writes nothing."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from alma_pipeline import fields
from alma_pipeline.counts import counts
from alma_pipeline.errors import ConfigError
from alma_pipeline.estimate import Estimate, estimate
from alma_pipeline.identity import differences, flatten, key_of, payload, settings
from alma_pipeline.recipe import Node, build, is_training
from alma_pipeline.schema import Config, Released
from alma_pipeline.store import Record, Store

NOT_COMPARED = ("languages", "seed")
"""A published checkpoint has the seed it has, and serves any of its languages."""


@dataclass(frozen=True)
class Forced:
    """What the command line wants made again."""

    force: tuple[str, ...] = ()
    since: tuple[str, ...] = ()
    only: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """A node and what becomes of it."""

    node: Node
    key: str
    """Of the artifact that serves the node: an adopted one's own key."""
    payload: dict[str, Any]
    verdict: str
    """reuse | adopt | resume | run | unneeded"""
    reason: str
    record: Record | None
    estimate: Estimate | None
    released: Released | None = None
    requested_key: str = ""
    """Of an adopted node: the key it would have if it were trained here."""
    fresh: bool = False
    """Asked for again: what an unfinished attempt left does not count."""

    @property
    def works(self) -> bool:
        return self.verdict in ("adopt", "resume", "run")


@dataclass(frozen=True)
class Plan:
    steps: list[Step]

    def __getitem__(self, name: str) -> Step:
        return next(step for step in self.steps if step.node.name == name)

    @property
    def work(self) -> list[Step]:
        """Steps that run something, in order."""
        return [step for step in self.steps if step.works]


def make_plan(config: Config, store: Store, forced: Forced | None = None) -> Plan:
    """Resolve the targets of a configuration against a store. Raises ConfigError."""
    nodes = build(config)
    forced = forced or Forced()
    _check_names(nodes, forced)
    draft: dict[str, Step] = {}
    for node in nodes:
        draft[node.name] = _resolve(node, draft, config, store, forced)
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
        f"--{flag} {name}: no such node in this plan; {fields.nearest(name, known)}"
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
    released = config.model.released.get(node.name)
    fresh = _is_forced(node, draft, forced)
    if released and not fresh:
        refusal = _why_not_adopted(node, draft, config, released)
        if not refusal:
            return _adopted(node, key, content, released, store)
    record = store.find(key)
    step = Step(node, key, content, "reuse", "", record, None, fresh=fresh)
    reason = _why_run(node, draft, store, content, forced, record)
    if reason is None:
        return step
    point = store.resume_point(node.name, key)
    if point and record is None and not fresh:
        return dataclasses.replace(step, verdict="resume", reason=f"from step {point['step']:,}")
    return dataclasses.replace(step, verdict="run", reason=refusal or reason)


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


def because(node: Node, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What differs from an earlier artifact of the same name: `because stages.cpo.beta 0.1 → 0.2`."""
    if old["kind"] != new["kind"]:
        return f"because its earlier artifact is of kind {old['kind']}, now {new['kind']}"
    texts = [f"{node.setting}.{name} {_short(a)} → {_short(b)}" for name, a, b in differences(old["config"], new["config"])]
    changed = [role for role, _, _ in differences(old["inputs"], new["inputs"])]
    texts += [f"its {role} ({node.inputs.get(role, 'none')}) is another" for role in changed]
    if old["version"] != new["version"]:
        texts.append(f"version of {node.kind} {old['version']} → {new['version']}")
    shown = texts[:3] + ([f"{len(texts) - 3} more"] if len(texts) > 3 else [])
    return f"because {', '.join(shown)}" if texts else "its earlier artifact is not whole"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _why_not_adopted(node: Node, draft: dict[str, Step], config: Config, released: Released) -> str:
    """Empty when the released checkpoint serves; else the reason it does not."""
    policy = config.target if node.target else config.upstream
    if policy == "train":
        return f"{'target' if node.target else 'upstream'}=train (released: {released.repo})"
    for name in _deciding(node, draft, config):
        ours = _comparable(settings(draft[name].node.config if name in draft else node.config))
        theirs = released.config.get(name.rpartition(".")[2])
        if theirs is None:
            return f"because {released.repo} states no settings for {name}"
        changed = differences(_comparable(theirs), ours)
        if changed:
            where = (draft[name].node if name in draft else node).setting
            texts = ", ".join(f"{where}.{key} {_short(a)} → {_short(b)}" for key, a, b in changed[:3])
            return f"because {texts} (released: {released.repo})"
        spoken = set(getattr((draft[name].node if name in draft else node).config, "languages", {})) - {"en"}
        missing = sorted(spoken - set(released.languages))
        if missing:
            return f"because {released.repo} was not trained on {', '.join(missing)}"
    return ""


def _comparable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Null counts as left out: a model option states only what a release sets."""
    flat = flatten(values)
    return {name: value for name, value in flat.items() if value is not None and name.split(".")[0] not in NOT_COMPARED}


def _deciding(node: Node, draft: dict[str, Step], config: Config) -> list[str]:
    """The node and the nodes before it, up to those that are adopted themselves or are the untrained base."""
    found = [node.name]
    frontier = list(node.inputs.values())
    while frontier:
        name = frontier.pop(0)
        step = draft[name]
        if name in found or step.verdict == "adopt" or step.released or step.node.kind == "base":
            continue
        found.append(name)
        frontier += step.node.inputs.values()
    return found


def _adopted(node: Node, requested: str, content: dict[str, Any], released: Released, store: Store) -> Step:
    """Under the published checkpoint's own key, so that lineage never claims training that did not happen."""
    own = {"kind": "released", "version": 1, "config": {"repo": released.repo, "revision": released.revision}, "inputs": {}}
    key = key_of(own)
    record = store.find(key)
    verdict = "reuse" if record else "adopt"
    reason = f"{released.repo}@{released.revision[:12]}"
    return Step(node, key, own, verdict, reason, record, None, released, requested)


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
        if draft[name].verdict == "adopt":
            frontier += _stands_on(draft, name)
        elif draft[name].works:
            frontier += draft[name].node.inputs.values()
    return needed


def _stands_on(draft: dict[str, Step], name: str) -> list[str]:
    """The full model below a published adapter: the nearest node before it that is one."""
    while (released := draft[name].released) is None or released.form == "adapter":
        if "init" not in draft[name].node.inputs:
            return [name]
        name = draft[name].node.inputs["init"]
    return [name]


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
                "inputs": step.node.inputs,
                "settings": settings(step.node.config),
                "estimate": dataclasses.asdict(step.estimate) if step.estimate else None,
                "path": str(step.record.path) if step.record else None,
            }
            for step in plan.steps
        ]
    }


__all__ = ["Forced", "Plan", "Step", "because", "is_training", "make_plan", "to_json"]

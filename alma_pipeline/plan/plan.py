"""What will happen and why: every node with its key, verdict, reason and estimate. Runs nothing and imports no torch."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from alma_pipeline import errors
from alma_pipeline.errors import ConfigError
from alma_pipeline.plan import adapters, hub_names, released, rounds
from alma_pipeline.plan.corpus_size import counts
from alma_pipeline.plan.estimates.estimate import estimate
from alma_pipeline.plan.estimates.node_estimate import Estimate
from alma_pipeline.plan.graph import build
from alma_pipeline.plan.nearest import Lineages, nearest
from alma_pipeline.plan.node import Node, is_training
from alma_pipeline.plan.pins import pinned
from alma_pipeline.plan.reasons import run_reason
from alma_pipeline.plan.step import Cause, Rerun, Step
from alma_pipeline.plan.text_files import with_files
from alma_pipeline.schema import Config
from alma_pipeline.store.identity import key_of, key_settings, payload
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store

NOT_NEEDED = "not needed: everything built from it exists or was not requested"


@dataclass(frozen=True)
class Plan:
    """Every node that the targets need, inputs before their users."""

    steps: list[Step]

    def __getitem__(self, name: str) -> Step:
        return next(step for step in self.steps if step.node.name == name)

    @property
    def work(self) -> list[Step]:
        """Steps that have something to do, in order."""
        return [step for step in self.steps if step.works]

    @property
    def notes(self) -> list[str]:
        """What is to know about the text of its steps, each once."""
        return list(dict.fromkeys(note for step in self.steps if step.verdict != "skip" for note in step.node.notes))


def make_plan(config: Config, store: Store, rerun: Rerun | None = None) -> Plan:
    """Resolve the targets of a configuration against a store. Raises ConfigError.

    `rerun`: None if nothing is about to run, as for a report; text that is gone is then no error, whatever would read it.
    """
    nodes = with_files(build(config), config, store.digests)
    if folders := list(dict.fromkeys(hub_names.problems(nodes, config))):
        raise ConfigError(folders)
    nodes = pinned(nodes, store)
    runs, rerun = rerun is not None, rerun or Rerun()
    _check_names(nodes, rerun)
    # Inputs come first, so that each step can look up the keys, verdicts and causes of its inputs.
    draft: dict[str, Step] = {}
    lineages = Lineages(store)
    for node in nodes:
        step = _unless_stopped(_resolve(node, draft, config, store, rerun, lineages), draft)
        lineages.add(step.key, step.payload)
        draft[node.name] = step
    # Only now is it known which nodes anything that runs will read.
    needed = _needed(draft, rerun)
    shape = config.model.architecture
    problems = [
        text
        for step in draft.values()
        if step.node.name in needed
        for text in (*_resume_problems(step, config, store), *adapters.stored_problems(step, draft, shape, store))
    ]
    if runs:
        problems += [text for step in draft.values() if step.node.name in needed for text in _gone_problems(step)]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    steps = []
    for step in draft.values():
        if step.works and step.node.name not in needed:
            step = dataclasses.replace(step, verdict="skip", cause=Cause.NOT_NEEDED, reason=NOT_NEEDED)
        steps.append(dataclasses.replace(step, estimate=_estimate(step, draft, config)))
    return Plan(steps)


def _check_names(nodes: list[Node], rerun: Rerun) -> None:
    known = [node.name for node in nodes]
    problems = [
        f"{flag} {name}: no such node in this plan; {errors.suggestion(name, known)}" for flag, name in rerun.unknown(known)
    ]
    if problems:
        raise ConfigError(problems)


def _resolve(node: Node, draft: Mapping[str, Step], config: Config, store: Store, rerun: Rerun, lineages: Lineages) -> Step:
    """The step of a node as far as its inputs decide it; whether anything needs it is decided later."""
    keys = {role: draft[source].key for role, source in node.inputs.items()}
    content = payload(node.config, keys, adapters.changed_rules(node, draft))
    key = key_of(content)
    record = store.find(key)
    requested = _requested_again(node, draft, rerun)
    # A checkpoint that a person adopted takes precedence over a published one.
    if record is not None and record.alias_of and not requested:
        alias, record = record, store.find(record.alias_of)
        if record is not None:
            return _reuse_adopted(node, key, record)
        lack = store.incomplete(alias.alias_of) or f"{alias.alias_of[:12]} is no longer in the store"
        step = Step(node, key, content, "run", Cause.INCOMPLETE, f"its adopted checkpoint is incomplete: {lack}", None)
        return dataclasses.replace(step, requested_key=key)
    # A published checkpoint, unless the node is to be trained again.
    obstacle = ""
    entry = config.model.released.get(node.name)
    if entry and not requested:
        obstacle = released.adoption_obstacle(node, draft, config, entry)
        if not obstacle:
            return released.adoption_step(node, key, entry, draft, store)
    # Otherwise the node's own artifact, its resume point, or a run.
    step = Step(node, key, content, "reuse", Cause.COMPLETE, "", record, fresh=bool(requested))
    if record is not None and not requested:
        return step
    earlier = nearest(lineages, store.named(node.name), content)
    step = dataclasses.replace(step, earlier=earlier)
    if requested:
        return dataclasses.replace(step, verdict="run", cause=requested[0], reason=requested[1])
    if point := store.resume_point(node.name, key):
        return dataclasses.replace(step, verdict="resume", cause=Cause.UNFINISHED, reason=f"from step {point['step']:,}")
    if lack := store.incomplete(key):
        return dataclasses.replace(step, verdict="run", cause=Cause.INCOMPLETE, reason=f"its artifact is incomplete: {lack}")
    if obstacle:
        return dataclasses.replace(step, verdict="run", cause=Cause.NOT_ADOPTED, reason=obstacle)
    old = earlier.payload if earlier else None
    cause, reason = run_reason(node, old, content, _context(config, lineages, old, content))
    if store.skipped_resume_point(node.name, key):
        reason += "; its resume point is damaged or of an earlier version, so it starts from step 0"
    return dataclasses.replace(step, verdict="run", cause=cause, reason=reason)


def _requested_again(node: Node, draft: Mapping[str, Step], rerun: Rerun) -> tuple[Cause, str] | None:
    """The cause and the flag if the command line requests the node again, by --force or through --from."""
    if node.name in rerun.force:
        return Cause.FORCED, "--force"
    if node.name in rerun.from_:
        return Cause.FROM, f"--from {node.name}"
    sources = [draft[source] for source in node.inputs.values()]
    return next(((step.cause, step.reason) for step in sources if step.cause is Cause.FROM), None)


def _reuse_adopted(node: Node, requested_key: str, record: Record) -> Step:
    """A step under the key of the adopted checkpoint, so that lineage never claims training that did not happen."""
    source = record.result.get("repo") or record.path.name
    reason = f"adopted: {source}"
    return Step(node, record.key, record.payload, "reuse", Cause.ADOPTED, reason, record, requested_key=requested_key)


def _context(config: Config, lineages: Lineages, old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> str:
    """The model and the data that the nearest earlier artifact does not share: `model 13b and data alma`; or empty."""
    if old is None:
        return ""
    other_model, other_data = lineages.unlike(old, new)
    names = [f"model {config.model.name}"] * other_model + [f"data {config.data.name}"] * other_data
    return " and ".join(names)


def _unless_stopped(step: Step, draft: Mapping[str, Step]) -> Step:
    """The step, or a skip if an earlier round of preferences made the checkpoint worse."""
    if not step.works:
        return step
    for source in (draft[name] for name in step.node.inputs.values()):
        finding = rounds.stopped(source.record.result) if source.record and not source.works else ""
        if finding or source.cause is Cause.ROUND_STOPPED:
            return dataclasses.replace(step, verdict="skip", cause=Cause.ROUND_STOPPED, reason=finding or source.reason)
    return step


def _resume_problems(step: Step, config: Config, store: Store) -> list[str]:
    """Why a resume point cannot be used: its state is sharded for other processes or another ZeRO stage (B1, B3)."""
    point = store.resume_point(step.node.name, step.key) if step.verdict == "resume" else None
    saved = point.get("topology", {}) if point else {}
    hardware, distributed = config.hardware, step.node.config.distributed
    current = {"processes": hardware.world if distributed else 1, "zero_stage": hardware.zero_stage}
    changed = [f"{name} {saved[name]}, now {value}" for name, value in current.items() if saved.get(name, value) != value]
    if not changed:
        return []
    return [
        f"{step.node.name} can resume {step.reason} only with the processes and the ZeRO stage that saved it: found "
        f"{', '.join(changed)}. Restore hardware.devices x hardware.nodes and hardware.zero_stage, or start it again with "
        f"--force {step.node.name}"
    ]


def _gone_problems(step: Step) -> list[str]:
    """Text that a step must read and that is gone; a finished artifact needs its digest alone."""
    if not step.works or step.verdict == "adopt":
        return []
    why = f"{step.verdict}: {step.reason}" if step.reason else step.verdict
    return [
        f"{step.node.name} must read {path}, which is gone ({why}). Put it back, or name other text; only what is finished needs "
        "no text"
        for path in step.node.gone
    ]


def _needed(draft: Mapping[str, Step], rerun: Rerun) -> set[str]:
    """Nodes that are requested themselves, or read by one that has something to do."""
    if rerun.only:
        return set(rerun.only)
    sources = {source for step in draft.values() for source in step.node.inputs.values()}
    wanted = {name for name, step in draft.items() if step.node.target or name not in sources}
    wanted |= {name for name, step in draft.items() if step.works and step.cause in (Cause.FORCED, Cause.FROM)}
    # From there back through the inputs of everything that has something to do.
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


def _estimate(step: Step, draft: Mapping[str, Step], config: Config) -> Estimate | None:
    if not step.works or step.verdict == "adopt":
        return None
    sources = {role: (draft[name].node.config, draft[name].record) for role, name in step.node.inputs.items()}
    found = counts(step.node.config, sources, config.data.expected)
    # A group's checkpoint carries an adapter of the group's shape.
    model = config.model if step.node.group is None else dataclasses.replace(config.model, lora=config.model.group_lora)
    return estimate(step.node.kind, step.node.config, model, config.hardware, found)


def to_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain values, for `--json` and for the tracking artifact."""
    return {
        "steps": [
            {
                "node": step.node.name,
                "kind": step.node.kind,
                "key": step.key,
                "verdict": step.verdict,
                "cause": step.cause.value,
                "reason": step.reason,
                "inputs": step.inputs,
                "settings": key_settings(step.node.config),
                "notes": step.node.notes,
                "estimate": dataclasses.asdict(step.estimate) if step.estimate else None,
                "path": str(step.record.path) if step.record else None,
            }
            for step in plan.steps
        ]
    }


__all__ = ["Cause", "Plan", "Rerun", "Step", "is_training", "make_plan", "to_json"]

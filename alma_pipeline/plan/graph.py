"""From a configuration to the graph of nodes it asks for: instances, groups, languages, evaluations.

Knows the graph's rules, nothing of what is stored or how a node runs.
"""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alma_pipeline import errors
from alma_pipeline.errors import ConfigError
from alma_pipeline.plan import adapters, directions, horizon, rounds
from alma_pipeline.plan.node import EXAMPLES, SHARED, TEMPLATES, TEST, Node, base_name
from alma_pipeline.plan.node_settings import filled
from alma_pipeline.schema import Config, NodeConfig, Translating, fields
from alma_pipeline.schema.kinds import kind_config, thaw


def build(config: Config) -> list[Node]:
    """Every node the targets need, inputs before their users, each checkpoint followed by its evaluation.

    Raises ConfigError for targets, groups and overrides that take no part.
    """
    _check_targets(config)
    config = rounds.unrolled(horizon.budgeted(config))
    groups = chosen_groups(config)
    instances = {node.name: node for node in _instances(config, groups)}
    wanted = [*config.targets, *_controls(config)]
    names = [name for name in instances if base_name(name) in wanted]
    nodes = _evaluated(config, _ancestors(instances, names), instances)
    nodes = list({node.name: node for node in (*nodes, *_outputs(config, instances))}.values())
    problems = [*_idle_overrides(config, nodes, groups), *adapters.problems(nodes, set(config.model.released))]
    if problems:
        raise ConfigError(problems)
    return nodes


def _check_targets(config: Config) -> None:
    known = [name for name in config.stages if name not in TEMPLATES]
    wrong = [
        f"targets: '{name}' is no node of this stage; {errors.nearest(name, known)}"
        for name in config.targets
        if name not in known
    ]
    if not config.targets:
        wrong = [f"targets is empty; known: {', '.join(sorted(known))}"]
    lacking = [name for name in (*TEMPLATES, TEST) if name not in config.stages]
    wrong += list(_wrong_systems(config))
    needing = "checkpoints" if config.evaluation.checkpoints else "outputs" if config.evaluation.outputs else ""
    if needing and lacking:
        wrong.append(
            f"stages has no {', '.join(lacking)}, which evaluation.{needing} needs; compose it, or leave the latter empty"
        )
    if wrong:
        raise ConfigError(wrong)


def _wrong_systems(config: Config) -> Iterator[str]:
    """Names of other systems head columns and folders, beside those of the recipe's nodes."""
    for name in config.evaluation.outputs:
        if not re.fullmatch(r"[\w+-]+", name) or name in config.stages:
            yield f"evaluation.outputs.{name}: expected a name of letters, digits, -, + and _ that is no node's"


def chosen_groups(config: Config) -> list[int]:
    """The language groups of the run. Raises ConfigError for one that has no language in it."""
    present = sorted({group for code in directions.languages(config) if (group := config.languages[code].group)})
    if config.group == "all":
        return present
    asked = config.group if isinstance(config.group, list) else [config.group]
    wrong = [group for group in asked if type(group) is not int or group not in present]
    if wrong or not asked:
        listed = ", ".join(map(str, wrong)) or "an empty list"
        raise ConfigError(
            [f"group={listed}: expected all or some of {', '.join(map(str, present))}, the groups of the run's languages"]
        )
    return sorted(set(asked))


def _controls(config: Config) -> list[str]:
    """Extra nodes whose counterpart is a target or on a target's way."""
    needed = set(config.targets)
    frontier = list(config.targets)
    while frontier:
        for name in config.stages[frontier.pop()].roles().values():
            if name not in needed and name in config.stages:
                needed.add(name)
                frontier.append(name)
    return [extra for extra, counterpart in config.evaluation.controls.items() if counterpart in needed]


def _instances(config: Config, groups: list[int]) -> Iterator[Node]:
    for name, node in config.stages.items():
        if name in TEMPLATES:
            continue
        target, setting = name in config.targets, _setting(config, name)
        if not node.per_group:
            yield Node(name, filled(config, node, None), _inputs(config, node, None), setting, None, target)
            continue
        for group in groups:
            own = _overridden(config, name, group)
            yield Node(f"g{group}.{name}", filled(config, own, group), _inputs(config, own, group), setting, group, target)


def _setting(config: Config, name: str) -> str:
    """Where a node's settings are typed: a later round has the first one's."""
    return f"stages.{rounds.first_round(name) if config.rounds > 1 else name}"


def _inputs(config: Config, node: NodeConfig, group: int | None) -> dict[str, str]:
    """Instances by role; whether they exist matters only for nodes that take part."""
    grouped = {name for name, other in config.stages.items() if other.per_group}
    return {
        role: f"g{group}.{source}" if source in grouped and group is not None else source for role, source in node.roles().items()
    }


def _overridden(config: Config, name: str, group: int) -> NodeConfig:
    """A group's node: `groups.g5.arpo.beta` over `stages.arpo.beta`."""
    changes = _settings(config.groups.get(f"g{group}"), f"groups.g{group}").get(name)
    node: NodeConfig = config.stages[name]
    if not changes:
        return node
    where = f"groups.g{group}.{name}"
    known = [item.name for item in dataclasses.fields(kind_config(node.kind)) if item.name not in SHARED]
    unknown = [
        f"{where}.{key}: no such setting of one group; {errors.nearest(key, known)}"
        for key in _settings(changes, where)
        if key not in known
    ]
    if unknown:
        raise ConfigError(unknown)
    try:
        result: Any = OmegaConf.to_object(OmegaConf.merge(thaw(OmegaConf.structured(node)), changes))
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or ""
        raise ConfigError([f"{where}.{key}: {str(error.__cause__ or error).splitlines()[0]}"]) from error
    problems = list(fields.problems(result, where))
    if problems:
        raise ConfigError(problems)
    return cast(NodeConfig, result)


def _settings(value: Any, where: str) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise ConfigError([f"{where}={value}: expected settings under it, as in groups.g5.arpo.beta=0.4"])
    return value or {}


def _ancestors(instances: dict[str, Node], wanted: list[str]) -> list[Node]:
    """`wanted` and everything before it, inputs first. Raises ConfigError for a circle."""
    ordered: dict[str, Node] = {}
    open_names: list[str] = []

    def visit(name: str) -> None:
        if name in ordered:
            return
        if name in open_names:
            circle = " -> ".join([*open_names[open_names.index(name) :], name])
            raise ConfigError([f"the inputs form a circle: {circle}"])
        open_names.append(name)
        for role, source in instances[name].inputs.items():
            if source not in instances:
                raise ConfigError([f"{instances[name].setting}.inputs.{role}={source}: {_why_none(source, list(instances))}"])
            visit(source)
        open_names.pop()
        ordered[name] = instances[name]

    for name in wanted:
        visit(name)
    return list(ordered.values())


def _why_none(source: str, instances: list[str]) -> str:
    if source in map(base_name, instances):
        return "exists once per group, and this is not a group node"
    return f"no such node; {errors.nearest(source, sorted({base_name(name) for name in instances}))}"


def _evaluated(config: Config, nodes: list[Node], instances: dict[str, Node]) -> list[Node]:
    """Each evaluated checkpoint followed by its translate and score nodes, their inputs before them."""
    result: dict[str, Node] = {}
    for node in nodes:
        result[node.name] = node
        if base_name(node.name) in config.evaluation.checkpoints:
            for extra in _evaluation(config, node):
                before = [source for source in extra.inputs.values() if source in instances]
                for other in _ancestors(instances, before):
                    result.setdefault(other.name, other)
                result[extra.name] = extra
    return list(result.values())


def _evaluation(config: Config, node: Node) -> tuple[Node, Node]:
    everything = node.group is None or base_name(node.name) in config.evaluation.every_direction
    group = None if everything else node.group
    translate, score = (filled(config, config.stages[name], group) for name in TEMPLATES)
    inputs = {"checkpoint": node.name, "test": TEST}
    if isinstance(translate, Translating) and (shots := translate.shots):
        if EXAMPLES not in config.stages:
            raise ConfigError(
                [f"stages.translate.shots={shots} shows pairs of {EXAMPLES}, which this stage lacks; take base, parallel or cpo"]
            )
        inputs["examples"] = EXAMPLES
    hypotheses = Node(f"{node.name}.translate", translate, inputs, "stages.translate", node.group)
    scores = Node(f"{node.name}.score", score, {"hypotheses": hypotheses.name}, "stages.score", node.group)
    return hypotheses, scores


def _outputs(config: Config, instances: dict[str, Node]) -> Iterator[Node]:
    """Other systems' outputs of the test, each followed by its scores, and what they need before them."""
    for system, path in config.evaluation.outputs.items():
        kind: Any = kind_config("outputs")
        outputs = Node(f"{system}.outputs", filled(config, kind(outputs={system: path}), None), {"test": TEST}, "evaluation")
        score = Node(
            f"{system}.score", filled(config, config.stages["score"], None), {"hypotheses": outputs.name}, "stages.score"
        )
        yield from _ancestors(instances, [TEST])
        yield from (outputs, score)


def _idle_overrides(config: Config, nodes: list[Node], groups: list[int]) -> Iterator[str]:
    """Group overrides that would change nothing."""
    taking_part = {base_name(node.name) for node in nodes if node.config.per_group}
    for key, per_node in config.groups.items():
        known = [f"g{group}" for group in groups]
        if key not in known:
            yield f"groups.{key}: takes no part in this run; {errors.nearest(str(key), known)}"
            continue
        for name in _settings(per_node, f"groups.{key}"):
            if name not in taking_part:
                yield f"groups.{key}.{name}: takes no part in this run; {errors.nearest(name, sorted(taking_part))}"


def plain(node: Node) -> dict[str, Any]:
    """A node for `plan --json`."""
    return {"name": node.name, "kind": node.kind, "inputs": node.inputs, "group": node.group}

"""Builds the graph of nodes that a configuration requests: instances, groups, evaluations.

Knows the rules of the graph, but neither what is stored nor how a node runs.
"""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alma_pipeline import errors
from alma_pipeline.errors import ConfigError
from alma_pipeline.plan import adapters, languages, rounds
from alma_pipeline.plan.languages import Languages
from alma_pipeline.plan.node import EXAMPLES, OUTPUTS, SHARED, TEMPLATES, TEST, Node, base_name
from alma_pipeline.plan.node_settings import fill_node, with_token_horizon
from alma_pipeline.schema import Config, NodeConfig, Translating, fields
from alma_pipeline.schema.kinds import kind_config, thaw


def build(config: Config) -> list[Node]:
    """Every node that the targets need, inputs before their users, each checkpoint followed by its evaluation.

    Raises ConfigError for unknown targets, languages and groups, and for overrides that would change nothing.
    """
    _check_targets(config)
    config = rounds.unrolled(with_token_horizon(config))
    spoken = languages.resolve(config)
    instances = {node.name: node for node in _instances(config, spoken)}
    # Targets and their controls, with everything they are built from.
    wanted = [*config.targets, *_controls(config)]
    names = [name for name in instances if base_name(name) in wanted]
    nodes = _with_evaluations(config, spoken, _ancestors(instances, names), instances)
    # Other systems' outputs share the test corpus with them.
    nodes = list({node.name: node for node in (*nodes, *_system_outputs(config, spoken, instances))}.values())
    problems = [*_idle_overrides(config, nodes, spoken.groups), *adapters.problems(nodes, set(config.model.released))]
    if problems:
        raise ConfigError(problems)
    return nodes


def _check_targets(config: Config) -> None:
    known = [name for name in config.stages if name not in TEMPLATES]
    problems = [
        f"targets: '{name}' is not a node of this stage; {errors.suggestion(name, known)}"
        for name in config.targets
        if name not in known
    ]
    if not config.targets:
        problems = [f"targets is empty; known: {', '.join(sorted(known))}"]
    problems += _wrong_system_names(config)
    # Evaluations are copies of these nodes, so a stage that evaluates must have them.
    missing = [name for name in (*TEMPLATES, TEST) if name not in config.stages]
    needed_by = "checkpoints" if config.evaluation.checkpoints else "outputs" if config.evaluation.outputs else ""
    if needed_by and missing:
        problems.append(
            f"stages has no {', '.join(missing)}, but evaluation.{needed_by} needs it; "
            f"add it to the stage, or set evaluation.{needed_by} to an empty value"
        )
    if problems:
        raise ConfigError(problems)


def _wrong_system_names(config: Config) -> Iterator[str]:
    """Names of other systems become column headers and folders, beside those of the recipe's nodes."""
    for name in config.evaluation.outputs:
        if not re.fullmatch(r"[\w+-][\w.+-]*", name) or base_name(name) in {*config.stages, OUTPUTS, ""}:
            yield f"evaluation.outputs.{name}: expected a name of letters, digits, -, +, _ and dots that no node has"


def _controls(config: Config) -> list[str]:
    """Control nodes whose counterpart is a target or an ancestor of one, if they are evaluated: nothing else reads them."""
    needed = set(config.targets)
    frontier = list(config.targets)
    while frontier:
        for name in config.stages[frontier.pop()].roles().values():
            if name not in needed and name in config.stages:
                needed.add(name)
                frontier.append(name)
    evaluated = config.evaluation.checkpoints
    return [control for control, other in config.evaluation.controls.items() if other in needed and control in evaluated]


def _instances(config: Config, spoken: Languages) -> Iterator[Node]:
    for name, node in config.stages.items():
        if name in TEMPLATES:
            continue
        setting, target = _setting(config, name), name in config.targets
        for group in spoken.groups if node.per_group else [None]:
            own = node if group is None else _overridden(config, name, group)
            instance = name if group is None else f"g{group}.{name}"
            settings = fill_node(config, spoken, own, group)
            yield Node(instance, settings, _inputs(config, own, group), setting, group, target)


def _setting(config: Config, name: str) -> str:
    """The key of a node's settings: a later round has those of the first."""
    return f"stages.{rounds.first_round(name) if config.rounds > 1 else name}"


def _inputs(config: Config, node: NodeConfig, group: int | None) -> dict[str, str]:
    """Role to instance name. Whether the instance exists is checked only for nodes that take part."""
    grouped = {name for name, other in config.stages.items() if other.per_group}
    return {
        role: f"g{group}.{source}" if source in grouped and group is not None else source for role, source in node.roles().items()
    }


def _overridden(config: Config, name: str, group: int) -> NodeConfig:
    """A group's node: `groups.g5.arpo.beta` overrides `stages.arpo.beta`. Raises ConfigError."""
    changes = _settings(config.groups.get(f"g{group}"), f"groups.g{group}").get(name)
    node: NodeConfig = config.stages[name]
    if not changes:
        return node
    where = f"groups.g{group}.{name}"
    # What a node is must be the same in every group, so that only its other settings can be overridden.
    known = [item.name for item in dataclasses.fields(kind_config(node.kind)) if item.name not in SHARED]
    unknown = [
        f"{where}.{key}: not a setting that a group can override; {errors.suggestion(key, known)}"
        for key in _settings(changes, where)
        if key not in known
    ]
    if unknown:
        raise ConfigError(unknown)
    # OmegaConf converts and type-checks the values, as it does for the rest of the configuration.
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
        raise ConfigError([f"{where}={value}: expected settings under it, such as groups.g5.arpo.beta=0.4"])
    return value or {}


def _ancestors(instances: dict[str, Node], wanted: list[str]) -> list[Node]:
    """`wanted` and everything they are built from, inputs first. Raises ConfigError for a cycle or an unknown input."""
    ordered: dict[str, Node] = {}
    open_names: list[str] = []

    def visit(name: str) -> None:
        if name in ordered:
            return
        if name in open_names:
            cycle = " -> ".join([*open_names[open_names.index(name) :], name])
            raise ConfigError([f"the inputs form a cycle: {cycle}"])
        # Depth first: a node is appended after its inputs; a node that is still open is part of a cycle.
        open_names.append(name)
        for role, source in instances[name].inputs.items():
            if source not in instances:
                raise ConfigError(
                    [f"{instances[name].setting}.inputs.{role}={source}: {_unknown_input(source, list(instances))}"]
                )
            visit(source)
        open_names.pop()
        ordered[name] = instances[name]

    for name in wanted:
        visit(name)
    return list(ordered.values())


def _unknown_input(source: str, instances: list[str]) -> str:
    if source in map(base_name, instances):
        return "exists once per group, but this node has no group"
    return f"no such node; {errors.suggestion(source, sorted({base_name(name) for name in instances}))}"


def _with_evaluations(config: Config, spoken: Languages, nodes: list[Node], instances: dict[str, Node]) -> list[Node]:
    """Each evaluated checkpoint followed by its translate and score nodes, with their inputs before them."""
    result: dict[str, Node] = {}
    for node in nodes:
        result[node.name] = node
        if base_name(node.name) in config.evaluation.checkpoints:
            for extra in _evaluation(config, spoken, node):
                sources = [source for source in extra.inputs.values() if source in instances]
                for other in _ancestors(instances, sources):
                    result.setdefault(other.name, other)
                result[extra.name] = extra
    return list(result.values())


def _evaluation(config: Config, spoken: Languages, node: Node) -> tuple[Node, Node]:
    """The translate and score nodes of a checkpoint. Raises ConfigError for few-shot prompts without a corpus of examples."""
    # A group's checkpoint translates its own directions, unless it is listed for every direction.
    everything = node.group is None or base_name(node.name) in config.evaluation.every_direction
    group = None if everything else node.group
    translate, score = (fill_node(config, spoken, config.stages[name], group) for name in TEMPLATES)
    inputs = {"checkpoint": node.name, "test": TEST}
    if isinstance(translate, Translating) and (shots := translate.num_shots):
        if EXAMPLES not in config.stages:
            raise ConfigError(
                [
                    f"stages.translate.num_shots={shots} shows pairs of {EXAMPLES}, which this stage lacks; "
                    "use base, parallel or cpo"
                ]
            )
        inputs["examples"] = EXAMPLES
    hypotheses = Node(f"{node.name}.translate", translate, inputs, "stages.translate", node.group)
    scores = Node(f"{node.name}.score", score, {"hypotheses": hypotheses.name}, "stages.score", node.group)
    return hypotheses, scores


def _system_outputs(config: Config, spoken: Languages, instances: dict[str, Node]) -> Iterator[Node]:
    """Other systems' outputs for the test set, each followed by its scores, after the nodes they need."""
    for system, path in config.evaluation.outputs.items():
        kind: Any = kind_config("system_outputs")
        settings = fill_node(config, spoken, kind(outputs={system: path}), None)
        outputs = Node(f"{system}.{OUTPUTS}", settings, {"test": TEST}, "evaluation")
        score = fill_node(config, spoken, config.stages["score"], None)
        yield from _ancestors(instances, [TEST])
        yield outputs
        yield Node(f"{system}.score", score, {"hypotheses": outputs.name}, "stages.score")


def _idle_overrides(config: Config, nodes: list[Node], groups: list[int]) -> Iterator[str]:
    """A problem for each group override that would change nothing."""
    taking_part = {base_name(node.name) for node in nodes if node.config.per_group}
    for key, per_node in config.groups.items():
        known = [f"g{group}" for group in groups]
        if key not in known:
            yield f"groups.{key}: takes no part in this run; {errors.suggestion(str(key), known)}"
            continue
        for name in _settings(per_node, f"groups.{key}"):
            if name not in taking_part:
                yield f"groups.{key}.{name}: takes no part in this run; {errors.suggestion(name, sorted(taking_part))}"

"""Turns a composed tree into frozen dataclasses, and checks types, limits and names. Composes nothing."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from alma_pipeline import errors
from alma_pipeline.config.values import ResolvedTree, build
from alma_pipeline.errors import ConfigError
from alma_pipeline.paths import CONF
from alma_pipeline.plan import graph
from alma_pipeline.schema import Config, GroupedLanguage, Hardware, Neural, NodeConfig, Released, fields


def from_tree(tree: DictConfig) -> Config:
    """A composed tree as frozen dataclasses, limits checked. Raises ConfigError."""
    # Tables keyed by a name of the user's choice have no schema of their own; their entries do.
    found: list[str] = []
    values = ResolvedTree(tree, found)
    plain = {name: values.at(name) for name in values.plain if name not in ("stages", "hydra")}
    plain["languages"] = {
        code: build(GroupedLanguage, entry, f"languages.{code}", found) for code, entry in plain["languages"].items()
    }
    plain["scorers"] = {name: build(Neural, entry, f"scorers.{name}", found) for name, entry in plain["scorers"].items()}
    model = plain["model"] if isinstance(plain["model"], dict) else {}
    entries = model.pop("released", None)
    released = {
        name: build(Released, entry, f"model.released.{name}", found)
        for name, entry in (entries if isinstance(entries, dict) else {}).items()
    }
    config: Config = build(Config, plain, "", found)
    stages = {str(name): _node(tree, values, str(name), found) for name in tree.stages}
    if found:
        raise ConfigError(found)
    hardware = _with_absolute_interpreters(config.hardware)
    config = dataclasses.replace(
        config, stages=stages, model=dataclasses.replace(config.model, released=released), hardware=hardware
    )

    # Values that fit their types can still exceed limits or name what does not exist.
    limits, names = list(fields.problems(config, "")), list(_unknown_names(config))
    if limits or names:
        # The graph's problems too, if it can be built: the user should see all mistakes at once.
        raise ConfigError(list(dict.fromkeys([*limits, *names, *([] if names else graph_problems(config))])))
    return config


def _with_absolute_interpreters(hardware: Hardware) -> Hardware:
    """Make the paths of COMET's and vLLM's interpreters absolute, since workers run in another directory. Symlinks are kept:
    resolving one would lose its virtual environment."""
    given = {"comet_python": hardware.comet_python, "vllm_python": hardware.vllm_python}
    paths = {name: str(Path(path).expanduser().absolute()) for name, path in given.items() if path}
    return dataclasses.replace(hardware, **paths)  # type: ignore[arg-type]


def graph_problems(config: Config) -> list[str]:
    """Problems found only by building the graph: settings for groups and nodes that this stage does not use."""
    try:
        graph.build(config)
    except ConfigError as error:
        return error.problems
    return []


def _node(tree: DictConfig, values: ResolvedTree, name: str, found: list[str]) -> NodeConfig | None:
    schema = OmegaConf.get_type(tree.stages, name) or dict
    if not issubclass(schema, NodeConfig):
        known = [str(other) for other in tree.stages if other != name]
        found.append(f"stages.{name}: not used by this stage; {errors.suggestion(name, known)}")
        return None
    node: NodeConfig | None = build(schema, values.at(f"stages.{name}"), f"stages.{name}", found)
    return node


def _unknown_names(config: Config) -> Iterator[str]:
    """References to entries that do not exist. A node's inputs are checked by `plan.graph`."""
    languages = [code for code in config.languages if code != "en"]
    for code in dict.fromkeys(config.data.languages):
        if code == "en":
            yield "data.languages: English is one side of every direction; list only the other languages"
        elif code not in config.languages:
            yield f"data.languages: '{code}' is not in the language table; {errors.suggestion(code, languages)}"
        elif config.languages[code].group is None:
            yield f"data.languages: '{code}' has no group; set languages.{code}.group to a number from 1 to 8"
        if config.data.languages.count(code) > 1:
            yield f"data.languages: '{code}' is listed twice"
    if not config.data.languages:
        yield "data.languages is empty; expected at least one language besides English, as in 'data.languages=[de,nl]'"
    yield from _unknown_shares(config)
    nodes = list(config.stages)
    anywhere = sorted({*nodes, *(path.stem for path in (CONF / "node").glob("*.yaml"))})
    for key in ("checkpoints", "every_direction", "controls"):
        for name in getattr(config.evaluation, key):
            if name not in anywhere:
                yield f"evaluation.{key}: no node '{name}'; {errors.suggestion(name, anywhere)}"
    yield from _unknown_counterparts(config, anywhere)


def _unknown_shares(config: Config) -> Iterator[str]:
    """A language may take no part in the run, but a word that is no language would leave its text out unseen."""
    owners = {"data": config.data, **{f"stages.{name}": node for name, node in config.stages.items()}}
    for key, owner in owners.items():
        for code in getattr(owner, "probabilities", {}):
            if code not in config.languages:
                known = errors.suggestion(code, list(config.languages))
                yield f"{key}.probabilities: '{code}' is not in the language table; {known}"


def _unknown_counterparts(config: Config, anywhere: list[str]) -> Iterator[str]:
    for control, counterpart in config.evaluation.controls.items():
        if counterpart not in anywhere:
            yield f"evaluation.controls.{control}={counterpart}: no such node; {errors.suggestion(counterpart, anywhere)}"

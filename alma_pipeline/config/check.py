"""From a composed tree to frozen dataclasses: types, limits, and names that must exist. Composes nothing."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from alma_pipeline import errors
from alma_pipeline.config.values import Values, build
from alma_pipeline.errors import ConfigError
from alma_pipeline.paths import CONF
from alma_pipeline.plan import graph
from alma_pipeline.schema import Config, GroupedLanguage, Hardware, Neural, NodeConfig, Released, fields


def from_tree(tree: DictConfig) -> Config:
    """A composed tree as frozen dataclasses, limits checked. Raises ConfigError."""
    found: list[str] = []
    values = Values(tree, found)
    plain = {name: values.at(name) for name in values.plain if name not in ("stages", "hydra")}
    plain["languages"] = {
        code: build(GroupedLanguage, entry, f"languages.{code}", found) for code, entry in plain["languages"].items()
    }
    plain["scorers"] = {name: build(Neural, entry, f"scorers.{name}", found) for name, entry in plain["scorers"].items()}
    model = plain["model"] if isinstance(plain["model"], dict) else {}
    released = {
        name: build(Released, entry, f"model.released.{name}", found)
        for name, entry in (model.pop("released", None) or {}).items()
    }
    config: Config = build(Config, plain, "", found)
    stages = {str(name): _node(tree, values, str(name), found) for name in tree.stages}
    if found:
        raise ConfigError(found)
    config = dataclasses.replace(
        config, stages=stages, model=dataclasses.replace(config.model, released=released), hardware=_placed(config.hardware)
    )
    limits, names = list(fields.problems(config, "")), list(_unknown_names(config))
    if limits or names:
        # The plan's complaints too, where it can be made: who is told of one mistake wants to hear of all.
        raise ConfigError(list(dict.fromkeys([*limits, *names, *([] if names else graph_problems(config))])))
    return config


def _placed(hardware: Hardware) -> Hardware:
    """With COMET's Python where it lies from here: a worker stands in a folder of its own. Links stay, for through them a virtual
    environment is known."""
    given = hardware.comet_python
    return dataclasses.replace(hardware, comet_python=str(Path(given).expanduser().absolute())) if given else hardware


def graph_problems(config: Config) -> list[str]:
    """What the plan would refuse in settings that are sound in themselves: groups and nodes that take no part."""
    try:
        graph.build(config)
    except ConfigError as error:
        return error.problems
    return []


def _node(tree: DictConfig, values: Values, name: str, found: list[str]) -> NodeConfig | None:
    schema = OmegaConf.get_type(tree.stages, name) or dict
    if not issubclass(schema, NodeConfig):
        known = [str(other) for other in tree.stages if other != name]
        found.append(f"stages.{name}: takes no part in this stage; {errors.nearest(name, known)}")
        return None
    node: NodeConfig | None = build(schema, values.at(f"stages.{name}"), f"stages.{name}", found)
    return node


def _unknown_names(config: Config) -> Iterator[str]:
    """Names that point at other entries of the configuration; a node's inputs are the graph's matter (`recipe.build`)."""
    languages = [code for code in config.languages if code != "en"]
    for code in dict.fromkeys(config.data.languages):
        if code == "en":
            yield "data.languages: English stands on one side of every direction; list only the others"
        elif code not in config.languages:
            yield f"data.languages: '{code}' is not in the language table; {errors.nearest(code, languages)}"
        elif config.languages[code].group is None:
            yield f"data.languages: '{code}' has no group; set languages.{code}.group to one of 1 to 8"
        if config.data.languages.count(code) > 1:
            yield f"data.languages: '{code}' stands there twice"
    if not config.data.languages:
        yield "data.languages is empty; expected at least one language beside English, as in 'data.languages=[de,nl]'"
    nodes = list(config.stages)
    anywhere = sorted({*nodes, *(path.stem for path in (CONF / "node").glob("*.yaml"))})
    for key in ("checkpoints", "every_direction", "controls"):
        for name in getattr(config.evaluation, key):
            if name not in anywhere:
                yield f"evaluation.{key}: no node '{name}'; {errors.nearest(name, anywhere)}"

"""From command-line overrides to one frozen, checked `Config`.

Composition is Hydra's; this file adds the typed schema, the node dataclasses and the checks that need the whole. What is
wrong with a request that does not compose is `diagnosis`' business. It plans nothing.
"""

import dataclasses
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigNode, ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alma_pipeline import fields, horizon, recipe
from alma_pipeline.errors import ConfigError, UserError
from alma_pipeline.job import kind_config, thaw
from alma_pipeline.redact import redact
from alma_pipeline.schema import Config, Data, GroupedLanguage, Hardware, Neural, NodeConfig, Released, Source
from alma_pipeline.values import Values, build

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
"""Beside this package in a checkout and in an installed wheel alike."""
SOURCES = [item.name for item in dataclasses.fields(Data) if item.type is Source]
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, OSError)
"""What Hydra raises for overrides and files that do not compose; a file that is no mapping is an OSError."""


def kinds() -> list[str]:
    """Every stage kind: the folders of `stages/`. Raises UserError when another package has that name."""
    import stages  # by name: the recipe is data to this package

    found = Path(next(iter(stages.__path__))).resolve()
    if found != ROOT / "stages":
        raise UserError(
            f"another package named 'stages' hides this project's: found {found}, expected {ROOT / 'stages'}; "
            "run from a folder without it, or use the command alma-pipeline in place of python -m"
        )
    return sorted(module.name for module in pkgutil.iter_modules([str(found)]) if module.ispkg)


class LateSchema:
    """A schema in Hydra's store that is built when Hydra takes its copy of it: a stage needs half of them."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __deepcopy__(self, memo: dict[int, Any]) -> DictConfig:
        node: DictConfig = thaw(OmegaConf.structured(kind_config(self.kind) if self.kind else Config))
        if not self.kind:
            OmegaConf.set_struct(node.groups, False)  # its names are checked by the plan, which knows the groups of the run
            # Names of systems and columns are the user's.
            for names in (node.evaluation.outputs, *(node.data[source].columns for source in SOURCES)):
                OmegaConf.set_struct(names, False)
        elif "outputs" in node:
            OmegaConf.set_struct(node.outputs, False)
        return node


class LateNode(ConfigNode):
    """Where a `LateSchema` stands; never changed, so that the copy which Hydra makes of its whole store can share it."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "LateNode":
        return self


def register() -> None:
    """Put the typed schema where the YAML files' defaults lists find it; safe to call again."""
    repo = ConfigStore.instance().repo
    if "schema.yaml" not in repo:
        repo["kind"] = {f"{kind}.yaml": _late(kind) for kind in kinds()}
        repo["schema.yaml"] = _late("")


def _late(kind: str) -> LateNode:
    node: Any = LateSchema(kind)
    return LateNode(name=f"{kind or 'schema'}.yaml", node=node, group="kind" if kind else None, package=None, provider=None)


def compose_tree(overrides: list[str], hydra: bool = False) -> DictConfig:
    """The composed tree, on request with Hydra's own node; raises Hydra's exceptions as they come."""
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides, return_hydra_config=hydra)


def load(overrides: list[str]) -> Config:
    """Compose and check. Raises ConfigError with every problem found, not only the first."""
    return resolve(overrides)[1]


def resolve(overrides: list[str], hydra: bool = False) -> tuple[DictConfig, Config]:
    """The composed tree, on request with Hydra's own node, and the same as checked dataclasses. Raises ConfigError."""
    from alma_pipeline import diagnosis, origin

    check_credentials(overrides)
    _check_one_option(overrides)
    failure = None
    try:
        tree = compose_tree(overrides, hydra)
    except COMPOSITION_ERRORS as error:
        failure = error
    if failure:  # outside of the handler, or every error met in looking for the reason would carry this one as its context
        raise ConfigError(diagnosis.problems(overrides, failure)) from failure
    try:
        config = from_tree(tree)
    except ConfigError as error:
        raise ConfigError(origin.located(error.problems, tree, overrides)) from error
    if twice := horizon.asked_twice(config, overrides):
        raise ConfigError(twice)
    return tree, config


def check_credentials(overrides: list[str]) -> None:
    """Raises ConfigError for a credential in a setting: settings are recorded, printed and tracked."""
    found = [
        f"{redact(text)}: a setting must not hold a credential, for settings are recorded; give it in the environment, as in "
        "HF_TOKEN or MLFLOW_TRACKING_PASSWORD"
        for text in overrides
        if redact(text) != text
    ]
    if found:
        raise ConfigError(found)


def _check_one_option(overrides: list[str]) -> None:
    """Hydra merges `model=[tiny,7b]` into a model that nobody asked for; only experiments are made to be stacked."""
    found = [
        f"{text}: one option at a time; for a run with each, -m {group}={', '.join(options.split(',')).replace(' ', '')}"
        for text in overrides
        for group, options in re.findall(r"^(\w+)=\[(.*)\]$", text)
        if (CONF / group).is_dir() and group != "experiment"
    ]
    if found:
        raise ConfigError(found)


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
        recipe.build(config)
    except ConfigError as error:
        return error.problems
    return []


def _node(tree: DictConfig, values: Values, name: str, found: list[str]) -> NodeConfig | None:
    schema = OmegaConf.get_type(tree.stages, name) or dict
    if not issubclass(schema, NodeConfig):
        known = [str(other) for other in tree.stages if other != name]
        found.append(f"stages.{name}: takes no part in this stage; {fields.nearest(name, known)}")
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
            yield f"data.languages: '{code}' is not in the language table; {fields.nearest(code, languages)}"
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
                yield f"evaluation.{key}: no node '{name}'; {fields.nearest(name, anywhere)}"

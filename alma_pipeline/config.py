"""From command-line overrides to one frozen, checked `Config`.

Composition is Hydra's; this file adds the typed schema, the node dataclasses and the checks that need the whole. What is
wrong with a request that does not compose is `diagnosis`' business. It plans nothing.
"""

import dataclasses
import pkgutil
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigNode, ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alma_pipeline import fields, recipe
from alma_pipeline.errors import ConfigError, UserError
from alma_pipeline.job import kind_config, thaw
from alma_pipeline.redact import redact
from alma_pipeline.schema import Config, GroupedLanguage, NodeConfig, Released

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
"""Beside this package in a checkout and in an installed wheel alike."""
PLAIN_FIELDS = ("targets", "upstream", "target", "group", "seed")
SECTIONS = ("model", "data", "hardware", "evaluation", "tracking", "budget")
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
        if any(text.startswith("+") for text in overrides):
            _check_added(tree)
        return tree, from_tree(tree)
    except ConfigError as error:
        raise ConfigError(origin.located(error.problems, tree, overrides)) from error


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


def _check_added(tree: DictConfig) -> None:
    """A leading + lets Hydra add any key, also where the schema has no such field. Raises ConfigError."""
    found = list(_added(tree, ""))
    if found:
        raise ConfigError(found)


def _added(node: DictConfig, key: str) -> Iterator[str]:
    schema = OmegaConf.get_type(node)
    known = [item.name for item in dataclasses.fields(schema)] if dataclasses.is_dataclass(schema) else []
    for name in node:
        full = f"{key}.{name!s}" if key else str(name)
        if known and name not in known and full != "hydra":
            yield f"{full}: no such key; {fields.nearest(str(name), known)}"
        child: Any = node._get_node(name)
        empty = not isinstance(child, DictConfig) or child._is_none() or child._is_missing() or child._is_interpolation()
        if not empty and full != "hydra":
            yield from _added(child, full)


def from_tree(tree: DictConfig) -> Config:
    """A composed tree as frozen dataclasses, limits checked. Raises ConfigError."""
    found: list[str] = []
    values = {name: _object(tree, name, found) for name in (*PLAIN_FIELDS, *SECTIONS, "languages", "groups")}
    values["languages"] = _entries(GroupedLanguage, values["languages"], "languages", found)
    if values["model"]:
        released = _entries(Released, values["model"].released, "model.released", found)
        values["model"] = dataclasses.replace(values["model"], released=released)
    values["stages"] = {name: _node(tree, name, found) for name in tree.stages}
    if found:
        raise ConfigError(found)
    config = Config(**values)
    limits, names = list(fields.problems(config, "")), list(_unknown_names(config))
    if limits or names:
        # The plan's complaints too, where it can be made: who is told of one mistake wants to hear of all.
        raise ConfigError(list(dict.fromkeys([*limits, *names, *([] if names else graph_problems(config))])))
    return config


def graph_problems(config: Config) -> list[str]:
    """What the plan would refuse in settings that are sound in themselves: groups and nodes that take no part."""
    try:
        recipe.build(config)
    except ConfigError as error:
        return error.problems
    return []


def _object(tree: DictConfig, name: str, found: list[str]) -> Any:
    from alma_pipeline.describe import describe

    try:
        value = tree[name]
        return OmegaConf.to_object(value) if OmegaConf.is_config(value) else value
    except OmegaConfBaseException as error:
        found.append(describe(error, str(tree._get_full_key(name))))
        return None


def _entries(schema: type, values: dict[str, Any], key: str, found: list[str]) -> dict[str, Any]:
    """A mapping of names to dataclasses, which OmegaConf cannot fill when the dataclass is frozen."""
    items = dataclasses.fields(schema)
    hints = typing.get_type_hints(schema)
    result = {}
    for name, value in (values or {}).items():
        if not isinstance(value, dict):
            found.append(f"{key}.{name}={value}: expected {', '.join(hints)} under it")
            continue
        wrong = [
            f"{key}.{name}.{other}: no such key; {fields.nearest(str(other), list(hints))}"
            for other in value
            if other not in hints
        ]
        wrong += [
            f"{key}.{name}.{item.name}: missing; give it {fields.expected(hints[item.name])}"
            for item in items
            if item.default == MISSING and value.get(item.name, MISSING) == MISSING
        ]
        wrong += [
            f"{key}.{name}.{other}={child}: expected {fields.expected(hints[other])}, found {child!r}"
            for other, child in value.items()
            if other in hints and child != MISSING and not fields.fits(hints[other], child)
        ]
        found += wrong
        if not wrong:
            result[name] = schema(**value)
    return result


def _node(tree: DictConfig, name: str, found: list[str]) -> NodeConfig | None:
    node = tree.stages[name]
    if not OmegaConf.is_config(node) or not issubclass(OmegaConf.get_type(node) or dict, NodeConfig):
        known = [other for other in tree.stages if other != name]
        found.append(f"stages.{name}: takes no part in this stage; {fields.nearest(str(name), known)}")
        return None
    value: NodeConfig | None = _object(tree.stages, name, found)
    return value


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

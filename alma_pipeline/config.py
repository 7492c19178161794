"""From command-line overrides to one frozen, checked `Config`; every mistake is reported at once.

Composition is Hydra's; this file adds the typed schema, the node dataclasses and the error texts. It plans nothing.
"""

import dataclasses
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alma_pipeline import fields
from alma_pipeline.errors import ConfigError, UserError
from alma_pipeline.job import kind_config, thaw
from alma_pipeline.schema import Config, GroupedLanguage, NodeConfig, Released

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
"""Beside this package in a checkout and in an installed wheel alike."""
PLAIN_FIELDS = ("targets", "upstream", "target", "group", "seed")
SECTIONS = ("model", "data", "hardware", "evaluation", "tracking", "budget")


def kinds() -> list[str]:
    """Every stage kind: the folders of `stages/`."""
    import stages  # by name: the recipe is data to this package

    found = Path(stages.__file__ or "").resolve().parent
    if found != ROOT / "stages":
        raise UserError(
            f"another package named 'stages' hides this project's: found {found}, expected {ROOT / 'stages'}; "
            "run from a folder without it"
        )
    return sorted(module.name for module in pkgutil.iter_modules([str(found)]) if module.ispkg)


def register() -> None:
    """Put the typed schema where the YAML files' defaults lists find it; safe to call again."""
    store = ConfigStore.instance()
    store.store(name="schema", node=thaw(OmegaConf.structured(Config)))
    for kind in kinds():
        store.store(group="kind", name=kind, node=thaw(OmegaConf.structured(kind_config(kind))))


def compose_tree(overrides: list[str]) -> DictConfig:
    """The composed tree without Hydra's own node; raises Hydra's exceptions as they come."""
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides)


def tree(overrides: list[str]) -> DictConfig:
    """The composed tree. Raises ConfigError with every problem found, not only the first."""
    try:
        return compose_tree(overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(list(_diagnose(overrides)) or [_cause(error)]) from error


def load(overrides: list[str]) -> Config:
    """Compose and check. Raises ConfigError."""
    return from_tree(tree(overrides))


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
    found = [*fields.problems(config, ""), *_unknown_names(config)]
    if found:
        raise ConfigError(found)
    return config


def _object(tree: DictConfig, name: str, found: list[str]) -> Any:
    try:
        value = tree[name]
        return OmegaConf.to_object(value) if OmegaConf.is_config(value) else value
    except OmegaConfBaseException as error:
        found.append(_cause(error, name))
        return None


def _entries(schema: type, values: dict[str, Any], key: str, found: list[str]) -> dict[str, Any]:
    """A mapping of names to dataclasses, which OmegaConf cannot fill when the dataclass is frozen."""
    known = [item.name for item in dataclasses.fields(schema)]
    needed = [item.name for item in dataclasses.fields(schema) if item.default == MISSING]
    result = {}
    for name, value in (values or {}).items():
        wrong = [f"{key}.{name}.{other}: no such key; {fields.nearest(other, known)}" for other in value if other not in known]
        wrong += [f"{key}.{name}.{other}: missing" for other in needed if other not in value]
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
    """Names that point at other entries of the configuration."""
    languages = list(config.languages)
    for code in config.data.languages:
        if code not in config.languages:
            yield f"data.languages: '{code}' is not in the language table; {fields.nearest(code, languages)}"
        elif config.languages[code].group is None:
            yield f"data.languages: '{code}' has no group; add languages.{code}.group (1 to 8)"
    nodes = list(config.stages)
    for name, node in config.stages.items():
        for role, source in node.inputs.items():
            if source not in config.stages:
                yield f"stages.{name}.inputs.{role}={source}: no such node; {fields.nearest(source, nodes)}"


def _cause(error: Exception, key: str = "") -> str:
    """The useful line of a Hydra or OmegaConf error: Hydra's own text often leaves the reason in `__cause__`."""
    inner: BaseException = error
    while inner.__cause__ is not None:
        inner = inner.__cause__
    full_key = getattr(inner, "full_key", None) or key
    text = str(inner).splitlines()[0] if str(inner) else type(inner).__name__
    return f"{full_key}: {text}" if full_key and full_key not in text else text


def _diagnose(overrides: list[str]) -> Iterator[str]:
    """Try the overrides one by one on top of those that work; a text for each that does not."""
    choices, values = [], []
    for text in overrides:
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException as error:
            yield f"{text}: not an override ({_cause(error)}); expected GROUP=OPTION or KEY=VALUE"
            continue
        (choices if is_choice(override.key_or_group) else values).append((text, override))
    good: list[str] = []
    for text, override in choices:
        problem = _try(good, text)
        if problem is None:
            good.append(text)
        else:
            yield _bad_choice(text, override) or f"{text}: {problem}"
    tree = compose_tree(good)
    working = list(good)
    for text, override in values:
        problem = _try(good, text)
        if problem is None:
            working.append(text)
        else:
            yield _bad_key(tree, text, override) or f"{text}: {problem}"
    try:
        from_tree(compose_tree(working))
    except ConfigError as error:
        yield from error.problems


def is_choice(key: str) -> bool:
    """Whether an override's key names a config group rather than a value."""
    return (CONF / key).is_dir()


def _try(base: list[str], text: str) -> str | None:
    try:
        compose_tree([*base, text])
    except (HydraException, OmegaConfBaseException) as error:
        return _cause(error)
    return None


def _bad_choice(text: str, override: Override) -> str | None:
    options = sorted(path.stem for path in (CONF / override.key_or_group).glob("*.yaml"))
    value = str(override.value())
    if value in options:
        return None
    return f"{text}: no such option; {fields.nearest(value, options)} (options: {', '.join(options)})"


def _bad_key(tree: DictConfig, text: str, override: Override) -> str | None:
    """The first part of a dotted key that does not exist, with the nearest name that does."""
    node: Any = tree
    walked: list[str] = []
    for part in override.key_or_group.split("."):
        if not OmegaConf.is_dict(node):
            return f"{text}: {'.'.join(walked)} is a value and has no '{part}'"
        if part not in node:
            where = ".".join(walked)
            if where == "stages":
                known = [str(name) for name in node]
                return f"{text}: stages.{part} takes no part in this stage; {fields.nearest(part, known)}"
            known = [str(name) for name in node if name != "hydra"]
            return f"{text}: no key '{part}' {f'in {where}' if where else 'at the top'}; {fields.nearest(part, known)}"
        walked.append(part)
        node = node._get_node(part)
    return None

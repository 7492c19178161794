"""Fills in the settings of a node that follow from the rest of the configuration (`schema.filled_in`)."""

import dataclasses
from pathlib import Path
from typing import Any

from alma_pipeline import errors
from alma_pipeline.errors import ConfigError
from alma_pipeline.files import digest
from alma_pipeline.plan import directions
from alma_pipeline.schema import (
    Config,
    Language,
    Neural,
    NodeConfig,
    Source,
    WithDirections,
    WithLanguages,
    WithScorers,
    WithSystems,
)


def filled(config: Config, node: NodeConfig, group: int | None) -> NodeConfig:
    """The node with the languages and directions of the run or of its group, its scorers, and other systems' outputs."""
    changes: dict[str, Any] = {}
    if isinstance(node, WithScorers):
        changes["scorers"] = scorer_table(config, node.scorer_names())
    if isinstance(node, WithSystems):
        given = {name: Source(reader="files", path=path) for name, path in node.outputs.items()}
        changes |= {"outputs": {}, "given": given}
    if isinstance(node, WithLanguages):
        codes = [code for code in directions.languages(config) if group is None or config.languages[code].group == group]
        changes["languages"] = language_table(config, codes)
        if isinstance(node, WithDirections):
            chosen = [direction for direction in directions.chosen(config) if set(direction.split("-")) <= {"en", *codes}]
            changes["directions"] = [] if set(chosen) == set(directions.every(codes)) else chosen
    return dataclasses.replace(node, **changes)


def language_table(config: Config, codes: list[str]) -> dict[str, Language]:
    """English and `codes`, without their groups: moving a language to another group changes no key."""
    names = [item.name for item in dataclasses.fields(Language)]
    return {code: Language(**{name: getattr(config.languages[code], name) for name in names}) for code in ("en", *sorted(codes))}


def scorer_table(config: Config, names: list[str]) -> dict[str, Neural]:
    """The lines of the table of scorers that a node names; a file stands there with its content's SHA-256. Raises ConfigError."""
    unknown = [name for name in names if name not in config.scorers]
    if unknown:
        raise ConfigError([f"scorers: no scorer '{name}'; {errors.nearest(name, list(config.scorers))}" for name in unknown])
    return {name: _by_content(name, config.scorers[name]) for name in names}


def _by_content(name: str, scorer: Neural) -> Neural:
    if not scorer.model.endswith(".ckpt"):
        return scorer
    path = Path(scorer.model).expanduser().absolute()
    if not path.is_file():
        raise ConfigError([f"scorers.{name}.model={scorer.model}: no such file"])
    return dataclasses.replace(scorer, model=str(path), revision=f"sha256:{digest(path)}")

"""Fills a node's settings with what other parts of the configuration decide: languages, scorers, outputs, a token horizon."""

import dataclasses
import re
from pathlib import Path
from typing import Any

from alma_pipeline import errors
from alma_pipeline.errors import ConfigError
from alma_pipeline.files import DigestCache
from alma_pipeline.paths import store_root
from alma_pipeline.plan.languages import Languages, both_ways
from alma_pipeline.schema import (
    Config,
    Language,
    Neural,
    NodeConfig,
    Source,
    Training,
    WithDirections,
    WithLanguages,
    WithScorers,
    WithSystems,
)

OWN_HORIZON = re.compile(r"\+*(?:stages|budget|groups\.g\d)\.(\w+)\.(?:steps|epochs|tokens)=(?!null$)")
"""An override that sets the horizon of one node."""


def fill_node(config: Config, languages: Languages, node: NodeConfig, group: int | None) -> NodeConfig:
    """The node with the languages and directions of its group, or of the run, and the scorers and outputs that it names.

    Raises ConfigError for an unknown scorer.
    """
    changes: dict[str, Any] = {}
    if isinstance(node, WithScorers):
        changes["scorers"] = scorer_table(config, node.scorer_names())
    # Paths of other systems' outputs become sources, which `text_files` later names by content.
    if isinstance(node, WithSystems):
        sources = {name: Source(reader="files", path=path) for name, path in node.outputs.items()}
        changes |= {"outputs": {}, "system_outputs": sources}
    if isinstance(node, WithLanguages):
        changes["languages"] = language_table(config, languages.codes_of(group))
    # Every direction of the node's languages is the same as none listed, so that the key says it in one way.
    if isinstance(node, WithDirections):
        selected = languages.directions_of(group)
        changes["directions"] = [] if set(selected) == set(both_ways(languages.codes_of(group))) else selected
    return dataclasses.replace(node, **changes)


def language_table(config: Config, codes: list[str]) -> dict[str, Language]:
    """English and `codes`, without their groups: moving a language to another group changes no key."""
    names = [item.name for item in dataclasses.fields(Language)]
    return {code: Language(**{name: getattr(config.languages[code], name) for name in names}) for code in ("en", *sorted(codes))}


def scorer_table(config: Config, names: list[str]) -> dict[str, Neural]:
    """The neural scorers of these names; the revision of a local checkpoint is its SHA-256.

    Raises ConfigError for an unknown name or a missing file.
    """
    unknown = [name for name in names if name not in config.scorers]
    if unknown:
        raise ConfigError([f"scorers: no scorer '{name}'; {errors.suggestion(name, list(config.scorers))}" for name in unknown])
    return {name: _by_content(name, config.scorers[name]) for name in names}


def _by_content(name: str, scorer: Neural) -> Neural:
    if not scorer.model.endswith(".ckpt"):
        return scorer
    path = Path(scorer.model).expanduser().absolute()
    if not path.is_file():
        raise ConfigError([f"scorers.{name}.model={scorer.model}: no such file"])
    # Remembered as text files are: a scorer of 10 billion parameters would take a minute of each plan.
    found = DigestCache(store_root() / "digests.json").of(path)
    return dataclasses.replace(scorer, model=str(path), revision=f"sha256:{found}")


def with_token_horizon(config: Config) -> Config:
    """The configuration whose targets, and the controls compared with them, train for `tokens`.

    `tokens` replaces the steps, epochs or tokens of their budget; the learning-rate schedule follows from it, the amount of
    text prepared (`budget.text`) does not. Raises ConfigError if no target is trained.
    """
    if config.tokens is None:
        return config
    trained = [name for name in config.targets if isinstance(config.stages[name], Training)]
    if not trained:
        raise ConfigError([f"tokens={config.tokens:g}: no target of this stage is trained ({', '.join(config.targets)})"])
    controls = [control for control, counterpart in config.evaluation.controls.items() if counterpart in trained]
    horizon: Any = {"steps": None, "epochs": None, "tokens": config.tokens}
    names = [name for name in (*trained, *controls) if name in config.stages]
    stages = {name: dataclasses.replace(config.stages[name], **horizon) for name in names}
    return dataclasses.replace(config, stages=config.stages | stages)


def conflicting_horizons(config: Config, overrides: list[str]) -> list[str]:
    """A problem for each override that sets the horizon of a target although `tokens` is set."""
    if config.tokens is None:
        return []
    own = [(text, found[1]) for text in overrides if (found := OWN_HORIZON.match(text))]
    return [
        f"tokens={config.tokens:g} and {text} both set how long {name} trains; remove one of them"
        for text, name in own
        if name in config.targets
    ]

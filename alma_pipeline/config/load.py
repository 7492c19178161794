"""From command-line overrides to one frozen, checked `Config`.

Composition is Hydra's; this file adds the typed schema, the node dataclasses and the checks that need the whole. What is
wrong with a request that does not compose is `diagnosis`' business. It plans nothing.
"""

import re

from omegaconf import DictConfig

from alma_pipeline.config.check import from_tree
from alma_pipeline.config.compose import COMPOSITION_ERRORS, compose_tree, run_hydra
from alma_pipeline.errors import ConfigError
from alma_pipeline.paths import CONF
from alma_pipeline.plan.node_settings import conflicting_horizons
from alma_pipeline.redact import redact
from alma_pipeline.schema import Config


def load(overrides: list[str]) -> Config:
    """Compose and check. Raises ConfigError with every problem found, not only the first."""
    return resolve(overrides)[1]


def resolve(overrides: list[str], hydra: bool = False) -> tuple[DictConfig, Config]:
    """The composed tree, on request with Hydra's own node, and the same as checked dataclasses. Raises ConfigError."""
    from alma_pipeline.config import diagnosis, locate

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
        raise ConfigError(locate.located(error.problems, tree, overrides)) from error
    if conflicts := conflicting_horizons(config, overrides):
        raise ConfigError(conflicts)
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


ASIDE = ("--cfg", "--info", "--hydra-help")
"""Flags with which Hydra answers by itself."""


def ask_hydra(words: list[str]) -> int:
    """What Hydra answers by itself: `--cfg`, `--info`, completion."""
    try:
        return run_hydra(words, lambda tree: None)
    except COMPOSITION_ERRORS as error:
        from alma_pipeline.config import diagnosis

        overrides = [word for word in words if "=" in word and not word.startswith("-")]
        raise ConfigError(diagnosis.problems(overrides, error)) from error

"""Loads one frozen, checked `Config` from command-line overrides.

`compose` composes, `check` checks, and `diagnosis` explains a request that does not compose. It plans nothing.
"""

import contextlib
import dataclasses
import io
import re
import sys

from omegaconf import DictConfig

from alma_pipeline.config.check import from_tree
from alma_pipeline.config.compose import COMPOSITION_ERRORS, compose_tree, run_hydra
from alma_pipeline.errors import ConfigError
from alma_pipeline.paths import CONF
from alma_pipeline.plan.node_settings import conflicting_horizons
from alma_pipeline.redact import redact
from alma_pipeline.schema import Config

UNSET = ("experiment", "test")
"""Option groups without a default."""


def load(overrides: list[str]) -> Config:
    """Compose and check. Raises ConfigError with every problem found, not only the first."""
    return resolve(overrides)[1]


def resolve(overrides: list[str], hydra: bool = False) -> tuple[DictConfig, Config]:
    """The composed tree, and the same as checked dataclasses. `hydra`: include Hydra's own node. Raises ConfigError."""
    from alma_pipeline.config import diagnosis, locate

    check_credentials(overrides)
    _check_one_option(overrides)

    # Compose.
    failure = None
    try:
        tree = compose_tree(overrides, hydra)
    except COMPOSITION_ERRORS as error:
        failure = error
    if failure:  # outside the handler, so that errors raised by the diagnosis do not get this one as their context
        raise ConfigError(diagnosis.problems(overrides, failure)) from failure

    # Check.
    try:
        config = from_tree(tree)
    except ConfigError as error:
        raise ConfigError(locate.with_origin(error.problems, tree, overrides)) from error
    if conflicts := conflicting_horizons(config, overrides):
        raise ConfigError(conflicts)
    return tree, config


def check_credentials(overrides: list[str]) -> None:
    """Raises ConfigError for a credential in a setting, since settings are recorded, printed and tracked."""
    found = [
        f"{redact(text)}: a setting must not hold a credential, because settings are recorded; set it in the environment, "
        "as HF_TOKEN or MLFLOW_TRACKING_PASSWORD"
        for text in overrides
        if redact(text) != text
    ]
    if found:
        raise ConfigError(found)


def _check_one_option(overrides: list[str]) -> None:
    """Raises ConfigError for `model=[tiny,7b]`, which Hydra would merge into one model (only experiments can be stacked), and
    for `+model=7b` and `~model`, which would give it two or none."""
    found = [
        f"{text}: expected one option; to run once for each, use -m {group}={', '.join(options.split(',')).replace(' ', '')}"
        for text in overrides
        for group, options in re.findall(r"^(\w+)=\[(.*)\]$", text)
        if (CONF / group).is_dir() and group != "experiment"
    ]
    # A group has one option already, and what the schema declares always has a value.
    added = [(text, re.fullmatch(r"\+(\w+)=(.*)", text)) for text in overrides]
    found += [
        f"{text}: the group {word[1]} has an option already; write {word[1]}={word[2]}, without +"
        for text, word in added
        if word and (CONF / word[1]).is_dir() and word[1] not in UNSET
    ]
    declared = {item.name for item in dataclasses.fields(Config)}
    found += [
        f"{text}: a setting cannot be deleted; give it a value"
        for text in overrides
        if text.partition("=")[0].removeprefix("~") in declared and text.startswith("~")
    ]
    if found:
        raise ConfigError(found)


def ask_hydra(words: list[str]) -> int:
    """Let Hydra answer: `--cfg`, `--info`, `--hydra-help` and completion. Raises ConfigError."""
    overrides = [word for word in words if "=" in word and not word.startswith("-")]
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            return run_hydra(words, lambda tree: None)
    except COMPOSITION_ERRORS as error:
        from alma_pipeline.config import diagnosis

        raise ConfigError(diagnosis.problems(overrides, error)) from error
    except SystemExit as ended:
        if not ended.code or "--package" not in words:
            raise
        from alma_pipeline.config import diagnosis

        told = io.StringIO()  # Hydra's text has no nearest name
        raise ConfigError([diagnosis.unknown_key(overrides, words[words.index("--package") + 1])]) from ended
    finally:
        print(told.getvalue(), end="", file=sys.stderr)

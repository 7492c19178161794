"""`tokens=20e9`: how long the targets train, in place of the steps, epochs or tokens that their budget has.

The schedule is reckoned from the same number, for a node has one horizon (`ml.schedule`). Text is not cut by it: how much of
that is prepared is `budget.text`.
"""

import dataclasses
import re
from typing import Any

from alma_pipeline.errors import ConfigError
from alma_pipeline.schema import Config, Training

OWN = re.compile(r"\+*(?:stages|budget|groups\.g\d)\.(\w+)\.(?:steps|epochs|tokens)=(?!null$)")
"""An override that gives a node a horizon."""


def budgeted(config: Config) -> Config:
    """The configuration with its targets trained for `tokens`, and the controls that are compared with them alike.

    Raises ConfigError where no target is trained.
    """
    if config.tokens is None:
        return config
    names = [name for name in config.targets if isinstance(config.stages[name], Training)]
    if not names:
        raise ConfigError([f"tokens={config.tokens:g}: no target of this stage is trained ({', '.join(config.targets)})"])
    names += [extra for extra, counterpart in config.evaluation.controls.items() if counterpart in names]
    budget: Any = {"steps": None, "epochs": None, "tokens": config.tokens}
    nodes = {name: dataclasses.replace(config.stages[name], **budget) for name in names if name in config.stages}
    return dataclasses.replace(config, stages=config.stages | nodes)


def asked_twice(config: Config, overrides: list[str]) -> list[str]:
    """The overrides that give a target a horizon of its own beside `tokens`, as problems."""
    if config.tokens is None:
        return []
    own = [(text, found[1]) for text in overrides if (found := OWN.match(text))]
    said = f"tokens={config.tokens:g}"
    return [f"{said} and {text} both say how long {name} trains; leave one out" for text, name in own if name in config.targets]

"""The real recipe for plans, with the same checkpoints evaluated whatever the evaluation option has."""

import dataclasses
import functools
import json
from typing import Any

from alma_pipeline.config import load as configuration
from alma_pipeline.job import RESUME_SCHEMA
from alma_pipeline.plan.graph import build
from alma_pipeline.plan.plan import Plan
from alma_pipeline.schema import Config, Released
from alma_pipeline.store.identity import key_settings
from alma_pipeline.store.store import Store

CHECKPOINTS = ["base", "mono", "parallel", "cpo", "group_parallel", "arpo"]


@functools.cache
def loaded(*overrides: str) -> Config:
    """The real configuration with two languages of group 1 and two of group 3; composing takes a second, the result is frozen."""
    return configuration.load([*overrides, "data.languages=[de,sv,ru,uk]"])


def works(plan: Plan) -> list[str]:
    return [step.node.name for step in plan.work]


def verdicts(plan: Plan) -> dict[str, str]:
    return {step.node.name: step.verdict for step in plan.steps}


def real(*overrides: str) -> Config:
    """The real configuration with these checkpoints evaluated, whatever the evaluation option has."""
    config = loaded(*overrides)
    changes: dict[str, Any] = {"controls": {}, "checkpoints": CHECKPOINTS}
    return dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, **changes))


def left_off(store: Store, name: str, key: str, step: int, **topology: Any) -> None:
    folder = store.work_path(name, key) / "resume" / f"step-{step}"
    folder.mkdir(parents=True)
    text = json.dumps(
        {"schema": RESUME_SCHEMA, "step": step, "topology": {"processes": 1, "zero_stage": 0, "precision": "fp32"} | topology}
    )
    (folder / "manifest.json").write_text(text)


def released(config: Config, *names: str, **changes: Any) -> Config:
    """With a published checkpoint for these nodes, stated with the settings that `config` has."""
    stated = {node.name: key_settings(node.config) for node in build(config)}
    entries = {
        name: Released(
            repo=f"someone/{name}", revision="0123456789abcdef", languages=config.data.languages, config=stated, **changes
        )
        for name in names
    }
    return dataclasses.replace(config, model=dataclasses.replace(config.model, released=entries))

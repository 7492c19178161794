"""Recipes of fake nodes, planned by the real plan."""

import dataclasses
from typing import Any
from unittest import mock

from stages.fake.config import Config as Fake

from alma_pipeline.plan import plan
from alma_pipeline.plan.plan import Plan, Rerun
from alma_pipeline.schema import Budget, Config, Data, Evaluation, GroupedLanguage, Hardware, Model, NodeConfig, Tracking
from alma_pipeline.store.store import Store

LANGUAGES = {
    "en": GroupedLanguage(name="English", locale="en", nllb="eng_Latn", group=None),
    "de": GroupedLanguage(name="German", locale="de", nllb="deu_Latn", group=1),
    "ru": GroupedLanguage(name="Russian", locale="ru", nllb="rus_Cyrl", group=3),
}
LOCAL = Hardware(name="test")
PAIR = Hardware(name="pair", max_parallel_nodes=2)


def recipe(nodes: dict[str, NodeConfig], *targets: str, hardware: Hardware = LOCAL, **others: Any) -> Config:
    """A configuration of just these nodes; the last one is the target unless told otherwise."""
    values: dict[str, Any] = {
        "targets": list(targets) or [list(nodes)[-1]],
        "stages": nodes,
        "hardware": hardware,
        "model": Model(name="none"),
        "data": Data(name="none", languages=["de", "ru"]),
        "languages": LANGUAGES,
        "evaluation": Evaluation(name="none"),
        "tracking": Tracking(name="none", enabled=False),
        "budget": Budget(name="none"),
    }
    return Config(**values | others)


def chain(steps: int = 2, kind: type[Fake] = Fake, hardware: Hardware = LOCAL) -> Config:
    """a → b → c, each with a letter of text."""
    nodes = {
        "a": kind(text="a", steps=steps),
        "b": kind(text="b", steps=steps, inputs={"init": "a"}),
        "c": kind(text="c", steps=steps, inputs={"init": "b"}),
    }
    return recipe(nodes, hardware=hardware)


def diamond(steps: int = 3, hardware: Hardware = PAIR) -> Config:
    """b and c stand on a, d on both."""
    nodes = {
        "a": Fake(text="a", steps=steps),
        "b": Fake(text="b", steps=steps, inputs={"init": "a"}),
        "c": Fake(text="c", steps=steps, inputs={"init": "a"}),
        "d": Fake(text="d", steps=steps, inputs={"init": "b", "other": "c"}),
    }
    return recipe(nodes, hardware=hardware)


def changed(config: Config, node: str, **settings: Any) -> Config:
    """As `stages.<node>.<setting>=value` would have it."""
    return dataclasses.replace(config, stages=config.stages | {node: dataclasses.replace(config.stages[node], **settings)})


def planned(config: Config, store: Store, rerun: Rerun | None = None) -> Plan:
    """The real plan, without estimates: nobody knows how long a fake takes."""
    with mock.patch.object(plan, "estimate", return_value=None):
        return plan.make_plan(config, store, rerun)

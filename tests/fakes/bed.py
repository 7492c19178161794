"""Recipes of fake nodes, planned and run by the real plan, runner, store, launcher and worker."""

import dataclasses
import functools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest
from stages.fake.config import Config as Fake

from alma_pipeline.config import load as configuration
from alma_pipeline.execution import fork_client, launch
from alma_pipeline.execution.runner import Runner
from alma_pipeline.plan import plan
from alma_pipeline.plan.plan import Plan, Rerun, Step
from alma_pipeline.schema import Budget, Config, Data, Evaluation, GroupedLanguage, Hardware, Model, NodeConfig, Tracking
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store

SITE = os.pathsep.join(map(str, [Path(__file__).parent / "site", Path(__file__).parents[2]]))
"""For PYTHONPATH: workers know the fakes, and the code beside these tests whatever else is installed."""
PARENT = Path(__file__).parent / "parent.py"
LANGUAGES = {
    "en": GroupedLanguage(name="English", locale="en", nllb="eng_Latn", group=None),
    "de": GroupedLanguage(name="German", locale="de", nllb="deu_Latn", group=1),
    "ru": GroupedLanguage(name="Russian", locale="ru", nllb="rus_Cyrl", group=3),
}
LOCAL = Hardware(name="test")
PAIR = Hardware(name="pair", side_by_side=2)
CANARY = "canary-5f1c77"
"""A token in the workers' environment."""


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


@functools.cache
def loaded(*overrides: str) -> Config:
    """The real configuration with two languages of group 1 and two of group 3; composing takes a second, the result is frozen."""
    return configuration.load([*overrides, "data.languages=[de,sv,ru,uk]"])


def changed(config: Config, node: str, **settings: Any) -> Config:
    """As `stages.<node>.<setting>=value` would have it."""
    return dataclasses.replace(config, stages=config.stages | {node: dataclasses.replace(config.stages[node], **settings)})


def planned(config: Config, store: Store, rerun: Rerun | None = None) -> Plan:
    """The real plan, without estimates: nobody knows how long a fake takes."""
    with mock.patch.object(plan, "estimate", return_value=None):
        return plan.make_plan(config, store, rerun)


class Told:
    """A watcher that remembers what it was told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, ...]] = []
        self.lines: list[dict[str, Any]] = []
        self.texts: list[str] = []

    def started(self, step: Step, work: Path) -> None:
        self.events.append((step.node.name, "started"))

    def progressed(self, step: Step, lines: list[dict[str, Any]]) -> None:
        self.lines += lines

    def ended(self, step: Step, status: str, record: Record | None, work: Path) -> None:
        self.events.append((step.node.name, status))

    def waiting(self, text: str) -> None:
        self.texts.append(text)


@contextmanager
def fake_world(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Path]:
    """Workers that know the fakes, a server that preloads no more than them; gives the folder of orders and journals."""
    orders = folder / "orders"
    orders.mkdir()
    monkeypatch.setenv("PYTHONPATH", SITE)
    monkeypatch.setenv("FAKE_ORDERS", str(orders))
    monkeypatch.setattr(fork_client, "PRELOADED", ("alma_pipeline.execution.worker",))
    yield orders


class World:
    """A store, a launcher, and what tests do with them."""

    def __init__(self, root: Path, orders: Path, launcher: launch.Launcher) -> None:
        self.store = Store(root / "store")
        self.orders = orders
        self.launcher = launcher
        self.told = Told()

    def order(self, node: str, **what: Any) -> None:
        (self.orders / f"{node}.json").write_text(json.dumps(what))

    def journal(self, node: str) -> list[tuple[int, str]]:
        return journal(self.orders, node)

    def ran(self, node: str) -> int:
        """How many workers worked on a node."""
        return len({pid for pid, _ in self.journal(node)})

    def run(self, config: Config, rerun: Rerun | None = None) -> dict[str, Record]:
        runner = Runner(self.store, config.hardware, self.launcher, [self.told], {"pid": 0})
        runner.run(planned(config, self.store, rerun))
        return runner.done


def journal(orders: Path, node: str) -> list[tuple[int, str]]:
    """(process id, word) of each line its workers wrote."""
    file = orders / f"{node}.journal"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(int(pid), word) for pid, _, word in (line.partition(" ") for line in lines)]


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """The condition's first true value; fails when it does not come."""
    until = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < until, f"waited {seconds} s in vain"
        time.sleep(0.01)
    return value


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def later(action: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


def put(store: Store, name: str, key: str, record: dict[str, Any] | None = None, files: dict[str, str] | None = None) -> Record:
    """An artifact made by the store's own protocol, without a worker."""
    work = store.begin(name, key)
    try:
        out = work.path / "out"
        out.mkdir()
        for file, text in (files or {"text.txt": name}).items():
            (out / file).parent.mkdir(parents=True, exist_ok=True)
            (out / file).write_text(text)
        plain = {
            "name": name,
            "key": key,
            "kind": "fake",
            "payload": {"kind": "fake", "version": 1, "config": {}, "inputs": {}},
            "result": {},
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "seconds": 1.0,
        }
        return store.commit(work, plain | (record or {}))
    finally:
        work.close()


COUNTS = {"train_examples": 640, "train_tokens": 12_400, "dev_examples": 10}


def fill(store: Store, planned: Plan, *names: str) -> None:
    """Make the artifacts of a plan's steps, all of them or those named, as their workers would have."""
    for step in planned.steps:
        if step.works and (not names or step.node.name in names):
            result = {"counts": COUNTS} if step.node.kind in ("corpus", "preferences") else {}
            put(store, step.node.name, step.key, {"kind": step.node.kind, "payload": step.payload, "result": result})


def parent(root: Path, mode: str, steps: int) -> list[str]:
    """The command of a parent process that makes `chain` in the store `root`."""
    return [sys.executable, str(PARENT), str(root), mode, str(steps)]

"""Fake nodes run by the real runner, launcher, worker and store, and what tests order and see of them."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from alma_pipeline.execution import fork_client, launch
from alma_pipeline.execution.runner import Runner
from alma_pipeline.plan.plan import Rerun, Step
from alma_pipeline.schema import Config
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store
from helpers import PYTHONPATH
from helpers.fake_stages.recipes import planned

SITE = f"{Path(__file__).parent / 'site'}{os.pathsep}{PYTHONPATH}"
"""For PYTHONPATH: workers know the fakes, and the code beside these tests whatever else is installed."""
CANARY = "canary-5f1c77"
"""A token in the workers' environment."""


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

    def restarts(self, step: Step, text: str) -> None:
        self.events.append((step.node.name, "restarts"))
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
        runner = self.runner(config)
        runner.run(planned(config, self.store, rerun))
        return runner.done

    def runner(self, config: Config) -> Runner:
        return Runner(self.store, config.hardware, self.launcher, [self.told], {"pid": 0})


def journal(orders: Path, node: str) -> list[tuple[int, str]]:
    """(process id, word) of each line its workers wrote."""
    file = orders / f"{node}.journal"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(int(pid), word) for pid, _, word in (line.partition(" ") for line in lines)]


def parent(root: Path, mode: str, steps: int) -> list[str]:
    """The command of a parent process that makes `chain` in the store `root`."""
    return [sys.executable, "-m", "helpers.fake_stages.parent", str(root), mode, str(steps)]

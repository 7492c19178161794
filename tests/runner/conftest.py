"""A warm server and a store, for fakes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from alma_pipeline.execution.launch import Launcher
from helpers.fake_stages.recipes import LOCAL
from helpers.fake_stages.world import CANARY, World, fake_world


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """One warm server for all: it is what it is for."""
    folder = tmp_path_factory.mktemp("server")
    with pytest.MonkeyPatch.context() as patched, fake_world(patched, folder):
        patched.setenv("HF_TOKEN", CANARY)
        launcher = Launcher(LOCAL, folder)
        yield launcher
        launcher.close()


@pytest.fixture
def world(launcher: Launcher, tmp_path: Path) -> World:
    orders = launcher.log.parent / "orders"
    for file in orders.iterdir():
        file.unlink()
    return World(tmp_path, orders, launcher)

"""Work folders for launchers to start workers on, commands that scripts play, and a Slurm cluster."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stages.fake_many.config import Config as FakeMany

from alma_pipeline.job import Job
from alma_pipeline.store.store import Store, WorkFolder
from helpers.fake_stages.recipes import planned, recipe
from helpers.fake_stages.world import fake_world
from helpers.slurm_cluster import Cluster


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    with fake_world(monkeypatch, tmp_path) as orders:
        yield orders


@pytest.fixture
def prepared(store: Store) -> Iterator[Callable[..., tuple[Path, str]]]:
    """Makes a work folder with its job, as the runner leaves it to a launcher; the locks are held to the end."""
    held: list[WorkFolder] = []

    def prepare(name: str = "a") -> tuple[Path, str]:
        config = recipe({name: FakeMany(text=name)})
        step = planned(config, store)[name]
        work = store.begin(name, step.key)
        (work.path / "out").mkdir(exist_ok=True)
        Job(name, step.key, str(work.path), step.node.config, config.hardware, {}).write()
        held.append(work)
        return work.path, work.token

    yield prepare
    for work in held:
        work.close()


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], None]:
    """Puts a script of this name first on the PATH."""

    def play(name: str, script: str) -> None:
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!{shutil.which('sh')}\n{script}\n")
        file.chmod(0o755)
        monkeypatch.setenv("PATH", f"{file.parent}{os.pathsep}{os.environ['PATH']}")

    return play


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A real one, for all tests of a file."""
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()

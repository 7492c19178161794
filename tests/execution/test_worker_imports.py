"""Workers import nothing from the working folder, and run whatever Python's variables say."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alma_pipeline.execution.fork_client import ForkServer
from alma_pipeline.execution.launch import Launcher, start_without_server
from alma_pipeline.schema import Hardware
from helpers.hostile_folder import hostile, imported
from helpers.processes import wait_for

Prepared = Callable[..., tuple[Path, str]]


def ended(running: Any) -> int:
    wait_for(lambda: running.poll() is not None)
    code: int = running.poll()
    return code


@pytest.mark.parametrize("oddities", [[], ["", ".", "HERE", "../here"]])
def test_workers_import_nothing_from_the_working_folder(
    orders: Path, tmp_path: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch, oddities: list[str]
) -> None:
    """Forked and on its own; however PYTHONPATH names the folder."""
    folder = hostile(tmp_path / "here", set())
    monkeypatch.chdir(folder)
    entries = [str(folder) if entry == "HERE" else entry for entry in oddities]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*entries, os.environ["PYTHONPATH"]]))
    hardware = Hardware(name="x")
    server = ForkServer(hardware, tmp_path / "server.txt")
    assert ended(server.start(*prepared("forked"))) == 0, (tmp_path / "server.txt").read_text()
    server.close()
    work, token = prepared("alone")
    assert ended(start_without_server(hardware, work, token, distributed=False)) == 0, (work / "log.txt").read_text()
    assert imported(folder) == []


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed"])
def test_launchers_import_nothing_from_the_working_folder(
    orders: Path,
    tmp_path: Path,
    prepared: Prepared,
    played: Callable[[str, str], None],
    monkeypatch: pytest.MonkeyPatch,
    launcher: str,
) -> None:
    played("ssh", 'while [ "$1" != localhost ]; do shift; done; shift; exec "$@"')
    folder = hostile(tmp_path / "here", set())
    (folder / "hosts").write_text("localhost slots=2\n")
    monkeypatch.chdir(folder)
    hardware = Hardware(name="two", launcher=launcher, devices=2, hostfile="hosts")
    started = Launcher(hardware, tmp_path)
    work, token = prepared()
    assert ended(started.start(work, token, distributed=True)) == 0, (work / "log.txt").read_text()
    started.close()
    assert imported(folder) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("PYTHONOPTIMIZE", "2"), ("PYTHONWARNINGS", "error"), ("PYTHONINSPECT", "1"), ("PYTHONSTARTUP", "no/such.py"),
     ("PYTHONDONTWRITEBYTECODE", "1"), ("PYTHONHOME", sys.base_prefix), ("PYTHONIOENCODING", "ascii")],
)  # fmt: skip
def test_workers_get_an_environment_that_works(
    orders: Path, tmp_path: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """The worker asserts, has docstrings, may warn, and may write any character to its log."""
    if name == "PYTHONHOME":  # it hides the packages of a virtual environment, which the path then has to name
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.environ["PYTHONPATH"], *sys.path]))
    monkeypatch.setenv(name, value)
    (orders / "a.json").write_text(json.dumps({"end": "demanding"}))
    work, token = prepared()
    running = start_without_server(Hardware(name="x"), work, token, distributed=False)
    assert ended(running) == 0, (work / "log.txt").read_text()
    assert "数" in (work / "log.txt").read_text(encoding="utf-8")

"""The command imports nothing from the working folder, and a checkout runs its own packages."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from alma_pipeline import start
from helpers import ROOT
from helpers.hostile_folder import hostile, imported

LOADED_EARLY = "import sys, runpy, importlib.util, pkgutil; print(*sys.modules)"
"""What Python itself loads for `python -m`, before a line of the module runs."""


@pytest.fixture(scope="module")
def early() -> set[str]:
    done = subprocess.run([sys.executable, "-I", "-c", LOADED_EARLY], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize("words", [["-m", "alma_pipeline"], [str(ROOT / "alma_pipeline" / "start.py"), "alma_pipeline.__main__"]])
def test_the_command_imports_nothing_from_the_working_folder(tmp_path: Path, early: set[str], words: list[str]) -> None:
    """`python -m` has loaded a few modules of its own by then; `-P` and the installed command have not."""
    by_path = words[0] != "-m"
    folder = hostile(tmp_path / "here", set() if by_path else early)
    command = [sys.executable, *(["-P"] if by_path else []), *words, "plan", "--json", "stage=mono"]
    values = os.environ | {"ALMA_PIPELINE_STORE": str(tmp_path / "store")}
    done = subprocess.run(command, cwd=folder, env=values, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] and imported(folder) == []


def test_a_checkout_without_installation_runs_its_own_packages(tmp_path: Path) -> None:
    """README's first command, and a user's files beside the packages: those are loaded, and nothing else from there."""
    for name in ("alma_pipeline", "stages", "conf", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    copied = tmp_path / "alma_pipeline"
    copied.unlink()
    copied.mkdir()
    for path in (ROOT / "alma_pipeline").iterdir():
        (copied / path.name).symlink_to(path)
    (copied / "start.py").unlink()
    (copied / "start.py").write_text((ROOT / "alma_pipeline" / "start.py").read_text())
    for name in ("random", "wandb", "tokenize"):
        (tmp_path / f"{name}.py").write_text("raise ImportError(__file__)")
    values = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "alma_pipeline", "plan", "--json", "stage=mono"]
    done = subprocess.run(command, cwd=tmp_path, env=values, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and json.loads(done.stdout)["steps"], done.stderr
    look = "from alma_pipeline import start; start.set_import_path(); import stages; print(stages.__file__)"
    found = subprocess.run([sys.executable, "-c", look], cwd=tmp_path, env=values, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(tmp_path / "stages" / "__init__.py")


def test_relative_entries_of_the_path_are_kept_as_they_were_meant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    values = {"PYTHONPATH": f"lib{os.pathsep}{os.pathsep}/opt/x{os.pathsep}.{os.pathsep}{tmp_path}"}
    start.set_variables(values)
    assert values["PYTHONPATH"] == f"{tmp_path / 'lib'}{os.pathsep}/opt/x"
    assert values["PYTHONSAFEPATH"] == "1"

"""Installed, as a wheel and for editing: the command runs from any folder, with its configuration and its stages."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("alma_pipeline", "conf", "stages", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is packaged: building leaves folders behind."""
    folder = tmp_path_factory.mktemp("source")
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, folder / name)
    return folder


def outside() -> dict[str, str]:
    """The environment without the path of this checkout, whose metadata would pass for an installed package."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *words]
    done = subprocess.run(command, env=outside(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def fresh(folder: Path) -> Path:
    """The Python of a new environment that sees the libraries of this one, but not this project."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    packages = folder / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def planned(python: Path, folder: Path) -> tuple[Path, dict[str, str]]:
    """Where the command takes its code from, and the verdicts of its plan, run in `folder`."""
    environment = outside() | {"ALMA_PIPELINE_STORE": str(folder / "store")}
    where = "import alma_pipeline, stages; print(alma_pipeline.__file__); print(next(iter(stages.__path__)))"
    found = subprocess.run([python, "-c", where], cwd=folder, env=environment, capture_output=True, text=True, check=True)
    code, kinds = map(Path, found.stdout.splitlines())
    assert code.parent.parent == kinds.parent
    command = [str(python.with_name("alma-pipeline")), "plan", "--json", "stage=cpo", "model=13b"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return kinds.parent, {step["node"]: step["verdict"] for step in json.loads(done.stdout)["steps"]}


def test_a_wheel_brings_its_configuration_its_stages_and_its_templates(source: Path, tmp_path: Path) -> None:
    there = {str(path.relative_to(source)) for part in PARTS[:3] for path in (source / part).rglob("*") if path.is_file()}
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(source))
    [wheel] = tmp_path.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == there
    python = fresh(tmp_path / "env")
    pip("--python", str(python), "install", "--no-deps", "--no-index", str(wheel))
    (tmp_path / "elsewhere").mkdir()
    root, verdicts = planned(python, tmp_path / "elsewhere")
    assert root.is_relative_to(tmp_path / "env")
    assert (verdicts["mono"], verdicts["parallel"], verdicts["cpo"]) == ("adopt", "adopt", "run")


def test_an_editable_install_runs_from_any_folder(source: Path, tmp_path: Path) -> None:
    python = fresh(tmp_path / "env")
    pip("--python", str(python), "install", "--no-deps", "--no-index", "--no-build-isolation", "--editable", str(source))
    (tmp_path / "elsewhere").mkdir()
    root, verdicts = planned(python, tmp_path / "elsewhere")
    assert root == source and verdicts["cpo"] == "run"

"""Who may import what: the recipe's stages, the machinery and the libraries stay apart."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"torch", "transformers", "peft", "deepspeed", "datasets", "accelerate", "safetensors", "tokenizers"}
WITHOUT_HYDRA = [
    "worker",
    "job",
    "store",
    "runner",
    "launch",
    "forkserver",
    "slurm_agent",
    "identity",
    "errors",
    "redact",
    "doctor",
]
LOADS = {
    "alma_pipeline/schema/kinds.py": ["f'stages.{kind}.config'"],
    "alma_pipeline/worker.py": ["f'stages.{job.config.kind}.run'"],
    "alma_pipeline/forkserver.py": ["name", "'alma_pipeline.worker'"],
}
"""What is imported by name: a kind's settings in the parent, its work in the worker, and what the server is told."""


def sources() -> dict[str, ast.Module]:
    """Every source file of the two packages, by path."""
    files = [*(ROOT / "alma_pipeline").rglob("*.py"), *(ROOT / "stages").rglob("*.py")]
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8")) for path in files}


def imported(tree: ast.Module) -> Iterator[str]:
    """Full names of all that a file imports, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def tops(tree: ast.Module) -> set[str]:
    return {name.partition(".")[0] for name in imported(tree)}


SOURCES = sources()


def test_all_files_are_walked() -> None:
    assert len(SOURCES) >= 90
    assert {"alma_pipeline/plan.py", "alma_pipeline/ml/training.py", "stages/cpo/run.py", "stages/cpo/config.py"} <= set(SOURCES)
    assert "torch" in tops(SOURCES["alma_pipeline/ml/training.py"]), "the walk sees what there is"


def may_be_heavy(path: str) -> bool:
    return (
        path.startswith("alma_pipeline/ml/")
        or path == "alma_pipeline/worker.py"
        or bool(re.fullmatch(r"stages/\w+/run.py", path))
    )


@pytest.mark.parametrize("path", [path for path in SOURCES if not may_be_heavy(path)])
def test_training_libraries_stay_in_the_worker(path: str) -> None:
    assert not tops(SOURCES[path]) & HEAVY


@pytest.mark.parametrize("path", [path for path in SOURCES if not path.startswith("alma_pipeline/tracking")])
def test_mlflow_stays_in_tracking(path: str) -> None:
    assert "mlflow" not in tops(SOURCES[path])


@pytest.mark.parametrize("path", [path for path in SOURCES if path.startswith("alma_pipeline/tracking")])
def test_tracking_imports_mlflow_only_when_something_is_tracked(path: str) -> None:
    for node in SOURCES[path].body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            assert "mlflow" not in tops(ast.Module([node], []))


@pytest.mark.parametrize("path", [path for path in SOURCES if path.startswith("alma_pipeline/")])
def test_the_machinery_knows_no_stage_by_name(path: str) -> None:
    """Two loads by name, and the list of the kinds that there are; the other way round is free."""
    found = {name for name in imported(SOURCES[path]) if name.partition(".")[0] == "stages"}
    assert found == ({"stages"} if path == "alma_pipeline/schema/kinds.py" else set())
    calls = [node for node in ast.walk(SOURCES[path]) if isinstance(node, ast.Call)]
    loads = [ast.unparse(call.args[0]) for call in calls if ast.unparse(call.func).endswith(("import_module", "__import__"))]
    assert loads == LOADS.get(path, [])


@pytest.mark.parametrize("name", WITHOUT_HYDRA)
def test_workers_and_what_they_stand_on_know_no_hydra(name: str) -> None:
    """B17, B21."""
    assert "hydra" not in tops(SOURCES[f"alma_pipeline/{name}.py"])


@pytest.mark.parametrize("path", [path for path in SOURCES if may_be_heavy(path)])
def test_the_training_side_knows_neither_hydra_nor_tracking_nor_the_plan(path: str) -> None:
    parent = {"alma_pipeline.config", "alma_pipeline.plan", "alma_pipeline.runner", "alma_pipeline.launch", "alma_pipeline.cli"}
    names = set(imported(SOURCES[path]))
    assert not tops(SOURCES[path]) & {"hydra", "mlflow", "rich"}
    assert not {name for name in names if any(name == other or name.startswith(f"{other}.") for other in parent)}


@pytest.mark.parametrize("path", [path for path in SOURCES if re.fullmatch(r"stages/\w+/\w+.py", path)])
def test_a_stage_imports_no_other_stage(path: str) -> None:
    own = path.split("/")[1]
    assert not [name for name in imported(SOURCES[path]) if name.startswith("stages.") and name.split(".")[1] != own]


def loaded_by(code: str) -> set[str]:
    """What a fresh Python has imported after this code."""
    script = f"import sys\n{code}\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    return set(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_parents_side_imports_nothing_heavy() -> None:
    """Indirectly either: every module but the worker's side, and every kind's settings, in one fresh process."""
    parents = [path for path in SOURCES if not may_be_heavy(path) and not path.endswith("__main__.py")]
    modules = [path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in parents]
    assert len(modules) >= 45
    found = loaded_by("import importlib\n" + "\n".join(f"importlib.import_module({name!r})" for name in modules))
    assert "hydra" in found and not found & (HEAVY | {"mlflow", "sacrebleu", "pandas", "numpy"})


def test_a_worker_imports_neither_hydra_nor_mlflow() -> None:
    assert not loaded_by("import alma_pipeline.worker, alma_pipeline.forkserver") & (HEAVY | {"hydra", "mlflow", "rich"})


def test_the_command_line_itself_is_light() -> None:
    """Children of the server import the parent's `__main__`, and `--help` must not wait."""
    assert not loaded_by("import alma_pipeline.__main__") & (HEAVY | {"hydra", "mlflow", "omegaconf"})

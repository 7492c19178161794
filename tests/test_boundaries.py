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
WITHOUT_HYDRA = ("errors", "redact", "job", "store/", "ml/", "execution/", "cli/doctor")
"""Starts of paths in the package: workers, and what they stand on."""
ORDER = (
    ("errors", "paths", "files", "given_files", "output_file", "redact", "units", "instants"),
    ("streams", "console", "start", "disk", "mounts", "heartbeat", "lease"),
    ("schema",),
    ("job",),
    ("ml.distributed", "ml.rng", "ml.device_memory", "ml.json_process"),
    ("ml.data",),
    ("ml.scoring",),
    ("ml.models",),
    ("ml.decoding",),
    ("ml.training",),
    ("store",),
    ("plan",),
    ("config",),
    ("execution",),
    ("tracking",),
    ("report",),
    ("model_card",),
    ("translation",),
    ("cli",),
    ("__main__",),
)
"""The rooms from the ground floor up: a module imports from its own room and from the rooms below, never upward.

Modules of the ground floor import one another, but in no circle. `stages` may import all up to `ml.training`.
"""
LOADS = {
    "alma_pipeline/start.py": ["name"],
    "alma_pipeline/cli/main.py": ["f'alma_pipeline.cli.{arguments.verb}'"],
    "alma_pipeline/schema/kinds.py": ["f'stages.{kind}.config'"],
    "alma_pipeline/execution/worker.py": ["f'stages.{job.config.kind}.run'"],
    "alma_pipeline/execution/fork_server.py": ["name", "'alma_pipeline.execution.worker'"],
}
"""What is imported by name: a verb, a kind's settings in the parent, its work in the worker, and what the server is told."""


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
    assert {
        "alma_pipeline/plan/plan.py",
        "alma_pipeline/ml/training/loop.py",
        "stages/cpo/run.py",
        "stages/cpo/config.py",
    } <= set(SOURCES)
    assert "torch" in tops(SOURCES["alma_pipeline/ml/training/loop.py"]), "the walk sees what there is"


def may_be_heavy(path: str) -> bool:
    return (
        path.startswith("alma_pipeline/ml/")
        or path == "alma_pipeline/execution/worker.py"
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


def module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def graph() -> dict[str, set[str]]:
    """Every module of the two packages, and the modules among them that it imports, also inside functions."""
    modules = {module_name(path) for path in SOURCES}

    def meant(name: str) -> str:
        return name if name in modules else name.rpartition(".")[0]

    return {module_name(path): {meant(name) for name in imported(tree)} & modules for path, tree in SOURCES.items()}


def components(arrows: dict[str, set[str]]) -> list[set[str]]:
    """The strongly connected components of a graph: what can be reached from each other (Kosaraju's two walks)."""
    backwards: dict[str, set[str]] = {name: set() for name in arrows}
    for name, others in arrows.items():
        for other in others:
            backwards[other].add(name)
    finished: list[str] = []
    seen: set[str] = set()
    for name in arrows:
        _walk(arrows, name, seen, finished)
    found: list[set[str]] = []
    seen = set()
    for name in reversed(finished):
        members: list[str] = []
        _walk(backwards, name, seen, members)
        found += [set(members)] if members else []
    return found


def _walk(arrows: dict[str, set[str]], start: str, seen: set[str], finished: list[str]) -> None:
    """Depth first from `start`; appends each newly met name once all behind it is appended."""
    stack = [(start, iter(arrows[start]))] if start not in seen else []
    seen.add(start)
    while stack:
        name, left = stack[-1]
        other = next((other for other in left if other not in seen), None)
        if other is None:
            finished.append(name)
            stack.pop()
        else:
            seen.add(other)
            stack.append((other, iter(arrows[other])))


def room(module: str) -> int | None:
    """The floor of a module of the package; None for the package itself, which is empty."""
    name = module.removeprefix("alma_pipeline").removeprefix(".")
    floors = [floor for floor, rooms in enumerate(ORDER) for each in rooms if name == each or name.startswith(f"{each}.")]
    return floors[0] if floors else None


def test_components_finds_circles() -> None:
    assert components({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) in ([{"d"}, {"a", "b", "c"}], [{"a", "b", "c"}, {"d"}])


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert [sorted(members) for members in components(graph()) if len(members) > 1] == []


def test_every_module_has_a_room() -> None:
    homeless = [name for name in graph() if name.startswith("alma_pipeline.") and room(name) is None]
    assert homeless == ["alma_pipeline.ml"]


def test_rooms_import_downward_only() -> None:
    upward = [
        f"{module} imports {other}"
        for module, others in graph().items()
        for other in others
        if (here := room(module)) is not None and (there := room(other)) is not None and there > here
    ]
    assert upward == []


def test_stages_import_the_translation_library_and_what_is_below_it() -> None:
    limit = next(floor for floor, rooms in enumerate(ORDER) if "ml.training" in rooms)
    above = [
        f"{module} imports {other}"
        for module, others in graph().items()
        for other in others
        if module.startswith("stages.") and (room(other) or 0) > limit
    ]
    assert above == []


def test_rooms_are_small() -> None:
    """A folder is read at a glance: about 20 modules; cli has one for each of 11 verbs."""
    folders = [path.rpartition("/")[0] for path in SOURCES if not path.endswith("__init__.py")]
    assert {folder: folders.count(folder) for folder in set(folders) if folders.count(folder) > 24} == {}


SMALL = {
    "__main__.py": "Python wants it",
    "instants.py": "records, provenance, tracking and reports share it",
    "console.py": "the ground floor's only use of rich",
    "schema/scorer.py": "one noun; `evaluation` and `data` both hold it",
    "schema/block_training.py": "settings of two kinds, which cannot import each other",
    "schema/preference_training.py": "settings of two kinds, which cannot import each other",
    "config/groups.py": "help must not import Hydra",
    "config/late_nodes.py": "composition and shared settings both need it",
    "config/shared_settings.py": "the one generated part of the configuration",
    "cli/show.py": "a verb lives in the file of its name",
    "execution/downloads.py": "run and translate both need it, and preflight, which asks no network",
    "ml/device_memory.py": "training and decoding both need it",
    "ml/rng.py": "resume and load both need it",
    "ml/models/causal.py": "training and decoding both need it",
    "ml/models/end_tokens.py": "importing, training, decoding and adopt need it, and adopt imports no torch",
    "schema/time_limit.py": "the launcher, the plan's table and the check of settings need it",
    "ml/training/block_training.py": "the body of two kinds, which cannot import each other",
}
"""Modules below 40 lines, and why each is alone."""


def test_small_modules_have_a_reason_to_be_alone() -> None:
    package = ROOT / "alma_pipeline"
    small = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if path.name != "__init__.py" and len(path.read_text(encoding="utf-8").splitlines()) < 40
    }
    assert small == set(SMALL)


@pytest.mark.parametrize("path", [path for path in SOURCES if path.removeprefix("alma_pipeline/").startswith(WITHOUT_HYDRA)])
def test_workers_and_what_they_stand_on_know_no_hydra(path: str) -> None:
    """B17, B21."""
    assert "hydra" not in tops(SOURCES[path])


@pytest.mark.parametrize("path", [path for path in SOURCES if may_be_heavy(path)])
def test_the_training_side_knows_neither_hydra_nor_tracking(path: str) -> None:
    assert not tops(SOURCES[path]) & {"hydra", "mlflow", "rich"}


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
    assert not loaded_by("import alma_pipeline.execution.worker, alma_pipeline.execution.fork_server") & (
        HEAVY | {"hydra", "mlflow", "rich"}
    )


def test_the_command_line_itself_is_light() -> None:
    """Children of the server import the parent's `__main__`, and `--help` must not wait."""
    assert not loaded_by("import alma_pipeline.__main__") & (HEAVY | {"hydra", "mlflow", "omegaconf", "yaml", "rich"})

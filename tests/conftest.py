"""What every test stands on: an environment that says nothing of its own, and helpers beside the tests."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

import helpers.fake_stages  # noqa: F401  # its kinds can be imported from here on, as `stages.fake`
from alma_pipeline.execution.launch import Launcher
from alma_pipeline.execution.processes import LAUNCHER_VARS
from alma_pipeline.paths import VLLM_PYTHON
from alma_pipeline.plan.plan import make_plan
from alma_pipeline.schema import Config
from alma_pipeline.store.store import Store
from helpers import PYTHONPATH
from helpers.artifacts import fill
from helpers.fake_stages.recipes import LOCAL
from helpers.fake_stages.world import CANARY, World, fake_world
from helpers.plans import real

if TYPE_CHECKING:
    from alma_pipeline.report.content import Report
    from alma_pipeline.report.jobs import ReportJob


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", action="store_true", help="write the golden keys and plans again (docs/extending.md)")
    parser.addoption("--no-skips", action="store_true", help="fail if a test was skipped: everything that tests need is here")


def pytest_configure() -> None:
    for name in [name for name in os.environ if name.startswith("MLFLOW_") or name in (*LAUNCHER_VARS, "ALMA_PIPELINE_STORE")]:
        del os.environ[name]
    os.environ["PYTHONPATH"] = PYTHONPATH
    # Generated cases are the same in every run, and a busy machine fails none of them.
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    settings.register_profile("tests", derandomize=True, database=None, deadline=None, suppress_health_check=slow)
    settings.load_profile("tests")
    # The processes of a parallel test run ignore Ctrl-C, and all that they start would.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side, and threads that wait for each other stand still


SLOW_SECONDS = 1800.0
"""Timeout of a test that is marked slow; that of the others is in pyproject.toml."""


def pytest_itemcollected(item: pytest.Item) -> None:
    """Before -m chooses: the timeout of slow tests, and the marks of those that need COMET's or vLLM's environment."""
    if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
        item.add_marker(pytest.mark.timeout(SLOW_SECONDS))
    if "comet_models" in getattr(item, "fixturenames", ()):
        item.add_marker(pytest.mark.comet)
    if "vllm_python" in getattr(item, "fixturenames", ()):
        item.add_marker(pytest.mark.vllm)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: a long file that a parallel run begins last keeps one core busy and the others idle."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With --no-skips, fail if a test was skipped; the summary names it."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")  # a process of a parallel run has none
    if session.config.getoption("no_skips") and reporter and (skipped := reporter.stats.get("skipped")):
        reporter.write_line(f"--no-skips: {len(skipped)} tests or files were skipped", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def cpo() -> Config:
    """The real configuration of `stage=cpo`."""
    return real("stage=cpo")


@pytest.fixture
def made(store: Store, cpo: Config) -> Store:
    """A store that holds everything `stage=cpo` needs."""
    fill(store, make_plan(cpo, store))
    return store


@pytest.fixture(scope="session")
def comet_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny real COMET checkpoints, made by COMET's own Python, once for all processes of a parallel run."""
    from helpers.comet import models

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "comet"
    with FileLock(f"{folder}.lock"):
        if not (folder / "done").exists():
            models(folder / "models")
            (folder / "done").touch()
    return folder / "models"


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """The Python of vLLM's environment."""
    if not VLLM_PYTHON.is_file():
        pytest.skip(f"vLLM is not installed in {VLLM_PYTHON.parent.parent}; `make vllm` does that")
    return str(VLLM_PYTHON)


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


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store that holds a finished recipe; not to be written to."""
    from helpers.finished_store import finish

    store = Store(tmp_path_factory.mktemp("report") / "store")
    finish(store)
    return Store(store.root)


@pytest.fixture(scope="session")
def job(finished: Store) -> "ReportJob":
    """The recipe of `finished`, as the report reads it."""
    from alma_pipeline.report.jobs import plan_job
    from helpers.finished_store import composed

    return plan_job([], composed(), finished)


@pytest.fixture(scope="session")
def report(finished: Store, job: "ReportJob") -> "Report":
    """All that the report has to show of `finished`."""
    from alma_pipeline.report.content import build_report

    return build_report(["stage=all"], [job], finished)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store to translate with: tiny checkpoints as `mono` and `parallel`."""
    from helpers.plans import loaded
    from helpers.tiny_checkpoint import make_checkpoint
    from helpers.translating import put

    store = Store(tmp_path_factory.mktemp("translating") / "store")
    model = tmp_path_factory.mktemp("model")
    make_checkpoint(model)
    put(store, make_plan(loaded("stage=mono"), store)["mono"], model, form="full")
    put(store, make_plan(loaded("stage=parallel"), store)["parallel"], model, form="full")
    return store


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """One-off jobs run in this process, whose start is what takes long."""
    from alma_pipeline.execution import one_off
    from helpers.translating import work_here

    monkeypatch.setattr(one_off, "start_without_server", work_here)

"""One finished recipe for all tests of the report."""

from pathlib import Path

import pytest

from alma_pipeline.report.content import Content, content
from alma_pipeline.report.jobs import Job, planned
from alma_pipeline.store.store import Store
from helpers.finished_store import composed, finish


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("report") / "store")
    finish(store)
    return Store(store.root)


@pytest.fixture(scope="session")
def job(finished: Store) -> Job:
    return planned([], composed(), finished)


@pytest.fixture(scope="session")
def told(finished: Store, job: Job) -> Content:
    return content(["stage=all"], [job], finished)


@pytest.fixture
def shown(tmp_path: Path) -> Path:
    return tmp_path / "page.html"

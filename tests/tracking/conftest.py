"""Trackers of one database that the tests of a module share, each with an experiment of its own."""

from pathlib import Path
from typing import Any

import pytest

from alma_pipeline.schema import Tracking
from alma_pipeline.tracking import Tracker, tracking_uri
from alma_pipeline.tracking.server import connect
from helpers.tracking import Make, copy_database, invocation


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a database, which takes seconds to make."""
    root = tmp_path_factory.mktemp("database")
    connect(root, tracking_uri(root), "alma")
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """One database for all tests of a module; each test has its own experiment."""
    root = tmp_path_factory.mktemp("a store")
    copy_database(empty_database, root)
    return root


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> Tracking:
    return Tracking(name="t", experiment=request.node.name, system_metrics=False)


@pytest.fixture
def make(root: Path, settings: Tracking) -> Make:
    return lambda given=None, tracking=settings: Tracker(root, tracking, given or invocation())


@pytest.fixture
def client(root: Path) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=tracking_uri(root))

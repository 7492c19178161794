"""A store to translate with."""

import pytest

from alma_pipeline.execution import one_off
from alma_pipeline.plan.plan import make_plan
from alma_pipeline.store.store import Store
from helpers.plans import loaded
from helpers.tiny_checkpoint import make_checkpoint
from helpers.translating import put, work_here


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("translating") / "store")
    model = tmp_path_factory.mktemp("model")
    make_checkpoint(model)
    put(store, make_plan(loaded("stage=mono"), store)["mono"], model, form="full")
    put(store, make_plan(loaded("stage=parallel"), store)["parallel"], model, form="full")
    return store


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """One-off jobs run in this process."""
    monkeypatch.setattr(one_off, "start_without_server", work_here)

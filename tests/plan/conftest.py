"""A recipe, and a store that holds all of it."""

import pytest

from alma_pipeline.plan.plan import make_plan
from alma_pipeline.schema import Config
from alma_pipeline.store.store import Store
from helpers.artifacts import fill
from helpers.plans import real


@pytest.fixture
def cpo() -> Config:
    return real("stage=cpo")


@pytest.fixture
def made(store: Store, cpo: Config) -> Store:
    """A store that holds everything `stage=cpo` needs."""
    fill(store, make_plan(cpo, store))
    return store

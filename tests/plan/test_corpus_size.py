"""How much text a node reads, once its text is there."""

from pathlib import Path

from alma_pipeline.plan.plan import make_plan
from alma_pipeline.store.store import Store
from helpers.artifacts import fill
from helpers.plans import loaded


def test_a_node_on_triples_that_are_there_is_estimated_from_their_number(tmp_path: Path) -> None:
    """Triples are text: their number is counted, their tokens are taken from those of a pair."""
    store, config = Store(tmp_path), loaded("stage=cpo", "budget.cpo.steps=null", "budget.cpo.epochs=2")
    before = make_plan(config, store)
    fill(store, before, *(step.node.name for step in before.steps if not step.node.name.startswith("cpo")))
    estimate = make_plan(config, store)["cpo"].estimate
    assert estimate is not None and estimate.steps == 2 * 640 // config.stages["cpo"].global_batch_size
    assert estimate.tokens == 2 * 640 * 1.5 * config.data.expected.pair_tokens and estimate.seconds > 0

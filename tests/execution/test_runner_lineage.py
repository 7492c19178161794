"""How a checkpoint is loaded, from its record: the base by key, and the adapters on it."""

import dataclasses
import json

import pytest
from stages.fake.config import Config as Fake

from alma_pipeline.errors import PipelineError, UserError
from alma_pipeline.execution.finished import checkpoint_entry
from alma_pipeline.execution.runner import Runner
from alma_pipeline.plan.plan import Plan
from alma_pipeline.schema import Released
from helpers.fake_stages.recipes import chain, planned, recipe
from helpers.fake_stages.world import World


def test_a_published_checkpoint_is_not_replaced_by_training(world: World) -> None:
    """An adopted node's key says that somebody else trained it."""
    entry = Released(repo="someone/a", revision="1")
    steps = [
        dataclasses.replace(step, verdict="adopt", reason="someone/a@1", released=entry)
        for step in planned(chain(), world.store).steps[:1]
    ]
    runner = Runner(world.store, chain().hardware, world.launcher, [world.told], {})
    with pytest.raises(
        PipelineError
    ):  # these workers know the fakes alone, and the kind that takes published checkpoints is none
        runner.run(Plan(steps))
    job = json.loads(next((world.store.root / "work").glob("a-*/job.json")).read_text())
    assert (job["config"]["kind"], job["config"]["repo"], job["inputs"]) == ("released", "someone/a", {})
    assert world.journal("a") == []


def test_how_to_load_a_checkpoint(world: World) -> None:
    """B14, B16: the full model by key, and the adapters on it in order."""
    nodes = {
        "base": Fake(text="b"),
        "sft": Fake(text="s", adapter="new", inputs={"init": "base"}),
        "more": Fake(text="m", adapter="continue", inputs={"init": "sft"}),
        "merged": Fake(text="n", adapter="merge_then_new", inputs={"init": "more"}),
        "full": Fake(text="f", inputs={"init": "merged"}),
    }
    done = world.run(recipe(nodes))
    key = {name: record.key for name, record in done.items()}
    found = {name: (record.checkpoint["base_key"], record.checkpoint["adapter_keys"]) for name, record in done.items()}
    assert found == {
        "base": (key["base"], []),
        "sft": (key["base"], [key["sft"]]),
        "more": (key["base"], [key["more"]]),
        "merged": (key["base"], [key["more"], key["merged"]]),
        "full": (key["full"], []),
    }
    job = json.loads((done["full"].path / "job.json").read_text())
    init = job["inputs"]["init"]
    assert init["base"] == str(done["base"].path) and init["base_key"] == key["base"]
    assert init["adapters"] == [str(done["more"].path), str(done["merged"].path)]


def test_a_checkpoint_without_what_it_stands_on_is_refused(world: World) -> None:
    nodes = {"base": Fake(text="b"), "sft": Fake(text="s", adapter="new", inputs={"init": "base"})}
    done = world.run(recipe(nodes))
    (done["base"].path / "text.txt").unlink()
    after = nodes | {"more": Fake(text="m", adapter="continue", inputs={"init": "sft"})}
    with pytest.raises(UserError, match=rf"cannot be loaded: {done['base'].path}/text.txt is missing; .* --force"):
        world.run(recipe(after))


def test_no_checkpoint_for_what_makes_none() -> None:
    assert checkpoint_entry("k", None, {"counts": {}}) == {}  # type: ignore[arg-type]

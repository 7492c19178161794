"""A round of preferences that found the dev score fallen: nothing that stands on it is run, and nothing has failed."""

from stages.fake.config import Config as Fake

from alma_pipeline.schema import Config
from helpers.fake_stages.recipes import recipe
from helpers.fake_stages.world import World

FELL = {"rounds": {"before": 41.5, "now": 40.25, "stopped": True}}


def rounds() -> Config:
    return recipe(
        {
            "cpo": Fake(text="c"),
            "preferences_2": Fake(text="p", inputs={"init": "cpo"}),
            "cpo_2": Fake(text="d", inputs={"init": "cpo", "triples": "preferences_2"}),
            "preferences_3": Fake(text="q", inputs={"init": "cpo_2", "before": "preferences_2"}),
            "cpo_3": Fake(text="e", inputs={"init": "cpo_2", "triples": "preferences_3"}),
        }
    )


def test_later_rounds_are_left_out_and_said_so(world: World) -> None:
    world.order("preferences_2", result=FELL)
    done = world.run(rounds())
    assert set(done) == {"cpo", "preferences_2"}
    assert done["preferences_2"].result["rounds"] == FELL["rounds"], "kept in the record"
    assert world.told.texts == [
        "cpo_2 is skipped: no further round: the dev score fell 41.50 → 40.25",
        "preferences_3 is skipped: cpo_2 was skipped",
        "cpo_3 is skipped: cpo_2 was skipped",
    ]
    assert set(world.run(rounds())) == {"cpo", "preferences_2"} and world.ran("preferences_2") == 1


def test_rounds_that_hold_are_run(world: World) -> None:
    world.order("preferences_2", result={"rounds": FELL["rounds"] | {"stopped": False}})
    assert set(world.run(rounds())) == {"cpo", "preferences_2", "cpo_2", "preferences_3", "cpo_3"}
    assert world.told.texts == []

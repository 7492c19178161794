"""What an unfinished node leaves behind: gone on from, or cleared away."""

import json
from typing import Any

import pytest

from alma_pipeline.errors import StageFailed, UserError
from alma_pipeline.plan.plan import Rerun
from alma_pipeline.store.store import Store
from helpers.damage import flip
from helpers.fake_stages.recipes import chain, changed, planned
from helpers.fake_stages.world import World


def test_a_killed_node_goes_on_from_its_resume_point(world: World) -> None:
    world.order("a", end="kill", at=3)
    with pytest.raises(StageFailed):
        world.run(chain(steps=6))
    step = planned(chain(steps=6), world.store)["a"]
    assert (step.verdict, step.reason) == ("resume", "from step 4")
    world.order("a")
    done = world.run(chain(steps=6))
    assert done["a"].result["first"] == 4
    steps = [word for _, word in world.journal("a") if word.startswith("step")]
    assert steps == [f"step {number}" for number in range(6)], "nothing is done twice"
    assert [line["step"] for line in world.told.lines[:6]] == [1, 2, 3, 4, 5, 6], "nor told twice"
    lines = (done["a"].path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]


def test_a_resume_point_of_an_earlier_version_is_not_used_and_the_plan_says_so(world: World) -> None:
    world.order("a", end="kill", at=3)
    with pytest.raises(StageFailed):
        world.run(chain(steps=6))
    for manifest in (world.store.root / "work").glob("a-*/resume/step-*/manifest.json"):
        manifest.write_text(manifest.read_text().replace('"schema": 2', '"schema": 1'))
    step = planned(chain(steps=6), world.store)["a"]
    assert step.verdict == "run"
    assert step.reason == "new; its resume point is damaged or of an earlier version, so it starts from step 0"


def test_damaged_inputs_stop_a_run_before_its_first_node_and_force_mends_them(world: World) -> None:
    done = world.run(chain())
    flip(done["b"].path / "text.txt")
    another = changed(chain(), "c", text="d")
    before = world.ran("c")
    with pytest.raises(UserError, match=r"b-\w+/text\.txt is damaged: its SHA-256 is .*, recorded .*--force b"):
        world.run(another)
    assert world.ran("c") == before
    assert not list((world.store.root / "work").iterdir())
    assert world.run(another, Rerun(force=("b",)))["c"].result["text"] == "abd"


def test_forced_an_unfinished_node_begins_anew(world: World) -> None:
    world.order("a", end="kill", at=3)
    with pytest.raises(StageFailed):
        world.run(chain(steps=6))
    world.order("a")
    done = world.run(chain(steps=6), Rerun(force=("a",)))
    assert done["a"].result["first"] == 0
    assert len((done["a"].path / "metrics.jsonl").read_text().splitlines()) == 6


def test_an_unfinished_node_without_a_resume_point_begins_anew(world: World) -> None:
    config = chain()
    step = planned(config, world.store)["a"]
    work = world.store.work_path("a", step.key)
    (work / "out").mkdir(parents=True)
    (work / "out" / "half.txt").write_text("half")
    (work / "metrics.jsonl").write_text('{"step": 1}\n')
    record = world.run(config)["a"]
    assert "half.txt" not in record.files
    assert len((record.path / "metrics.jsonl").read_text().splitlines()) == 2


def test_lines_after_the_resume_point_and_a_line_that_was_cut_off_are_dropped(world: World) -> None:
    """A step is measured once: those after the resume point are measured again."""
    world.order("a", end="kill", at=3)
    with pytest.raises(StageFailed):
        world.run(chain(steps=6))
    work = world.store.work_path("a", planned(chain(steps=6), world.store)["a"].key)
    with open(work / "metrics.jsonl", "a") as file:
        file.write('{"time": 17, "step": 5, "total": 6, "metrics": {}}\n{"time": 17, "st')
    world.order("a")
    record = world.run(chain(steps=6))["a"]
    steps = [json.loads(line)["step"] for line in (record.path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert 17 not in [json.loads(line)["time"] for line in (record.path / "metrics.jsonl").read_text().splitlines()]


def test_a_result_whose_parent_died_before_the_commit_is_taken(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests of a large checkpoint take minutes: killed then, nothing is trained twice."""

    def cut_off(*words: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Store, "commit", cut_off)
        with pytest.raises(KeyboardInterrupt):
            world.run(chain())
    done = world.run(chain())
    assert world.ran("a") == 1
    assert done["a"].result["text"] == "a" and done["a"].hardware["name"] == "test"
    assert world.run(chain(), Rerun(force=("a",)))["a"].result["text"] == "a"
    assert world.ran("a") == 2


def test_forced_a_leftover_result_does_not_count(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Store, "commit", lambda *words: pytest.fail("cut off"))
        with pytest.raises(pytest.fail.Exception):
            world.run(chain())
    world.run(chain(), Rerun(force=("a",)))
    assert world.ran("a") == 2

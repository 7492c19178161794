"""A finished artifact that lost files: what a run would make again is named with its cost, and refused where that is long."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from alma_pipeline.errors import UserError
from alma_pipeline.plan.plan import Cause, Plan, Rerun, make_plan
from alma_pipeline.plan.remade import made_again
from alma_pipeline.schema import Config
from alma_pipeline.store.store import Store
from helpers.artifacts import put


def harmed(store: Store, config: Config, name: str, file: str = "text.txt") -> Path:
    """Remove a file of a node's artifact."""
    record = make_plan(config, store)[name].record
    assert record is not None
    (record.path / file).unlink()
    return record.path / file


def with_seconds(plan: Plan, seconds: float) -> Plan:
    """The plan with this estimate for everything that has one."""
    return Plan([
        dataclasses.replace(step, estimate=dataclasses.replace(step.estimate, seconds=seconds)) if step.estimate else step
        for step in plan.steps
    ])  # fmt: skip


def test_what_is_short_is_made_again_and_said_with_its_cost(made: Store, cpo: Config) -> None:
    path = harmed(made, cpo, "cpo")
    plan = with_seconds(make_plan(cpo, Store(made.root)), 45.0)
    assert plan["cpo"].cause is Cause.INCOMPLETE
    assert made_again(plan) == [f"cpo is made again (about 45 s): its artifact is incomplete: {path} is missing"]


@pytest.mark.parametrize(("seconds", "cost"), [(7 * 24 * 3600.0, " (about 7.0 days)"), (0.0, "")])
def test_a_long_training_is_made_again_only_when_asked(made: Store, cpo: Config, seconds: float, cost: str) -> None:
    path = harmed(made, cpo, "cpo")
    with pytest.raises(UserError) as caught:
        made_again(with_seconds(make_plan(cpo, made), seconds))
    lack = f"cpo: its artifact is incomplete: {path} is missing"
    assert str(caught.value) == f"{lack}. Restore the file, or make cpo again{cost} with --force cpo"
    assert made_again(with_seconds(make_plan(cpo, made, Rerun(force=("cpo",))), seconds)) == []


def test_a_corpus_is_made_again_only_if_something_reads_it(made: Store, cpo: Config) -> None:
    path = harmed(made, cpo, "parallel_corpus")
    assert made_again(make_plan(cpo, made)) == []
    for name in ("parallel", "cpo"):
        harmed(made, cpo, name)
    notes = made_again(make_plan(cpo, made))
    assert [note.split()[0] for note in notes] == ["parallel_corpus", "parallel", "cpo"]
    assert notes[0] == f"parallel_corpus is made again: its artifact is incomplete: {path} is missing"


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda folder: (folder / "text.txt").write_text(""), "/text.txt has 0 bytes, recorded 7"),
        (lambda folder: folder.rename(folder.parent.parent / "away"), "fefefefefefe is no longer in the store"),
    ],
)
def test_an_adopted_checkpoint_is_never_replaced_by_training(
    made: Store, cpo: Config, harm: Callable[[Path], object], said: str
) -> None:
    plan = make_plan(cpo, made)
    adopted = put(made, "adopted", "fe" * 32, {"kind": "released", "checkpoint": {}})
    put(made, "mono", plan["mono"].key, {"kind": "mono", "payload": plan["mono"].payload, "alias_of": adopted.key})
    assert make_plan(cpo, made)["mono"].cause is Cause.ADOPTED
    harm(adopted.path)
    again = make_plan(cpo, Store(made.root), Rerun(force=("parallel",)))
    assert again["mono"].cause is Cause.INCOMPLETE
    with pytest.raises(UserError, match=f"mono: its adopted checkpoint is incomplete: .*{said}. Adopt it again, as in alma-pipe"):
        made_again(again)


def test_an_artifact_without_its_record_does_not_pass_for_absent(made: Store, cpo: Config) -> None:
    """It may have been an adopted checkpoint's alias, which training must not replace."""
    path = harmed(made, cpo, "mono", "record.json")
    with pytest.raises(UserError, match=f"{path.parent} has no record.json; move {path.parent} out of the store, and its node"):
        make_plan(cpo, Store(made.root))
    shutil.rmtree(path.parent)
    assert make_plan(cpo, Store(made.root)).work == []


def test_a_record_of_the_node_that_cannot_be_read_stops_the_plan(made: Store, cpo: Config) -> None:
    """It must not be taken for absent; that of another node is none of this plan's business."""
    record = make_plan(cpo, made)["cpo"].record
    assert record is not None
    other = put(made, "cpo", "0" * 64).path / "record.json"
    for file in (other, record.path / "record.json"):
        assert make_plan(cpo, Store(made.root))["cpo"].record == record
        file.unlink()
        file.mkdir()  # as little of a file as one without permission, also for root
    with pytest.raises(UserError, match=r"cpo-\w+/record.json cannot be read \(Is a directory\); it belongs to \w+, who can"):
        make_plan(cpo, Store(made.root))

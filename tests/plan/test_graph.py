"""The graph a configuration asks for: nodes, groups, overrides, controls, evaluations."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from stages.fake.config import Config as Fake

from alma_pipeline.errors import ConfigError
from alma_pipeline.plan.graph import build
from alma_pipeline.plan.languages import resolve
from alma_pipeline.plan.node import Node, is_training
from alma_pipeline.schema import Config, Evaluation
from helpers.fake_stages.recipes import changed, recipe
from helpers.plans import loaded
from stages.score.config import Config as Score
from stages.translate.config import Config as Translate

SHARED = ["base", "mono_corpus", "mono"]
GROUP = ["group_corpus", "group_adapter", "group_pseudo_corpus", "group_pseudo_mono"]
LATER = ["group_parallel_corpus", "group_parallel", "group_preferences", "arpo"]
CHECKPOINTS = ["base", "mono", "parallel", "cpo", "group_adapter", "group_pseudo_mono", "group_parallel", "arpo"]
EXPECTED = {
    "mono": SHARED,
    "parallel": [*SHARED, "parallel_corpus", "parallel"],
    "cpo": [*SHARED, "parallel_corpus", "parallel", "preferences", "cpo"],
    "group_adapter": [*SHARED, *GROUP],
    "arpo": [*SHARED, *GROUP, *LATER],
}
EXPECTED["all"] = [*EXPECTED["cpo"], *GROUP, *LATER]


def plain(config: Config) -> Config:
    """With every checkpoint evaluated, and without controls: which ones there are is the evaluation option's matter."""
    changes: dict[str, Any] = {"controls": {}, "checkpoints": CHECKPOINTS, "every_direction": []}
    return dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, **changes))


def names(nodes: list[Node]) -> list[str]:
    return [node.name for node in nodes]


def by_name(config: Config) -> dict[str, Node]:
    return {node.name: node for node in build(config)}


def expanded(bases: list[str], groups: list[int]) -> set[str]:
    """Instance names of these nodes, with their evaluations and the test they need."""
    found = {"test_corpus"}
    for base in bases:
        copies = [f"g{group}.{base}" for group in groups] if base.startswith("group_") or base == "arpo" else [base]
        found |= set(copies)
        if base in CHECKPOINTS:
            found |= {f"{copy}.{part}" for copy in copies for part in ("translate", "score")}
    return found


@pytest.mark.parametrize("stage", EXPECTED)
def test_each_stage_composes_the_nodes_on_its_way(stage: str) -> None:
    nodes = build(plain(loaded(f"stage={stage}")))
    assert set(names(nodes)) == expanded(EXPECTED[stage], [1, 3])
    assert len(nodes) == len(set(names(nodes)))


def test_inputs_come_before_their_users_and_evaluations_after_their_checkpoint() -> None:
    config = plain(loaded("stage=all"))
    nodes = names(build(config))
    for node in build(config):
        for source in node.inputs.values():
            assert nodes.index(source) < nodes.index(node.name), (source, node.name)
    assert nodes[nodes.index("mono") + 1 : nodes.index("mono") + 3] == ["mono.translate", "mono.score"]


def test_targets_and_settings() -> None:
    nodes = by_name(plain(loaded("stage=all")))
    assert {name for name, node in nodes.items() if node.target} == {"cpo", "g1.arpo", "g3.arpo"}
    assert nodes["g1.arpo"].setting == "stages.arpo"
    assert nodes["g1.arpo.score"].setting == "stages.score"
    assert is_training(nodes["g1.arpo"]) and not is_training(nodes["mono_corpus"])


def test_a_group_node_reads_its_own_group_and_the_shared_nodes() -> None:
    nodes = by_name(loaded("stage=all"))
    assert nodes["g3.arpo"].inputs == {"init": "g3.group_parallel", "preferences": "g3.group_preferences"}
    assert nodes["g3.group_adapter"].inputs == {"init": "mono", "corpus": "g3.group_corpus"}
    assert nodes["g3.group_corpus"].inputs == {"base": "base"}


def test_languages_are_filled_in_by_group() -> None:
    nodes = by_name(plain(loaded("stage=all")))
    spoken = {name: list(getattr(node.config, "languages", {})) for name, node in nodes.items()}
    assert spoken["base"] == ["en", "de", "ru", "sv", "uk"], "English first, then by code, whatever order was typed"
    assert spoken["g1.group_corpus"] == spoken["g1.arpo.translate"] == ["en", "de", "sv"]
    assert spoken["g3.arpo"] == spoken["g3.arpo.score"] == ["en", "ru", "uk"]


def test_every_direction_for_named_group_checkpoints() -> None:
    config = plain(loaded("stage=all"))
    config = dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, every_direction=["arpo"]))
    nodes = by_name(config)
    assert list(getattr(nodes["g3.arpo.translate"].config, "languages", {})) == ["en", "de", "ru", "sv", "uk"]
    assert list(getattr(nodes["g3.group_parallel.translate"].config, "languages", {})) == ["en", "ru", "uk"]


def test_moving_a_language_to_another_group_changes_no_shared_setting() -> None:
    config = loaded("stage=cpo")
    moved = config.languages | {"ru": dataclasses.replace(config.languages["ru"], group=1)}
    assert [node.config for node in build(dataclasses.replace(config, languages=moved))] == [
        node.config for node in build(config)
    ]


def grouped(group: Any) -> Config:
    return dataclasses.replace(loaded("stage=arpo"), group=group)


@pytest.mark.parametrize(("group", "expected"), [("all", [1, 3]), (1, [1]), ([3], [3]), ([3, 1, 3], [1, 3])])
def test_groups(group: Any, expected: list[int]) -> None:
    assert resolve(grouped(group)).groups == expected
    assert {node.group for node in build(grouped(group))} - {None} == set(expected)


@pytest.mark.parametrize(
    ("group", "said"),
    [
        (2, "group=2: expected all or some of 1, 3"),
        ([1, 9], "group=9: "),
        ([], "group=an empty list: "),
        ("one", "group=one: "),
        (None, "group=None: "),
        (1.0, "group=1.0: "),
        (True, "group=True: "),
    ],
)
def test_wrong_groups(group: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace(".", r"\.")):
        build(grouped(group))


def overridden(**groups: Any) -> Config:
    return dataclasses.replace(loaded("stage=arpo"), groups=groups)


def test_a_group_override_holds_for_that_group_alone() -> None:
    nodes = by_name(overridden(g3={"arpo": {"beta": 0.4, "lora": {"rank": 8}}}))
    ours, others = nodes["g3.arpo"].config, nodes["g1.arpo"].config
    assert (ours.beta, ours.lora.rank) == (0.4, 8)  # type: ignore[attr-defined]
    assert others == by_name(loaded("stage=arpo"))["g1.arpo"].config
    assert dataclasses.replace(ours, beta=others.beta, lora=others.lora, languages=others.languages) == others  # type: ignore[attr-defined,call-arg]


def test_a_group_override_can_change_what_a_node_reads() -> None:
    nodes = by_name(overridden(g3={"arpo": {"inputs": {"init": "group_adapter"}}}))
    assert nodes["g3.arpo"].inputs["init"] == "g3.group_adapter"
    assert nodes["g1.arpo"].inputs["init"] == "g1.group_parallel"


def test_released_preferences_of_one_group_need_no_checkpoint() -> None:
    nodes = by_name(overridden(g3={"group_preferences": {"pairs": {"reader": "hub"}}}))
    assert nodes["g3.group_preferences"].inputs == {}
    assert set(nodes["g1.group_preferences"].inputs) == {"init", "corpus"}


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"g2": {"arpo": {"beta": 0.4}}}, "groups.g2: takes no part in this run; "),
        ({"3": {"arpo": {"beta": 0.4}}}, "groups.3: takes no part in this run; did you mean 'g3'"),
        ({"g3": {"apro": {"beta": 0.4}}}, "groups.g3.apro: takes no part in this run; did you mean 'arpo'"),
        ({"g3": {"mono": {"steps": 4}}}, "groups.g3.mono: takes no part in this run; "),
        ({"g3": {"translate": {"num_beams": 4}}}, "groups.g3.translate: takes no part in this run; "),
        ({"g3": {"arpo": {"bta": 0.4}}}, "groups.g3.arpo.bta: not a setting that a group can override; did you mean 'beta'"),
        ({"g3": {"arpo": {"kind": "cpo"}}}, "groups.g3.arpo.kind: not a setting that a group can override; "),
        ({"g3": {"arpo": {"beta": "big"}}}, "groups.g3.arpo.beta: .*'big'"),
        ({"g3": {"arpo": {"lora": {"rnk": 4}}}}, "groups.g3.arpo.*rnk"),
        ({"g3": {"arpo": {"beta": -1}}}, "groups.g3.arpo.beta=-1.0: expected a number above 0"),
        ({"g3": {"arpo": 4}}, "groups.g3.arpo=4: expected settings under it"),
        ({"g3": 4}, "groups.g3=4: expected settings under it"),
    ],
)
def test_group_overrides_that_would_change_nothing_are_refused(groups: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build(overridden(**groups))


def test_a_control_takes_part_when_its_counterpart_does() -> None:
    nodes = {
        "translate": Translate(),
        "score": Score(),
        "test_corpus": Fake(),
        "base": Fake(),
        "mono": Fake(inputs={"init": "base"}),
        "parallel": Fake(inputs={"init": "mono"}),
        "parallel_from_base": Fake(inputs={"init": "base"}),
    }
    evaluation = Evaluation(name="test", controls={"parallel_from_base": "parallel"}, checkpoints=["parallel_from_base"])
    assert "parallel_from_base" in names(build(recipe(nodes, "parallel", evaluation=evaluation)))
    assert names(build(recipe(nodes, "mono", evaluation=evaluation))) == ["base", "mono"]
    without_text = nodes | {"parallel_from_base": Fake(inputs={"corpus": "parallel_corpus"})}
    assert names(build(recipe(without_text, "mono", evaluation=evaluation))) == ["base", "mono"], (
        "not even its inputs matter then"
    )
    on_the_way = nodes | {"cpo": Fake(inputs={"init": "parallel"})}
    assert "parallel_from_base" in names(build(recipe(on_the_way, "cpo", evaluation=evaluation)))


@pytest.mark.parametrize("stage", ["parallel", "cpo"])
def test_a_control_that_is_not_evaluated_is_not_trained(stage: str) -> None:
    config = loaded(f"stage={stage}", "evaluation=controls")
    assert "parallel_scratch" in names(build(config))
    alone = dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, checkpoints=["parallel"]))
    others = {"parallel"} if stage == "parallel" else {"parallel", "preferences", "cpo"}
    expected = {*SHARED, "parallel_corpus", "test_corpus", "parallel.translate", "parallel.score"} | others
    assert set(names(build(alone))) == expected


def test_what_the_test_text_is_made_from_comes_along() -> None:
    nodes = {
        "mono": Fake(),
        "raw": Fake(),
        "test_corpus": Fake(inputs={"raw": "raw"}),
        "translate": Translate(),
        "score": Score(),
    }
    evaluation = Evaluation(name="test", checkpoints=["mono"])
    expected = ["mono", "raw", "test_corpus", "mono.translate", "mono.score"]
    assert names(build(recipe(nodes, "mono", evaluation=evaluation))) == expected


def circle() -> Config:
    return recipe({"a": Fake(inputs={"init": "b"}), "b": Fake(inputs={"init": "c"}), "c": Fake(inputs={"init": "b"})}, "a")


def one_group_read_by_all() -> Config:
    return recipe({"g": Fake(per_group=True), "all": Fake(inputs={"init": "g"})})


def no_test() -> Config:
    return recipe({"a": Fake()}, evaluation=Evaluation(name="test", checkpoints=["a"]))


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (circle, "the inputs form a cycle: b -> c -> b"),
        (one_group_read_by_all, "stages.all.inputs.init=g: exists once per group, but this node has no group"),
        (
            lambda: changed(loaded("stage=mono"), "mono", inputs={"init": "score"}),
            "stages.mono.inputs.init=score: no such node; ",
        ),
        (lambda: changed(loaded("stage=mono"), "mono", inputs={"init": "bse"}), "init=bse: no such node; did you mean 'base'"),
        (lambda: recipe({"a": Fake()}, "b"), "targets: 'b' is not a node of this stage; known: a"),
        (lambda: dataclasses.replace(recipe({"a": Fake()}), targets=[]), "targets is empty; known: a"),
        (no_test, "stages has no translate, score, test_corpus, but evaluation.checkpoints needs it"),
    ],
)
def test_graphs_that_cannot_be(made: Callable[[], Config], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build(made())

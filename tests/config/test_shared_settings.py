"""The config group `from`: what a node file takes over from a budget, a data option or a model option."""

import dataclasses

import pytest
from omegaconf import DictConfig, OmegaConf

from alma_pipeline.config import compose
from alma_pipeline.schema import Horizon, Source


@pytest.fixture(scope="module")
def tree() -> DictConfig:
    return compose.compose_tree(["stage=all", "+node@stages.second=group_parallel"])


@pytest.mark.parametrize(
    ("node", "budget"), [("cpo", "cpo"), ("group_pseudo_mono", "group_pseudo_mono"), ("second", "group_parallel")]
)
def test_a_training_node_takes_every_setting_of_its_budget(tree: DictConfig, node: str, budget: str) -> None:
    raw = OmegaConf.to_container(tree.stages[node], resolve=False)
    assert isinstance(raw, dict)
    assert {item.name: raw[item.name] for item in dataclasses.fields(Horizon)} == {
        item.name: f"${{budget.{budget}.{item.name}}}" for item in dataclasses.fields(Horizon)
    }


def test_a_source_of_text_is_the_data_option_s_but_for_what_the_plan_fills_in(tree: DictConfig) -> None:
    raw = OmegaConf.to_container(tree.stages.group_pseudo_corpus, resolve=False)
    assert isinstance(raw, dict)
    for own, name in (("text", "mono"), ("pairs", "pseudo")):
        taken = {item.name: f"${{data.{name}.{item.name}}}" for item in dataclasses.fields(Source)}
        assert raw[own] == taken | {"files": {}, "on_error": "${data.on_error}"}

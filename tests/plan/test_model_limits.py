"""Settings that the shape of a model cannot carry out are named before anything runs."""

import dataclasses
from typing import Any

import pytest

from alma_pipeline.plan.graph import build
from alma_pipeline.plan.model_limits import of_settings, problems
from alma_pipeline.schema import Architecture, Config, Lora
from helpers.fake_stages.recipes import changed
from helpers.plans import real

POSITIONS = "the positions of the model (model.architecture.max_positions)"


def found(config: Config) -> list[str]:
    nodes = {node.name: node for node in build(config)}
    return list(dict.fromkeys(text for node in nodes.values() for text in problems(node, nodes)))


def test_the_demo_fits_its_model_exactly(cpo: Config) -> None:
    """256 tokens of source and 256 of target fill the 512 positions of the tiny model."""
    assert found(cpo) == []
    assert found(changed(cpo, "parallel_corpus", max_target=257)) == [
        "stages.parallel_corpus.max_source=256 and stages.parallel_corpus.max_target=257 make 513 tokens: expected at most 512 "
        f"tokens, {POSITIONS}; lower stages.parallel_corpus.max_source or stages.parallel_corpus.max_target"
    ]


@pytest.mark.parametrize(
    ("node", "settings", "named"),
    [
        ("translate", {"max_new_tokens": 257}, "stages.translate.max_source=256 and stages.translate.max_new_tokens=257"),
        ("preferences", {"max_new_tokens": 257}, "stages.parallel_corpus.max_source=256 and stages.preferences.max_new_tokens"),
        ("mono_corpus", {"block": 513}, "stages.mono_corpus.block=513: expected at most 512 tokens"),
        ("cpo", {"max_length": 513}, "stages.cpo.max_length=513: expected at most 512 tokens"),
        ("translate", {"num_beams": 1001}, "stages.translate.num_beams=1001: expected at most 1000, the size of the model's voc"),
        ("cpo", {"adapter": "new", "lora": Lora(targets=["q_prj"])}, "stages.cpo.lora.targets: the model has no matrix 'q_prj'"),
        (
            "cpo",
            {"adapter": "new", "lora": Lora(targets=[])},
            "stages.cpo.lora.targets is empty, but stages.cpo.adapter=new trains a",
        ),
    ],
)
def test_what_exceeds_the_model_is_named(cpo: Config, node: str, settings: dict[str, Any], named: str) -> None:
    [text] = found(changed(cpo, node, **settings))
    assert text.startswith(named)


def test_what_is_not_used_is_no_problem(cpo: Config) -> None:
    """A LoRA that no node trains, beams without a beam search, and test sentences, which are not tokenised."""
    assert found(changed(cpo, "cpo", lora=Lora(targets=["c_attn"]))) == []
    assert found(changed(cpo, "translate", num_beams=1001, decoding="mbr")) == []
    assert found(changed(cpo, "test_corpus", max_source=9999)) == []


def test_matrices_of_an_unknown_architecture_are_left_to_the_model() -> None:
    config: Any = changed(real("stage=cpo"), "cpo", adapter="new", lora=Lora(targets=["c_attn"])).stages["cpo"]
    shape = Architecture(hidden_size=8, intermediate_size=8, layers=1, heads=1, kv_heads=1, vocab_size=10)
    assert list(of_settings(config, "stages.cpo", dataclasses.replace(shape, model_type="gpt2"))) == []
    [text] = of_settings(config, "stages.cpo", shape)
    assert "no matrix 'c_attn'; known: down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj" in text

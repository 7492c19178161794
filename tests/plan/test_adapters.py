"""What a plan knows of the adapters that a stage trains: whether they fit the parent's form and shape, and tied weights."""

import json
from typing import Any

import pytest

from alma_pipeline.errors import ConfigError
from alma_pipeline.plan.plan import make_plan
from alma_pipeline.plan.step import Step
from alma_pipeline.schema import Config
from alma_pipeline.store.store import Store
from helpers.artifacts import put
from helpers.plans import real

LORA = {"r": 16, "lora_alpha": 32, "target_modules": ["up_proj", "down_proj"]}


def adopted(store: Store, step: Step, form: str, base_key: str, files: dict[str, Any]) -> str:
    """What `adopt` leaves of a checkpoint in place of this step: an artifact under a key of its own, and an alias. Its key."""
    key = step.node.name[0] * 64
    own = [key] if form == "adapter" else []
    texts = {name: json.dumps(content) for name, content in files.items()}
    put(
        store,
        step.node.name,
        key,
        {"kind": "released", "checkpoint": {"form": form, "base_key": base_key or key, "adapter_keys": own}},
        texts,
    )
    put(store, step.node.name, step.key, {"kind": step.node.kind, "alias_of": key})
    return key


def problems(config: Config, store: Store) -> str:
    with pytest.raises(ConfigError) as caught:
        make_plan(config, Store(store.root))
    return "\n".join(caught.value.problems)


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_a_lora_on_one_end_of_tied_weights_is_refused(store: Store, target: str) -> None:
    """The tiny model's two ends are one matrix, by its shape; another model's are two."""
    words = ("stage=parallel", "stages.parallel.adapter=new", f"stages.parallel.lora.targets=[q_proj,{target}]")
    said = problems(real(*words), store)
    assert f"stages.parallel.lora.targets contains {target}, but the model's output head is its input embeddings" in said
    assert "model.architecture.tied_embeddings=true" in said and "stages.parallel.adapter=none" in said
    assert make_plan(real(*words, "model.architecture.tied_embeddings=false"), store)["parallel"].verdict == "run"
    assert make_plan(real(*words[:1], "stages.parallel.adapter=none", *words[2:]), store)["parallel"].verdict == "run"


def test_an_adopted_model_says_itself_whether_its_weights_are_tied(store: Store) -> None:
    words = ("stage=parallel", "stages.parallel.adapter=new", "stages.parallel.lora.targets=[q_proj,lm_head]")
    separate = real(*words, "model.architecture.tied_embeddings=false")
    mono = make_plan(separate, store)["mono"]
    adopted(store, mono, "full", "", {"config.json": {"tie_word_embeddings": True}})
    said = problems(separate, store)
    assert "stages.parallel.lora.targets contains lm_head" in said and "tie_word_embeddings in " in said


CONTINUED = ("stage=cpo", "model=13b", "upstream=train", "stages.cpo.lora.targets=[down_proj,up_proj]")


def with_adopted_lora(store: Store, shape: dict[str, Any], quantization: str) -> Config:
    config = real(*CONTINUED)
    # Before the adoption, the settings alone would be refused.
    same = real(*CONTINUED[:3])
    mono = adopted(store, make_plan(same, store)["mono"], "full", "", {"config.json": {}})
    parallel = make_plan(same, Store(store.root))["parallel"]
    files = {"adapter_config.json": shape, "base.json": {"quantization": quantization}}
    adopted(store, parallel, "adapter", mono, files)
    return config


def test_continuing_an_adopted_lora_of_another_shape_is_refused(store: Store) -> None:
    """Otherwise only the worker finds it, when the preferences have been made."""
    said = problems(with_adopted_lora(store, LORA | {"r": 8}, "nf4"), store)
    assert (
        "stages.cpo.adapter=continue trains the LoRA of parallel-pppppppppppp further, but lora.rank is 8 there and 16 in" in said
    )
    assert "quantization is nf4 there and none in the settings; make them equal" in said
    assert "lora.alpha" not in said and "lora.targets" not in said


def test_continuing_an_adopted_lora_of_the_same_shape_is_planned(store: Store) -> None:
    """The order of its targets says nothing."""
    plan = make_plan(with_adopted_lora(store, LORA, "none"), Store(store.root))
    assert (plan["parallel"].verdict, plan["cpo"].verdict) == ("reuse", "run")


def test_an_adopted_checkpoint_of_another_form_is_refused(store: Store) -> None:
    config = real(*CONTINUED[:3])
    adopted(store, make_plan(config, store)["parallel"], "full", "", {"config.json": {}})
    assert "stages.cpo.adapter=continue needs a LoRA, but parallel was adopted as a full model" in problems(config, store)


@pytest.mark.parametrize("changed", ["stages.parallel.lora.rank=8", "stages.cpo.lora.rank=8", "stages.cpo.lora.targets=[v_proj]"])
def test_continuing_a_lora_in_another_shape_is_refused_before_it_is_trained(store: Store, changed: str) -> None:
    config = real("stage=cpo", "stages.parallel.adapter=new", "stages.cpo.adapter=continue", changed)
    assert "stages.cpo.adapter=continue trains the LoRA of parallel further, but lora." in problems(config, store)


def test_continuing_a_lora_in_its_own_shape_is_planned(store: Store) -> None:
    plan = make_plan(real("stage=cpo", "stages.parallel.adapter=new", "stages.cpo.adapter=continue", "model.lora.rank=8"), store)
    assert plan["cpo"].verdict == "run"


def rules(store: Store, *words: str) -> dict[str, Any]:
    """Node name → the rules in its key, where there are any."""
    steps = make_plan(real(*words), store).steps
    return {step.node.name: step.payload["rules"] for step in steps if "rules" in step.payload}


def test_what_reads_adapters_merged_into_16_bits_has_a_key_of_its_own(store: Store) -> None:
    """Merged models rounded the frequencies of their positions to 16 bits; full models and fp32 were right."""
    sixteen, lora = "model.precision=bf16", "stages.parallel.adapter=new"
    assert rules(store, "stage=parallel", lora) == {}
    assert rules(store, "stage=parallel", "stages.parallel.adapter=none", sixteen) == {}
    assert rules(store, "stage=parallel", lora, sixteen) == {"parallel.translate": {"rotary": 2}}
    merging = rules(store, "stage=cpo", lora, sixteen, "stages.cpo.adapter=merge_then_new")
    assert {name: found.get("rotary") for name, found in merging.items()} == dict.fromkeys(
        ["parallel.translate", "preferences", "cpo", "cpo.translate"], 2
    )


def test_an_adopted_full_model_keeps_the_key_of_its_translation(store: Store) -> None:
    words = ("stage=parallel", "stages.parallel.adapter=new", "model.precision=bf16")
    adopted(store, make_plan(real(*words), store)["parallel"], "full", "", {"config.json": {}})
    assert rules(Store(store.root), *words) == {}

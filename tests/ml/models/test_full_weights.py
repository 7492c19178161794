"""Weights merged matrix by matrix, from files to files, equal those merged in a whole model, and one process merges for all."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from alma_pipeline.errors import PipelineError, UserError
from alma_pipeline.job import Input
from alma_pipeline.ml import distributed
from alma_pipeline.ml.models import full_weights as module
from alma_pipeline.ml.models import merge
from alma_pipeline.ml.models.full_weights import full_weights, read_tensor, tensor_files
from alma_pipeline.ml.models.load import BASE_FILE, load_full
from alma_pipeline.ml.models.merge import load_merged
from alma_pipeline.ml.models.open import load_for_inference
from alma_pipeline.schema import Hardware
from helpers.merging import RANKS, SHARD_BYTES, at, digest
from helpers.tiny_adapter import make_adapter
from helpers.tiny_model import make_base

TARGETS = ["q_proj", "down_proj"]
KINDS: dict[str, dict[str, Any]] = {
    "matrices": {},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 3}},
    "embeddings": {"targets": ["embed_tokens", "lm_head", "k_proj"]},
    "dora": {"use_dora": True},
    "whole modules": {"modules_to_save": ["lm_head", "norm"]},
    "biases": {"bias": "all"},
}
IN_WHOLE = {"embeddings", "dora", "whole modules", "biases"}
"""Kinds whose files hold more than two factors of each matrix (PEFT writes a changed embedding in whole too)."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Input:
    """A Llama with biases, whose two ends are separate, in fp16 as Llama 2 is."""
    torch.set_num_threads(1)
    made = make_base(tmp_path_factory.mktemp("base"), tied=False)
    torch.manual_seed(5)
    model = LlamaForCausalLM(LlamaConfig.from_pretrained(made.path, attention_bias=True, mlp_bias=True))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.half().save_pretrained(made.path)
    return made


def with_lora(base: Input, folder: Path, kind: str = "matrices", seed: int = 1) -> Input:
    settings = {"targets": TARGETS} | KINDS[kind]
    return make_adapter(base, folder, seed, 4, **settings)


def stacked(base: Input, folder: Path) -> Input:
    """A second adapter, trained with the first one merged."""
    first, second = with_lora(base, folder / "1"), with_lora(base, folder / "2", seed=2)
    (folder / "2" / BASE_FILE).write_text(json.dumps({"base_key": base.key, "merged": first.adapter_keys}))
    return replace(second, adapters=[*first.adapters, *second.adapters], adapter_keys=[*first.adapter_keys, *second.adapter_keys])


def same_weights(folder: Path, checkpoint: Input, precision: str) -> None:
    expected = dict(load_merged(checkpoint, checkpoint.adapters, precision).named_parameters())
    found = {name: read_tensor(file, name) for name, file in tensor_files(folder).items()}
    assert set(found) == set(expected)
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype and torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("kind", KINDS)
def test_merging_by_matrix_gives_the_bits_of_merging_in_memory(
    tmp_path: Path, base: Input, kind: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARD_BYTES", 3000)
    checkpoint = with_lora(base, tmp_path / "lora", kind)
    with full_weights(checkpoint, checkpoint.adapters, precision, tmp_path / "work") as folder:
        assert (len(list(folder.glob("*.safetensors"))) == 1) == (kind in IN_WHOLE)
        same_weights(folder, checkpoint, precision)
        loaded = load_full(folder, torch.float32)
        kept = loaded.generation_config.eos_token_id, loaded.config.mlp_bias
    assert kept == (1, True) and not folder.exists()


def test_a_stack_is_merged_in_its_order_and_cast_once(tmp_path: Path, base: Input) -> None:
    checkpoint = stacked(base, tmp_path)
    with full_weights(checkpoint, checkpoint.adapters, "bf16") as folder:
        same_weights(folder, checkpoint, "bf16")
    first = replace(checkpoint, adapters=checkpoint.adapters[:1], adapter_keys=checkpoint.adapter_keys[:1])
    with full_weights(checkpoint, checkpoint.adapters[:1], "bf16") as folder:
        same_weights(folder, first, "bf16")


def test_an_adapter_of_4_bit_weights_is_merged_into_these(tmp_path: Path, base: Input) -> None:
    """B15. With nothing to merge, as under routed adapters, the base is rounded all the same."""
    checkpoint = with_lora(base, tmp_path / "lora")
    noted = {"base_key": base.key, "merged": [], "quantization": "nf4", "quantized_from": "bf16"}
    (tmp_path / "lora" / BASE_FILE).write_text(json.dumps(noted))
    with full_weights(checkpoint, checkpoint.adapters, "fp16") as folder:
        same_weights(folder, checkpoint, "fp16")
    with full_weights(checkpoint, [], "fp32") as folder:
        rounded = load_full(folder, torch.float32)
    exact = load_full(Path(base.base), torch.float32)
    assert not torch.equal(rounded.model.layers[0].mlp.up_proj.weight, exact.model.layers[0].mlp.up_proj.weight)


def test_a_tied_head_stays_tied(tmp_path: Path) -> None:
    checkpoint = with_lora(make_base(tmp_path / "tied", tied=True), tmp_path / "lora")
    with full_weights(checkpoint, checkpoint.adapters, "fp32") as folder:
        same_weights(folder, checkpoint, "fp32")
        loaded = load_full(folder, torch.float32)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight


def test_nothing_to_merge_needs_no_files(base: Input) -> None:
    with full_weights(base, [], "bf16") as folder:
        assert str(folder) == base.base


def test_every_matrix_is_compared(tmp_path: Path, base: Input, monkeypatch: pytest.MonkeyPatch) -> None:
    """B15. With a tolerance that rounding alone exceeds; what was written so far is deleted."""
    monkeypatch.setattr(merge, "TOLERANCE", 1e-12)
    checkpoint = with_lora(base, tmp_path / "lora")
    with (
        pytest.raises(PipelineError, match=r"differs from base and adapter.* model\.layers\.0\S+\.weight output difference"),
        full_weights(checkpoint, checkpoint.adapters, "fp32", tmp_path / "work"),
    ):
        pass
    assert not (tmp_path / "work/merged").exists()


def test_a_broken_or_foreign_adapter_is_refused(tmp_path: Path, base: Input) -> None:
    """B16. Also one with matrices that the base does not have."""
    checkpoint = with_lora(base, tmp_path / "lora")
    with pytest.raises(UserError, match="trained on another base"):
        open_weights(replace(checkpoint, base_key="d" * 64))
    file = tmp_path / "lora/adapter_model.safetensors"
    tensors = load_file(file)

    def changed(change: dict[str, Tensor]) -> None:
        save_file(tensors | change, file, {"format": "pt"})

    name = min(tensors)
    changed({name: tensors[name] / 0})
    with pytest.raises((PipelineError, ValueError), match=r"NaN|differs"):
        open_weights(checkpoint)
    changed({name: tensors[name], name.replace("layers.0", "layers.7"): tensors[name].clone()})
    with pytest.raises(PipelineError, match=r"does not match the model it is loaded into: missing \[\], unexpected .*layers\.7"):
        open_weights(checkpoint)


def open_weights(checkpoint: Input) -> None:
    with full_weights(checkpoint, checkpoint.adapters, "fp32"):
        pass


def test_rotary_frequencies_are_not_rounded(tmp_path: Path, base: Input) -> None:
    """In 16 bits they would be wrong by up to 0.4 %: other positions in a long sentence. Training keeps them in fp32."""
    checkpoint = with_lora(base, tmp_path / "lora")
    for model in (
        load_for_inference(checkpoint, Hardware(name="test"), "bf16")[0],
        load_merged(checkpoint, checkpoint.adapters, "bf16"),
    ):
        plain = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.bfloat16)
        assert model.model.rotary_emb.inv_freq.dtype == torch.float32
        assert torch.equal(model.model.rotary_emb.inv_freq, plain.model.rotary_emb.inv_freq)


def test_another_machine_keeps_what_it_has_mapped(tmp_path: Path, base: Input, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a network disk its mapped weights would vanish with the file. The next merge replaces them all the same."""
    distributed.init_process_group(Hardware(name="test"))
    for seed, names in enumerate((["one", "other"], ["one", "one"])):
        monkeypatch.setattr(distributed, "all_gather", lambda value, names=names: names)
        checkpoint = with_lora(base, tmp_path / f"lora-{seed}", seed=seed)
        with full_weights(checkpoint, checkpoint.adapters, "bf16", tmp_path / "work") as folder:
            same_weights(folder, checkpoint, "bf16")
        assert folder.exists() == (names == ["one", "other"])


def test_two_ranks_share_what_one_merges(tmp_path: Path) -> None:
    """Neither holds the model, of 89 MB in fp32: the first one file and one matrix, the second next to nothing."""
    made = make_base(tmp_path / "base", tied=False)
    shape = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 20, "head_dim": 128}
    LlamaForCausalLM(LlamaConfig.from_pretrained(made.path, **shape)).save_pretrained(made.path)
    with_lora(made, tmp_path / "adapter")
    with_lora(make_base(tmp_path / "small/base", tied=False), tmp_path / "small/adapter")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
    tests = str(Path(__file__).parents[2])
    env = os.environ | {"PYTHONPATH": os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])}
    subprocess.run([*command, "-m", "helpers.merging", str(tmp_path)], check=True, timeout=200, env=env)
    first, second = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(RANKS))
    _, adapted = at(tmp_path)
    expected = digest(load_merged(adapted, adapted.adapters, "bf16"))
    assert first["digest"] == second["digest"] == expected
    assert first["grown"] < 9 * SHARD_BYTES and second["grown"] < 2 * SHARD_BYTES, (first["grown"], second["grown"])
    assert not (tmp_path / "work/merged").exists()

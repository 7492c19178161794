"""Published checkpoints enter the graph: the real options, plan, runner and stage, on tiny repositories of the same layout."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from alma_pipeline.errors import UserError
from alma_pipeline.execution.runner import job_input
from alma_pipeline.ml.models.open import load_for_inference
from alma_pipeline.store.store import Store
from alma_pipeline.tracking.watcher import TrackingWatcher
from helpers.adopting import HARDWARE, IDS, as_pointer, logits, planned, run
from helpers.hub_mirror import make_full, make_lora, make_stray, rename_base


def test_a_sharded_full_model_and_an_adapter_on_it(store: Store, mirror: Path) -> None:
    base = make_full(mirror, "haoranxu/ALMA-13B-Pretrain")
    lora = make_lora(mirror, "haoranxu/ALMA-13B-Pretrain-LoRA", "haoranxu/ALMA-13B-Pretrain")
    words = ("model=13b", "stage=parallel", "target=adopt")
    plan = planned(store, *words)
    assert [step.node.name for step in plan.work] == ["mono", "parallel"]
    done = run(store, plan)
    mono, parallel = done["mono"], done["parallel"]
    assert torch.equal(logits(mono.path, IDS), logits(base, IDS))
    assert (mono.kind, mono.result["repo"], mono.result["licence"]) == ("released", "haoranxu/ALMA-13B-Pretrain", "mit")
    assert parallel.checkpoint == {"form": "adapter", "base_key": mono.key, "adapter_keys": [parallel.key]}
    assert parallel.payload["inputs"] == {"init": mono.key}, "the same adapter on another base would be another artifact"
    assert (parallel.path / "adapter_model.safetensors").read_bytes() == (lora / "adapter_model.safetensors").read_bytes()
    model, tokenizer = load_for_inference(job_input(store, parallel), HARDWARE, "fp32")
    with torch.no_grad():
        assert not torch.allclose(model(input_ids=IDS).logits, logits(base, IDS), atol=1e-2), "the adapter is in it"
    assert tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id
    settings = json.loads((mono.path / "generation_config.json").read_text())
    assert not {"do_sample", "temperature", "top_p"} & set(settings)
    assert not (mono.path / "pytorch_model.bin").exists()
    again = planned(store, *words)
    assert [again[name].verdict for name in ("mono", "parallel")] == ["reuse", "reuse"] and not again.work


def test_a_stray_adapter_beside_a_merged_model_misleads_nobody(store: Store, mirror: Path) -> None:
    """ALMA-13B-R: with peft installed, from_pretrained would load ALMA-13B-Pretrain with an adapter that is not there."""
    merged = make_full(mirror, "haoranxu/ALMA-13B-R", seed=7)
    expected = logits(merged, IDS)
    make_stray(merged)
    done = run(store, planned(store, "model=13b", "stage=cpo", "target=adopt"))
    assert set(done) == {"cpo"} and done["cpo"].checkpoint["form"] == "full"
    assert not (done["cpo"].path / "adapter_config.json").exists()
    assert torch.equal(logits(done["cpo"].path, IDS), expected)


def test_a_module_of_x_alma_beside_a_whole_model(store: Store, mirror: Path) -> None:
    """A Group repository holds the adapter and the whole model with it merged; its base is named by a path of the authors."""
    make_full(mirror, "haoranxu/X-ALMA-13B-Pretrain", shards=False)
    group = make_full(mirror, "haoranxu/X-ALMA-13B-Group5", seed=5)
    elsewhere = make_lora(mirror, "someone/lora", "/data/checkpoints/x-alma-pretrain")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        os.rename(elsewhere / name, group / name)
    done = run(store, planned(store, "model=x_alma", "stage=arpo", "target=adopt", "group=5"))
    assert set(done) == {"mono", "g5.arpo"}
    assert done["g5.arpo"].checkpoint["adapter_keys"] == [done["g5.arpo"].key]
    assert not list(done["g5.arpo"].path.glob("model*"))


def test_an_adapter_of_another_base_is_refused(store: Store, mirror: Path) -> None:
    """B16: by the name it gives, and where that says nothing by its shapes."""
    make_full(mirror, "haoranxu/ALMA-13B-Pretrain")
    lora = make_lora(mirror, "haoranxu/ALMA-13B-Pretrain-LoRA", "meta-llama/Llama-2-13b-hf")
    plan = planned(store, "model=13b", "stage=parallel", "target=adopt")
    with pytest.raises(UserError, match=r"trained on meta-llama/Llama-2-13b-hf, but here its base is .*ALMA-13B-Pretrain"):
        run(store, plan)
    rename_base(lora, "")
    settings = lora / "adapter_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"r": 3}))
    with pytest.raises(UserError, match=r"does not fit the model mono-.*tensors differ.*expected \[3, 32\]"):
        run(store, planned(store, "model=13b", "stage=parallel", "target=adopt"))


def test_an_adapter_on_one_end_of_tied_weights_is_refused(store: Store, mirror: Path) -> None:
    """Before anything is written; merged, it would change both ends."""
    full = make_full(mirror, "haoranxu/ALMA-13B-Pretrain")
    tied = AutoModelForCausalLM.from_pretrained(full, tie_word_embeddings=True)
    tied.save_pretrained(full, max_shard_size="30KB")
    lora = make_lora(mirror, "haoranxu/ALMA-13B-Pretrain-LoRA", "haoranxu/ALMA-13B-Pretrain")
    settings = lora / "adapter_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"target_modules": ["q_proj", "lm_head"]}))
    with pytest.raises(UserError, match=r"the adapter of haoranxu/ALMA-13B-Pretrain-LoRA changes lm_head.*tie_word_embeddings"):
        run(store, planned(store, "model=13b", "stage=parallel", "target=adopt"))
    assert [path.name.rpartition("-")[0] for path in store.folders()] == ["mono"]


def test_tracking_claims_no_training_for_it(store: Store, mirror: Path) -> None:
    class Heard:
        def node_started(self, node: str, kind: str, key: str, **more: Any) -> None:
            self.told = kind, more["settings"], more["inputs"], more["datasets"]

    plan, heard = planned(store, "model=13b", "stage=parallel", "target=adopt"), Heard()
    TrackingWatcher(heard, plan).started(plan["parallel"], store.root)  # type: ignore[arg-type]
    kind, told, inputs, datasets = heard.told
    assert (kind, told["repo"], inputs) == ("released", "haoranxu/ALMA-13B-Pretrain-LoRA", {"init": plan["mono"].key})
    assert "learning_rate" not in told and datasets == []


def with_vocabulary(folder: Path, rows: int) -> None:
    settings = folder / "config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"vocab_size": rows}))


def cut(file: Path) -> None:
    """As a download that broke leaves it."""
    file.write_bytes(file.read_bytes()[:-50])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: next(iter(sorted(folder.glob("model-*")))).unlink(), "its index names model-00001-.*download it again"),
        (lambda folder: (folder / "model.safetensors.index.json").unlink(), r"pytorch_model\.bin: pickles.*refs/pr/N"),
        (lambda folder: (folder / "model.safetensors.index.json").write_text("{"), "index.json is damaged"),
        (lambda folder: (folder / "config.json").unlink(), "contains no usable model"),
        (lambda folder: cut(next(iter(sorted(folder.glob("model-*"))))), r"model-00001-of-.* is damaged.*interrupted download"),
        (lambda folder: as_pointer(next(folder.glob("model-*"))), r"model-.* is a Git LFS pointer.*; run `git lfs pull` in "),
        (lambda folder: as_pointer(folder / "tokenizer.json"), "tokenizer.json is a Git LFS pointer, not the file itself"),
        (
            lambda folder: with_vocabulary(folder, 289),
            r"shape \[290, 32\], expected \[289, 32\].*is 289, the weights have 290 rows",
        ),
        (
            lambda folder: with_vocabulary(folder, 300),
            r"shape \[290, 32\], expected \[300, 32\].*is 300, the weights have 290 rows",
        ),
    ],
)
def test_a_repository_that_is_not_whole(store: Store, mirror: Path, damage: Any, said: str) -> None:
    damage(make_full(mirror, "haoranxu/ALMA-13B-Pretrain"))
    with pytest.raises(UserError, match=said):
        run(store, planned(store, "model=13b", "stage=mono", "target=adopt"))
    assert not store.folders()


def test_an_adapter_that_is_not_whole(store: Store, mirror: Path) -> None:
    make_full(mirror, "haoranxu/ALMA-13B-Pretrain")
    cut(make_lora(mirror, "haoranxu/ALMA-13B-Pretrain-LoRA", "haoranxu/ALMA-13B-Pretrain") / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"adapter_model\.safetensors is damaged.*download it again"):
        run(store, planned(store, "model=13b", "stage=parallel", "target=adopt"))


def test_what_cannot_be_reached_is_one_paragraph(store: Store, mirror: Path) -> None:
    """B47: repository, page, cache, variables."""
    with pytest.raises(UserError) as caught:
        run(store, planned(store, "model=13b", "stage=mono", "target=adopt"))
    said = str(caught.value)
    for part in ("haoranxu/ALMA-13B-Pretrain at revision main", "https://huggingface.co/haoranxu/ALMA-13B-Pretrain", "HF_HOME",
                 "HF_TOKEN", f"mirror {mirror}", "huggingface/hub", "HF_HUB_OFFLINE is set: unset it"):  # fmt: skip
        assert part in said, part
    assert "\n" not in said

"""`adopt`: a folder or a repository in the place of a node, by hand."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from alma_pipeline import disk
from alma_pipeline.cli import adopt
from alma_pipeline.errors import UserError
from alma_pipeline.execution.runner import job_input
from alma_pipeline.job import Job
from alma_pipeline.ml.models.checkpoints import gather_state, write_checkpoint
from alma_pipeline.ml.models.open import load_for_inference, open_for_training
from alma_pipeline.plan.remade import made_again
from alma_pipeline.schema import Training
from alma_pipeline.store.identity import key_of
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store
from helpers.adopting import HARDWARE, IDS, as_pointer, logits, planned, run, take
from helpers.damage import flip
from helpers.hub_mirror import make_full, make_lora
from stages.merge import run as merge
from stages.merge.config import Config as Merge


def test_several_end_tokens_are_kept_and_end_every_output(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As chat models have them: by adopt, by training on what was adopted, by decoding and by export."""
    folder = make_full(tmp_path, "mine")
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(settings | {"eos_token_id": [1, 209]}))
    words = ("stage=parallel", "data.languages=[de,sv]")
    take(store, monkeypatch, "mono", str(folder), *words)
    mono = planned(store, *words)["mono"].record
    assert mono is not None and mono.payload["config"]["end_tokens"] == [1, 209]
    take(store, monkeypatch, "parallel", str(make_lora(tmp_path, "lora", "")), *words)
    parallel = planned(store, *words)["parallel"].record
    assert parallel is not None
    # What decodes the adapter, and what exports it merged, have both tokens; text ends with the tokenizer's.
    checkpoint = job_input(store, parallel)
    model, tokenizer = load_for_inference(checkpoint, HARDWARE, "fp32")
    assert (model.generation_config.eos_token_id, model.config.eos_token_id, tokenizer.eos_token_id) == ([1, 209], [1, 209], 1)
    exported = Job("merge", "0" * 64, str(tmp_path / "work"), Merge(), HARDWARE, {"checkpoint": checkpoint})
    exported.out.mkdir(parents=True)
    merge.run(exported)
    trained = open_for_training(job_input(store, mono), Training(kind="test", steps=1, seed=1), HARDWARE, 0.0)
    write_checkpoint(trained, gather_state(trained, first=True), tmp_path / "trained", moved=False)
    for written in (mono.path, exported.out, tmp_path / "trained"):
        for name in ("config.json", "generation_config.json"):
            assert json.loads((written / name).read_text())["eos_token_id"] == [1, 209], written / name


def test_an_adapter_trained_on_an_export_is_adopted_on_what_was_exported(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder that it names is compared by content, although it was cast and is in one file, not in several."""
    words = ("stage=parallel", "data.languages=[de,sv]")
    take(store, monkeypatch, "mono", str(make_full(tmp_path, "mine")), *words)
    mono = planned(store, *words)["mono"].record
    assert mono is not None
    exported = Job(
        "merge", "0" * 64, str(tmp_path / "work"), Merge(precision="bf16"), HARDWARE, {"checkpoint": job_input(store, mono)}
    )
    exported.out.mkdir(parents=True)
    merge.run(exported)
    os.rename(exported.out, tmp_path / "m")
    lora = str(make_lora(tmp_path / "far", "lora", "m"))
    # Where `m` cannot be found, its name alone says that it is another model.
    monkeypatch.chdir(store.root)
    with pytest.raises(UserError, match=r"trained on m, but here its base is .*mono-.*if m is a folder, run adopt from"):
        take(store, monkeypatch, "parallel", lora, *words)
    # Another model of that name, with the same shapes, is known by its weights; the exported one is its base.
    monkeypatch.chdir(tmp_path)
    os.rename(tmp_path / "m", tmp_path / "kept")
    make_full(tmp_path, "m", seed=3)
    with pytest.raises(
        UserError, match=r"trained on the model in .*/m, but here its base is mono-.*other weights \(the first is "
    ):
        take(store, monkeypatch, "parallel", lora, *words)
    as_pointer(next((tmp_path / "m").glob("model-*")))
    with pytest.raises(UserError, match=r"names .*/m as its base, whose weights cannot be read"):
        take(store, monkeypatch, "parallel", lora, *words)
    shutil.rmtree(tmp_path / "m")
    os.rename(tmp_path / "kept", tmp_path / "m")
    take(store, monkeypatch, "parallel", lora, *words)
    adapted = planned(store, *words)["parallel"].record
    assert adapted is not None and adapted.checkpoint["base_key"] == mono.key


def test_a_folder_becomes_the_output_of_a_node(
    store: Store, tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its content, under a key of its own; what comes after stands on that key."""
    folder = make_full(tmp_path, "mine")
    words = ("stage=parallel", "data.languages=[de,sv]")
    before = planned(store, *words)
    take(store, monkeypatch, "mono", str(folder), *words)
    step = planned(store, *words)["mono"]
    assert step.record is not None and (step.verdict, step.requested_key) == ("reuse", before["mono"].key)
    assert step.key == step.record.key == key_of(step.payload) != before["mono"].key
    assert step.payload["config"]["files"]["config.json"] and str(folder) not in json.dumps(step.payload)
    assert set(step.payload["config"]) == {"files"}, "one end token is no part of the key, and a number as before"
    assert json.loads((step.record.path / "generation_config.json").read_text())["eos_token_id"] == 1
    assert planned(store, *words)["parallel"].payload["inputs"]["init"] == step.key
    assert torch.equal(logits(step.record.path, IDS), logits(folder, IDS))
    with pytest.raises(UserError, match="mono exists already"):
        take(store, monkeypatch, "mono", str(folder), *words)
    lora = make_lora(tmp_path, "lora", "")
    take(store, monkeypatch, "parallel", str(lora), *words)
    adapted = planned(store, *words)["parallel"].record
    assert adapted is not None and adapted.checkpoint["base_key"] == step.key
    assert {path.name.rpartition("-")[0] for path in Store(store.root).folders()} == {"mono", "parallel"}
    assert AutoTokenizer.from_pretrained(adapted.path).pad_token_id is not None


def test_a_damaged_adopted_model_is_adopted_again_as_the_message_says(
    store: Store, tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, words = make_full(tmp_path, "mine"), ("stage=parallel", "data.languages=[de,sv]")
    take(store, monkeypatch, "mono", str(folder), *words)
    record = planned(store, *words)["mono"].record
    assert record is not None
    weights = min(record.path.glob("*.safetensors"))
    flip(weights)
    advice = f"Move {record.path} out of the store; .* alma-pipeline adopt mono {folder}"
    with pytest.raises(UserError, match=rf"{weights} is damaged: .*{advice}"):
        run(store, planned(store, *words))
    record.path.rename(tmp_path / "away")
    with pytest.raises(UserError, match=f"mono: .*{record.key[:12]} is no longer in the store. Adopt it again"):
        made_again(planned(store, *words))
    take(store, monkeypatch, "mono", str(folder), *words)
    assert planned(store, *words)["mono"].record == Store(store.root).find(record.key)
    weights.write_bytes(b"cut")
    take(store, monkeypatch, "mono", str(folder), *words)
    Store(store.root).check_files(*(one for one in Store(store.root).records() if one.key == record.key))


def test_weights_that_change_while_they_are_adopted_are_not(
    store: Store, tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, other = make_full(tmp_path, "mine"), make_full(tmp_path, "other")
    imported = adopt._import

    def replaced(*words: Any) -> Record:
        """What a person does who saves a new model while the old one is being copied."""
        weights = max(other.glob("*.safetensors"))
        flip(weights)
        shutil.copyfile(weights, folder / weights.name)
        return imported(*words)

    monkeypatch.setattr(adopt, "_import", replaced)
    with pytest.raises(UserError, match=r"mine/model\S+\.safetensors changed while it was being adopted"):
        take(store, monkeypatch, "mono", str(folder), "stage=parallel", "data.languages=[de,sv]")
    assert Store(store.root).folders() == []


def test_what_is_adopted_by_hand_comes_before_what_was_published(
    store: Store, tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("model=7b", "stage=parallel")
    assert planned(store, *words)["mono"].reason == "haoranxu/ALMA-7B-Pretrain@main"
    monkeypatch.setattr(disk, "free_bytes", lambda folder: 10**9)  # enough for what is adopted, not for a training of 7B
    take(store, monkeypatch, "mono", str(make_full(tmp_path, "mine")), *words)
    step = planned(store, *words)["mono"]
    assert (step.verdict, step.released) == ("reuse", None) and "files" in step.payload["config"]
    after = planned(store, "model=7b", "stage=cpo")["parallel"]
    assert (after.verdict, after.reason) == (
        "run", "not adopting haoranxu/ALMA-7B-Pretrain-LoRA: mono was adopted from elsewhere",
    )  # fmt: skip
    assert planned(store, *words, "seed=7")["mono"].reason == "haoranxu/ALMA-7B-Pretrain@main"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mono"], "arguments are required: FOLDER"),
        (["mno", "{folder}"], "adopt mno: no such node in this plan; did you mean 'mono'"),
        (["mono_corpus", "{folder}"], "its kind corpus produces no checkpoint"),
        (["mono", "./nowhere"], "expected an existing folder, or OWNER/NAME"),
        (["mono", "{folder}"], "has no safetensors"),
        (["mono", "{pointer}"], "model.safetensors is a Git LFS pointer, not the file itself; run `git lfs pull` in "),
        (["parallel", "someone/lora@v1", "--adapter"], "an adapter needs its base mono, which does not exist yet"),
    ],
)
def test_what_cannot_be_adopted(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    pointer = tmp_path / "pointer"
    pointer.mkdir()
    as_pointer(pointer / "model.safetensors")
    with pytest.raises(UserError, match=said):
        take(store, monkeypatch, *(word.format(folder=folder, pointer=pointer) for word in words), "stage=parallel")
    assert not store.folders()

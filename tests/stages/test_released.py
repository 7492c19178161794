"""Published checkpoints enter the graph: the real options, plan, runner and stage, on tiny repositories of the same layout."""

import importlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from alma_pipeline import disk
from alma_pipeline.cli import adopt
from alma_pipeline.cli.arguments import parse
from alma_pipeline.config import load
from alma_pipeline.errors import UserError
from alma_pipeline.execution.runner import Runner, job_input
from alma_pipeline.files import write_json
from alma_pipeline.job import Job, read_job
from alma_pipeline.ml.models.checkpoints import gather_state, write_checkpoint
from alma_pipeline.ml.models.open import load_for_inference, open_for_training
from alma_pipeline.plan.plan import Plan, make_plan
from alma_pipeline.plan.remade import made_again
from alma_pipeline.schema import Hardware, Training
from alma_pipeline.store.identity import key_of
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store
from alma_pipeline.tracking.watcher import TrackingWatcher
from helpers.damage import flip
from helpers.hub_mirror import make_full, make_lora, make_stray, rename_base
from stages.merge import run as merge
from stages.merge.config import Config as Merge

HARDWARE = Hardware(name="test", threads=1)
ALONE = ["evaluation.checkpoints=[]", "evaluation.controls={}", "tracking=none"]


class Done:
    def poll(self) -> int:
        return 0

    def stop(self) -> None: ...


class InProcess:
    """Does a job at once, here: what a worker does of it, without the process."""

    def __init__(self, *given: object) -> None: ...

    def start(self, work: Path, token: str, distributed: bool) -> Done:
        job = read_job(work / "job.json")
        write_json(work / "result.json", importlib.import_module(f"stages.{job.config.kind}.run").run(job))
        return Done()

    def close(self) -> None: ...


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path / "mirror"
    monkeypatch.setenv("ALMA_PIPELINE_MIRROR", str(folder))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return folder


def run(store: Store, plan: Plan) -> dict[str, Record]:
    runner = Runner(store, HARDWARE, InProcess(), [], {})  # type: ignore[arg-type]
    runner.run(plan)
    return runner.done


def planned(store: Store, *words: str) -> Plan:
    return make_plan(load.load([*words, *ALONE]), Store(store.root))


def logits(folder: Path | str, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(input_ids=ids).logits
    return found


IDS = torch.tensor([[0, 5, 9, 17, 33]])


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


def as_pointer(file: Path) -> None:
    """As a clone without `git lfs pull` leaves it."""
    file.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 123\n")


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


def take(store: Store, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setenv("ALMA_PIPELINE_STORE", str(store.root))
    monkeypatch.setattr(adopt, "Launcher", InProcess)
    assert adopt.main(parse(["adopt", *words, *ALONE])) == 0


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

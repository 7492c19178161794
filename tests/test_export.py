"""`export`: a plain folder that transformers and PEFT load, with a card made of what the store knows."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from adapter_bed import make_adapter
from decoding_bed import make_checkpoint
from fake_hub import FakeHub
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from alma_pipeline.cli import main
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store

BASE, TEXT, SFT, HYPOTHESES, SCORE = (f"{number:02d}" * 32 for number in range(20, 25))
SIGNATURES = {"chrf++": "nrefs:1|case:mixed", "bleu": {"de-en": "nrefs:1|tok:13a"}}


def put(store: Store, name: str, key: str, files: Path | None, payload: dict[str, Any], **more: Any) -> Record:
    work = store.begin(name, key)
    shutil.copytree(files, work.path / "out") if files else (work.path / "out").mkdir()
    content = {"kind": name, "version": 1, "config": {}, "inputs": {}} | payload
    plain = {"name": name, "key": key, "kind": content["kind"], "payload": content, "result": {}, "created": "2026-01-01"}
    record = store.commit(work, plain | {"seconds": 1.0} | more)
    work.close()
    return record


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A base from the hub, a LoRA trained on it, and its scores."""
    torch.set_num_threads(1)
    store, folder = Store(tmp_path_factory.mktemp("export") / "store"), tmp_path_factory.mktemp("made")
    base = make_checkpoint(folder / "base")
    make_adapter(base, folder / "sft", seed=1, rank=4)
    (folder / "sft" / "base.json").write_text(json.dumps({"base_key": BASE, "merged": []}))
    origin = {"source": "hub", "repo": "someone/tiny", "revision": "main"}
    taken = {"licence": "apache-2.0", "commit": "0123abcd"}
    loading = {"form": "full", "base_key": BASE, "adapter_keys": []}
    put(store, "base", BASE, folder / "base", {"config": origin}, result=taken, checkpoint=loading)
    read = {"reader": "hub", "repo": "someone/text", "revision": "r1", "split": "train", "trained_on": ["FLORES-200"]}
    put(store, "parallel_corpus", TEXT, None, {"kind": "corpus", "config": {"pairs": read}})
    settings = {"learning_rate": 0.002, "steps": 4, "lora": {"rank": 4, "alpha": 8.0}, "prompt": "alma", "languages": {"de": {}}}
    loading = {"form": "adapter", "base_key": BASE, "adapter_keys": [SFT]}
    inputs = {"init": BASE, "corpus": TEXT}
    put(store, "parallel", SFT, folder / "sft", {"config": settings, "inputs": inputs}, checkpoint=loading)
    put(store, "parallel.translate", HYPOTHESES, None, {"inputs": {"checkpoint": SFT}})
    scores = {"directions": {"de-en": {"chrf++": 51.5, "bleu": 20.25}}, "signatures": SIGNATURES}
    put(store, "parallel.score", SCORE, None, {"kind": "score", "inputs": {"hypotheses": HYPOTHESES}}, result=scores)
    return store


def command(store: Store, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setenv("ALMA_PIPELINE_STORE", str(store.root))
    monkeypatch.setattr("sys.argv", ["alma-pipeline", "export", *words])
    return main.main()


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids).logits
    return found


def test_merged_with_its_card_and_pushed(filled: Store, tmp_path: Path) -> None:
    """The worker, the hub's own client and its protocol are real; the hub at the other end is a page of code."""
    folder = tmp_path / "out" / "model"
    with FakeHub() as hub:
        environment = os.environ | {
            "ALMA_PIPELINE_STORE": str(filled.root),
            "HF_ENDPOINT": hub.address,
            "HF_TOKEN": "hf_canary12345",
            "HF_HOME": str(tmp_path / "hf"),  # fresh, as on a new machine, and nothing of the page of code gets into the user's
        }
        words = ["-m", "alma_pipeline", "export", "parallel", str(folder), "--push", "me/tiny"]
        done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"1 adapters merged in fp32, largest logit difference \S+ of at most", done.stdout)
    ids = AutoTokenizer.from_pretrained(folder)("Das Haus", return_tensors="pt")["input_ids"]
    base = AutoModelForCausalLM.from_pretrained(filled.find(BASE).path)  # type: ignore[union-attr]
    expected = logits(PeftModel.from_pretrained(base, filled.find(SFT).path), ids)  # type: ignore[union-attr]
    assert torch.allclose(logits(AutoModelForCausalLM.from_pretrained(folder), ids), expected, atol=1e-3)
    metadata, card = (folder / "README.md").read_text().split("---\n", 2)[1:]
    told = {"library_name": "transformers", "pipeline_tag": "translation", "language": ["de", "en"]}
    told |= {"tags": ["alma_pipeline", "parallel"], "license": "apache-2.0", "base_model": "someone/tiny"}
    assert yaml.safe_load(metadata) == told
    lineage = ("steps=4, learning_rate=0.002", "`someone/tiny` at revision `0123abcd`", SFT)
    data = ("someone/text at r1, train; overlaps with FLORES-200", "| de-en | 51.5 | 20.2 |", "nrefs:1|tok:13a")
    for part in (*lineage, *data, "Largest logit difference", "licence: apache-2.0"):
        assert part in card, part
    assert hub.created == [{"name": "tiny", "organization": "me", "visibility": "private"}]
    assert set(hub.files) == {path.name for path in folder.iterdir()}
    assert hub.files["README.md"] == (folder / "README.md").read_bytes()
    assert hub.tokens == {"Bearer hf_canary12345"}
    assert "hf_canary12345" not in done.stdout + done.stderr + card
    assert not list((filled.root / "aside").iterdir()) and not list(folder.parent.glob("*unfinished*"))


def test_the_adapter_alone_names_the_published_base(filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()  # an empty one will do
    assert command(filled, monkeypatch, SFT[:6], str(folder), "--adapter") == 0
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "someone/tiny"
    base = AutoModelForCausalLM.from_pretrained(filled.find(BASE).path)  # type: ignore[union-attr]
    assert PeftModel.from_pretrained(base, folder).peft_config["default"].r == 4
    assert 'library_name: "peft"' in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["parallel"], "export takes what to export and an empty or new folder"),
        (["parallel.score", "{new}"], "is of kind score, which leaves no model"),
        (["parallel", "{full}"], "exists; export writes an empty or new folder"),
        (["base", "{new}", "--adapter"], "is a full model; leave --adapter out"),
        (["parallel", "{new}", "--push", "tiny"], "expected OWNER/NAME"),
        (["parallel", "{new}", "--push", "me/tiny"], "needs a token with write access in the variable HF_TOKEN"),
        (["parallel", "{new}", "--precision", "fp8"], "expected one of fp32, bf16, fp16"),
    ],
)
def test_what_cannot_be_exported(
    filled: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    assert command(filled, monkeypatch, *(word.format(new=tmp_path / "new", full=full) for word in words)) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "mine.txt"], "nothing is made, nothing is overwritten"

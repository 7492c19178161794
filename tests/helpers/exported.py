"""A store with a base from the hub, a LoRA trained on it, and its scores: what is exported."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store
from helpers.tiny_adapter import make_adapter
from helpers.tiny_checkpoint import make_checkpoint

BASE, TEXT, SFT, HYPOTHESES, SCORE, TEST = (f"{number:02d}" * 32 for number in range(20, 26))
NEURAL = "Unbabel/wmt22-comet-da@0123abc|reference:yes|precision:fp16|comet:2.2.7"
SIGNATURES = {
    "chrf++": {"de-en": "nrefs:1|nw:2", "en-de": "nrefs:1|nw:2"},
    "bleu": {"de-en": "nrefs:1|tok:13a", "en-de": "nrefs:1|tok:zh"},
    "ter": {"de-en": "nrefs:1|tok:tercom|asian:no", "en-de": "nrefs:1|tok:tercom|asian:no"},
    "comet-22": {"de-en": NEURAL, "en-de": NEURAL},
}
NUMBERS = {"chrf++": 51.5, "bleu": 20.25, "ter": 61.0, "comet-22": 83.456}
SPOKEN = {"en": {"name": "English"}, "de": {"name": "German"}}


def put(store: Store, name: str, key: str, files: Path | None, payload: dict[str, Any], **more: Any) -> Record:
    work = store.begin(name, key)
    shutil.copytree(files, work.path / "out") if files else (work.path / "out").mkdir()
    content = {"kind": name, "version": 1, "config": {}, "inputs": {}} | payload
    plain = {"name": name, "key": key, "kind": content["kind"], "payload": content, "result": {}, "created": "2026-01-01"}
    record = store.commit(work, plain | {"seconds": 1.0} | more)
    work.close()
    return record


def fill(root: Path, folder: Path) -> Store:
    """A base from the hub, a LoRA trained on it, and its scores."""
    torch.set_num_threads(1)
    store = Store(root)
    base = make_checkpoint(folder / "base")
    make_adapter(base, folder / "sft", seed=1, rank=4)
    (folder / "sft" / "base.json").write_text(json.dumps({"base_key": BASE, "merged": []}))
    origin = {"source": "hub", "repo": "someone/tiny", "revision": "main"}
    taken = {"licence": "apache-2.0", "commit": "0123abcd"}
    loading = {"form": "full", "base_key": BASE, "adapter_keys": []}
    put(store, "base", BASE, folder / "base", {"config": origin}, result=taken, checkpoint=loading)
    read = {"reader": "hub", "repo": "someone/text", "revision": "r1", "split": "train", "trained_on": ["FLORES-200"]}
    put(store, "parallel_corpus", TEXT, None, {"kind": "corpus", "config": {"pairs": read}})
    settings = {
        "learning_rate": 0.002,
        "steps": 4,
        "lora": {"rank": 4, "alpha": 8.0},
        "prompt": "alma",
        "languages": SPOKEN,
        "adapter": "new",
    }
    loading = {"form": "adapter", "base_key": BASE, "adapter_keys": [SFT]}
    inputs = {"init": BASE, "corpus": TEXT}
    put(store, "parallel", SFT, folder / "sft", {"config": settings, "inputs": inputs}, checkpoint=loading)
    tested: dict[str, Any] = {
        "form": "test",
        "pairs": {"reader": "hub", "repo": "openlanguagedata/flores_plus", "revision": "f00", "split": "devtest"},
    }
    tested["pairs"]["trained_on"] = ["FLORES-200"]
    put(store, "test_corpus", TEST, None, {"kind": "corpus", "config": tested})
    decoding = {"kind": "translate", "config": {"num_beams": 5, "max_new_tokens": 64}}
    put(store, "parallel.translate", HYPOTHESES, None, decoding | {"inputs": {"checkpoint": SFT, "test": TEST}})
    scores = {"directions": {"de-en": NUMBERS, "en-de": NUMBERS}, "signatures": SIGNATURES}
    put(store, "parallel.score", SCORE, None, {"kind": "score", "inputs": {"hypotheses": HYPOTHESES}}, result=scores)
    return store

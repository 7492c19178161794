"""`export`: a plain folder that transformers and PEFT load, with a card made of what the store knows."""

import ast
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from alma_pipeline.cli import export, main
from alma_pipeline.errors import UserError
from alma_pipeline.ml.data.prompts import Prompter
from alma_pipeline.model_card import card
from alma_pipeline.schema import Language
from alma_pipeline.store.lookup import find_artifact
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store
from helpers.damage import flip
from helpers.fake_hub import FakeHub
from helpers.model_cards import header
from helpers.tiny_adapter import make_adapter
from helpers.tiny_checkpoint import make_checkpoint
from helpers.translating import start_nothing

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
    told = (folder / "README.md").read_text(encoding="utf-8")
    lineage = (
        "a new LoRA of rank 4, alpha 8 | 4 steps |  | 0.002 |",
        "[someone/tiny](https://huggingface.co/someone/tiny) at revision `0123abcd`",
        SFT,
    )
    for part in (
        *lineage,
        "Largest logit difference",
        "states `apache-2.0`",
        'name = "me/tiny"',
        "alma-pipeline export parallel tiny",
    ):
        assert part in told, part
    assert hub.created == [{"name": "tiny", "organization": "me", "visibility": "private"}]
    assert set(hub.files) == {path.name for path in folder.iterdir()}
    assert hub.files["README.md"] == (folder / "README.md").read_bytes()
    assert hub.tokens == {"Bearer hf_canary12345"}
    assert "hf_canary12345" not in done.stdout + done.stderr + told
    assert not (filled.root / "aside").exists() and not list(folder.parent.glob("*unfinished*"))
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == dict.fromkeys(hub.files, 0o644)


def test_the_adapter_alone_names_the_published_base(filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    monkeypatch.chdir(folder)  # an empty one will do, and its owner may be in it
    assert command(filled, monkeypatch, SFT[:6], ".", "--adapter") == 0
    assert not [path for path in folder.iterdir() if path.is_dir()]
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "someone/tiny"
    base = AutoModelForCausalLM.from_pretrained(filled.find(BASE).path)  # type: ignore[union-attr]
    assert PeftModel.from_pretrained(base, folder).peft_config["default"].r == 4
    data = header((folder / "README.md").read_text(encoding="utf-8"))
    assert (data.library_name, data.base_model, data.base_model_relation) == ("peft", "someone/tiny", "adapter")


def of_record(store: Store, name: str, as_adapter: bool = False) -> str:
    return card.render_card(store, find_artifact(store, name), {"precision": "fp32"}, as_adapter, "me/tiny")


def test_what_a_card_and_an_error_print_can_be_pasted(filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a folder with a space and quotes in its name."""
    name = """it's "my" ü"""
    text = card.render_card(filled, find_artifact(filled, "parallel"), {"precision": "fp32"}, False, name)
    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assigned = next(node for node in ast.parse(snippet).body if isinstance(node, ast.Assign))
    assert ast.literal_eval(assigned.value) == name

    def refuse(*words: object, **named: object) -> None:
        raise OSError("no")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", refuse)
    with pytest.raises(UserError) as caught:
        export._push(tmp_path / name, "me/tiny")
    assert shlex.split(str(caught.value).split("`")[1]) == ["hf", "upload", "me/tiny", str(tmp_path / name)]


def test_the_header_is_what_the_hub_reads(filled: Store) -> None:
    data = header(of_record(filled, "parallel"))
    assert (data.license, data.language, data.pipeline_tag, data.library_name) == (
        "apache-2.0", ["de", "en"], "translation", "transformers"
    )  # fmt: skip
    assert data.tags == ["alma_pipeline", "parallel", "lora"] and data.datasets == ["someone/text"]
    assert (data.base_model, data.base_model_relation) == ("someone/tiny", "finetune")
    assert data.model_name == "tiny" and data.metrics == ["chrf", "bleu", "ter", "comet"]
    found = {(result.dataset_config, result.metric_name): result for result in data.eval_results}
    assert {key[1]: found[key].metric_value for key in found if key[0] == "de-en"} == {
        "chrF++": 51.5, "BLEU": 20.25, "TER": 61.0, "comet-22": 83.46
    }  # fmt: skip
    bleu = found["en-de", "BLEU"]
    assert bleu.metric_args == {"signature": "nrefs:1|tok:zh"}
    assert (bleu.dataset_type, bleu.dataset_split, bleu.dataset_revision) == ("openlanguagedata/flores_plus", "devtest", "f00")


def test_the_scores_have_one_line_of_signature_each_and_what_spoils_them_is_said(filled: Store) -> None:
    told = of_record(filled, "parallel")
    assert "| direction | chrF++ | BLEU | TER ↓ | comet-22 |" in told and "| de→en | 51.5 | 20.2 | 61.0 | 83.5 |" in told
    assert "beam search with 5 beams, no examples in the prompt" in told
    lines = [line for line in told.splitlines() if line.startswith("- ") and ("`nrefs" in line or "`Unbabel" in line)]
    assert [line[2:].partition(":")[0] for line in lines] == [
        "chrF++",
        "BLEU (de→en)",
        "BLEU (en→de)",
        "TER, lower is better",
        "comet-22",
    ]
    assert "`sacrebleu REFERENCE -i HYPOTHESIS -m bleu --tokenize zh`" in lines[2]
    assert "`parallel` read text that is or overlaps with FLORES-200" in told and "This applies to the scores above" in told
    assert "None" not in told.partition("---\n\n")[2]


def test_a_card_with_chrf_alone_and_one_without_scores(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    loading = {"form": "full", "base_key": BASE, "adapter_keys": []}
    put(store, "base", BASE, None, {"config": {"source": "random"}}, checkpoint=loading)
    settings = {"learning_rate": 0.002, "steps": 4, "adapter": "none", "lora": {"rank": 16, "alpha": 8.0}, "languages": SPOKEN}
    loading = {"form": "full", "base_key": SFT, "adapter_keys": []}
    config = {"config": settings, "inputs": {"init": BASE}}
    put(store, "mono", SFT, None, config, checkpoint=loading)
    unscored = of_record(store, "mono")
    assert "Not evaluated." in unscored and "model-index" not in unscored and "LoRA" not in unscored
    assert "license" not in header(unscored).to_dict() and "No licence: the weights" in unscored
    put(store, "mono.translate", HYPOTHESES, None, {"kind": "translate", "inputs": {"checkpoint": SFT}})
    scores = {"directions": {"de-en": {"chrf++": 51.5}}, "signatures": {"chrf++": {"de-en": "nrefs:1|nw:2"}}}
    put(store, "mono.score", SCORE, None, {"kind": "score", "inputs": {"hypotheses": HYPOTHESES}}, result=scores)
    scored = of_record(store, "mono")
    assert "| direction | chrF++ |" in scored and "| de→en | 51.5 |" in scored and "BLEU" not in scored
    assert [result.metric_type for result in header(scored).eval_results] == ["chrf"]


def test_a_licence_that_is_unknown_or_not_the_same_is_left_out_of_the_header(filled: Store, tmp_path: Path) -> None:
    for stated, shown in (("", "no known licence"), ("Llama 2 Community", "`Llama 2 Community`")):
        store = Store(tmp_path / f"store {stated}")
        loading = {"form": "full", "base_key": BASE, "adapter_keys": []}
        config = {"source": "hub", "repo": "someone/tiny", "revision": "main"}
        put(store, "base", BASE, None, {"config": config}, result={"licence": stated}, checkpoint=loading)
        told = of_record(store, "base")
        assert "license" not in header(told).to_dict() and f"`someone/tiny` states {shown}" in told


def test_what_was_adopted_from_a_folder_is_named_so_and_not_by_its_path(tmp_path: Path) -> None:
    """A folder is identified by its files: the record's settings hold no repository, and weights that are not random."""
    store = Store(tmp_path / "store")
    config = {"files": {"model.safetensors": "5" * 64}}
    loading = {"form": "full", "base_key": BASE, "adapter_keys": []}
    found = {"repo": str(tmp_path / "mine"), "commit": "", "licence": "", "parameters": 9}
    put(store, "base", BASE, None, {"kind": "released", "config": config}, result=found, checkpoint=loading)
    told = of_record(store, "base")
    assert "It is a full model, unchanged: a checkpoint that was adopted from a local folder." in told
    assert "Unknown: the weights were adopted from a local folder" in told
    assert "\n| base | adopted from a local folder |" in told and "random" not in told and str(tmp_path) not in told


@pytest.mark.parametrize("as_adapter", [False, True])
def test_the_snippet_runs_and_prompts_as_the_model_was_trained(
    filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_adapter: bool
) -> None:
    folder = tmp_path / "model"
    assert command(filled, monkeypatch, "parallel", str(folder), *(["--adapter"] if as_adapter else [])) == 0
    (snippet,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    places = snippet.replace('"model"', repr(str(folder)))
    places = places.replace('"someone/tiny", revision="0123abcd"', repr(str(filled.find(BASE).path)))  # type: ignore[union-attr]
    prompts: list[str] = []
    known: dict[str, Any] = {}
    exec(places.partition("\n\nprint(")[0], known)
    tokenizer = known["tokenizer"]

    def noting(text: str, **how: Any) -> Any:
        prompts.append(text)
        return tokenizer(text, **how)

    known["tokenizer"] = noting
    known["tokenizer"].bos_token_id, known["tokenizer"].decode = tokenizer.bos_token_id, tokenizer.decode
    assert isinstance(known["translate"]("Das Haus.", "German", "English"), str)
    languages = {"de": Language(name="German"), "en": Language(name="English")}
    assert prompts == [Prompter(tokenizer, "alma", languages).text("de-en", "Das Haus.")]
    assert 'print(translate("Das Haus ist klein.", "German", "English"))' in snippet


@pytest.mark.parametrize("harm", [flip, Path.unlink, lambda file: file.write_bytes(b"")])
@pytest.mark.parametrize(("words", "file"), [((), "model.safetensors"), (("--adapter",), "adapter_model.safetensors")])
def test_damaged_weights_are_not_exported(
    filled: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    file: str,
    harm: Callable[[Path], object],
) -> None:
    store = Store(tmp_path / "store")
    shutil.copytree(filled.root, store.root)
    (weights,) = store.root.glob(f"artifacts/*/{file}")
    harm(weights)
    assert command(store, monkeypatch, "parallel", str(tmp_path / "new"), *words) == 2
    told = capsys.readouterr().err
    assert str(weights) in told or "which is missing" in told
    assert "--force" in told and not (tmp_path / "new").exists()


def test_a_store_that_is_only_read_needs_no_room_for_an_export(
    filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(filled.root.rglob("*"))
    assert command(filled, monkeypatch, "parallel", str(tmp_path / "new" / "model")) == 0
    assert sorted(filled.root.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["parallel"], "arguments are required: FOLDER; usage: alma-pipeline export"),
        (["parallel.score", "{new}"], "is of kind score, which has no model"),
        (["parallel", "{full}"], "exists and is not an empty folder; export overwrites nothing"),
        (["base", "/proc/new"], "/proc cannot be written"),
        (["base", "{new}", "--adapter"], "is a full model; remove --adapter"),
        (["parallel", "{new}", "--push", "tiny"], "expected OWNER/NAME"),
        (["parallel", "{new}", "--push", "me/tiny"], "needs a token with write access, found none; set HF_TOKEN"),
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
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))  # read from the environment once, at import
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    assert command(filled, monkeypatch, *(word.format(new=tmp_path / "new", full=full) for word in words)) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "mine.txt"], "nothing is made, nothing is overwritten"


def test_a_folder_that_cannot_be_made_is_refused_before_the_merge(
    filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start_nothing(monkeypatch)
    (tmp_path / "file").write_text("kept")
    assert command(filled, monkeypatch, "parallel", str(tmp_path / "file" / "model")) == 2
    assert "file cannot be written: Not a directory; export to another folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.usefixtures("here")
def test_a_store_that_is_read_only_is_exported_from(filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The merge works beside the new folder, where there must be room for it."""
    store = Store(tmp_path / "store")
    store.root.mkdir()
    (store.root / "artifacts").symlink_to(filled.root / "artifacts")
    (store.root / "aside").write_text("no folder")  # root may write into every folder
    assert command(store, monkeypatch, "parallel", str(tmp_path / "model")) == 0
    assert (tmp_path / "model" / "model.safetensors").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"store", "model"}

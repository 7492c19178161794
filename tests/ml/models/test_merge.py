"""Merged weights say what base and adapter say, and the difference is measured (B15)."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from alma_pipeline.errors import PipelineError, UserError
from alma_pipeline.job import Input, Job
from alma_pipeline.ml.models import merge
from alma_pipeline.ml.models.merge import PROBE, load_merged, merge_and_compare
from alma_pipeline.schema import Hardware
from helpers.tiny_adapter import make_adapter
from helpers.tiny_checkpoint import make_checkpoint
from helpers.tiny_model import make_base
from stages.merge.config import Config
from stages.merge.run import run


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Input:
    torch.set_num_threads(1)
    return make_checkpoint(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapted(base: Input, tmp_path_factory: pytest.TempPathFactory) -> Input:
    return make_adapter(base, tmp_path_factory.mktemp("adapter"), seed=1, rank=4)


def test_the_merged_folder_says_what_base_and_adapter_say(tmp_path: Path, base: Input, adapted: Input) -> None:
    """By PEFT's own loading on one side and a plain folder on the other."""
    job = Job("merge", "0" * 64, str(tmp_path / "work"), Config(), Hardware(name="test"), {"checkpoint": adapted})
    job.out.mkdir(parents=True)
    result = run(job)
    ids = AutoTokenizer.from_pretrained(job.out)(PROBE[0], return_tensors="pt")["input_ids"]
    plain = AutoModelForCausalLM.from_pretrained(base.path)
    with torch.no_grad():
        bare = plain(input_ids=ids).logits
        expected = PeftModel.from_pretrained(plain, adapted.path)(input_ids=ids).logits
        found = AutoModelForCausalLM.from_pretrained(job.out)(input_ids=ids).logits
    stored = result["merge"]
    assert float((found - expected).abs().max()) <= stored["tolerance"]
    assert float((expected - bare).abs().max()) > 100 * stored["tolerance"], "the adapter must matter"
    assert 0 < stored["difference"] <= stored["tolerance"] and stored["cast_difference"] == 0 and stored["adapters"] == 1
    assert {path.name for path in job.out.glob("model*")} == {"model.safetensors"}


def test_the_cast_is_measured_apart(adapted: Input) -> None:
    model, measured = merge_and_compare(adapted, "bf16", AutoTokenizer.from_pretrained(adapted.path))
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert measured["cast_difference"] > measured["tolerance"] > measured["difference"]


def test_a_difference_above_the_tolerance_is_refused(adapted: Input, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tolerance that rounding alone exceeds."""
    monkeypatch.setattr(merge, "TOLERANCE", 1e-12)
    with pytest.raises(PipelineError, match="merged model differs from base and adapter"):
        merge_and_compare(adapted, "fp32", AutoTokenizer.from_pretrained(adapted.path))


def test_an_adapter_of_another_base_is_refused(adapted: Input) -> None:
    """B16."""
    with pytest.raises(UserError, match="trained on another base"):
        merge_and_compare(replace(adapted, base_key="d" * 64), "fp32", AutoTokenizer.from_pretrained(adapted.path))


def test_a_broken_adapter_is_not_merged(tmp_path: Path, base: Input) -> None:
    broken = make_adapter(base, tmp_path / "broken", seed=3, rank=2)
    file = Path(broken.path) / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({name: tensor / 0 for name, tensor in tensors.items()}, file, {"format": "pt"})
    with pytest.raises((PipelineError, ValueError), match=r"NaN|differs"):
        merge_and_compare(broken, "fp32", AutoTokenizer.from_pretrained(broken.path))


def test_a_full_model_has_nothing_to_merge(base: Input) -> None:
    _, measured = merge_and_compare(base, "fp32", AutoTokenizer.from_pretrained(base.path))
    assert measured == {"difference": 0.0, "tolerance": 0.0, "cast_difference": 0.0}


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Input:
    return make_base(tmp_path_factory.mktemp("tied"), tied=True)


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_a_lora_on_one_end_of_tied_weights_is_never_merged(tmp_path: Path, tied: Input, target: str) -> None:
    """PEFT merges it into both ends with no more than a warning: the logits differ by more than 1."""
    lora = make_adapter(tied, tmp_path / "lora", seed=1, rank=2, targets=["q_proj", target])
    wrapped = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tied.path), lora.path)
    ids = torch.arange(3, 23)[None]
    with torch.no_grad():
        before = wrapped(input_ids=ids).logits
        assert float((wrapped.merge_and_unload()(input_ids=ids).logits - before).abs().max()) > 1
    for use in (
        lambda: load_merged(lora, lora.adapters, "fp32"),
        lambda: merge_and_compare(lora, "fp32", AutoTokenizer.from_pretrained(tied.path)),
    ):
        with pytest.raises(UserError, match=f"changes {target}, but this model's output head is its input embeddings"):
            use()


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_a_lora_on_one_end_of_separate_weights_is_merged(tmp_path: Path, base: Input, target: str) -> None:
    lora = make_adapter(base, tmp_path / "lora", seed=1, rank=2, targets=["q_proj", target])
    ids = torch.arange(3, 23)[None]
    with torch.no_grad():
        expected = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.path), lora.path)(input_ids=ids).logits
        found = load_merged(lora, lora.adapters, "fp32")(input_ids=ids).logits
    assert float((found - expected).abs().max()) < 1e-5 * float(expected.abs().max())


def test_every_merge_is_compared_before_its_model_is_used(adapted: Input, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training, decoding and vLLM load merged models through this one function."""
    monkeypatch.setattr(merge, "TOLERANCE", 1e-12)
    with pytest.raises(PipelineError, match=r"merged model differs from base and adapter.*nothing uses the merged model"):
        load_merged(adapted, adapted.adapters, "bf16")

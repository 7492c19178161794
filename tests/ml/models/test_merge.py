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
from alma_pipeline.ml.models.merge import PROBE, merge_and_compare
from alma_pipeline.schema import Hardware
from helpers.tiny_adapter import make_adapter
from helpers.tiny_checkpoint import make_checkpoint
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

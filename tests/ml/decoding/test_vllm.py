"""What vLLM is asked, and what becomes of its answer. A stand-in answers: the package needs a GPU."""

import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from alma_pipeline.ml.decoding import decode, vllm
from alma_pipeline.ml.decoding.search import DecodeLimits, Sampling
from alma_pipeline.ml.decoding.vllm import Vllm
from alma_pipeline.schema import Hardware
from helpers.tiny_checkpoint import make_checkpoint

END = 9
LIMITS = DecodeLimits(max_new_tokens=4, decode_tokens=1, eos=END, pad=0)
PROMPTS = [[1, 2, 3], [4], [5, 6]]


class Engine:
    """Repeats a prompt's last token, ends, and goes on; of several outputs each begins with its number."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def generate(self, prompts: list[dict[str, list[int]]], parameters: list[SimpleNamespace]) -> list[SimpleNamespace]:
        self.asked = parameters
        return [
            SimpleNamespace(outputs=[SimpleNamespace(token_ids=(number, prompt["prompt_token_ids"][-1], END, 7)) for number in
                                     range(getattr(own, "n", 1))])
            for prompt, own in zip(prompts, parameters, strict=True)
        ]  # fmt: skip

    def beam_search(self, prompts: list[dict[str, list[int]]], parameters: SimpleNamespace) -> list[SimpleNamespace]:
        self.asked = [parameters]
        return [
            SimpleNamespace(sequences=[SimpleNamespace(tokens=[*prompt["prompt_token_ids"], 8, END])] * 2) for prompt in prompts
        ]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Vllm:
    package, parameters = ModuleType("vllm"), ModuleType("vllm.sampling_params")
    package.SamplingParams = parameters.BeamSearchParams = SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", package)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", parameters)
    return Vllm(Engine())


@pytest.mark.parametrize(("beams", "logprobs"), [(5, 20), (12, 24)])
def test_a_checkpoint_is_cut_up_over_the_devices_for_texts_no_longer_than_they_get(
    tmp_path: Path, model: Vllm, monkeypatch: pytest.MonkeyPatch, beams: int, logprobs: int
) -> None:
    checkpoint = make_checkpoint(tmp_path / "base")
    monkeypatch.setattr(sys.modules["vllm"], "LLM", SimpleNamespace, raising=False)
    monkeypatch.delenv("VLLM_WORKER_MULTIPROC_METHOD", raising=False)
    eight = Hardware(name="test", device="cuda", devices=8, launcher="torchrun")
    found, tokenizer = vllm.load(checkpoint, eight, "bf16", longest=512, num_beams=beams)
    assert vars(found.engine) == {
        "model": checkpoint.base,
        "tokenizer": checkpoint.path,
        "dtype": "bfloat16",
        "generation_config": "vllm",
        "trust_remote_code": False,
        "tensor_parallel_size": 8,
        "max_model_len": 512,
        "max_logprobs": logprobs,
    }
    assert tokenizer.eos_token == "</s>"
    assert os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"


def test_greedy(model: Vllm) -> None:
    assert decode.beam_search(model, PROMPTS, 1, LIMITS) == [[0, 3], [0, 4], [0, 6]]
    assert {(own.temperature, own.max_tokens, *own.stop_token_ids) for own in model.engine.asked} == {(0.0, 4, END)}


def test_beams(model: Vllm) -> None:
    """The best of each search, without its prompt and its end."""
    assert decode.beam_search(model, PROMPTS, 5, LIMITS) == [[8], [8], [8]]
    assert [(own.beam_width, own.max_tokens) for own in model.engine.asked] == [(5, 4)]


def test_every_end_token_ends_an_output(model: Vllm) -> None:
    """vLLM's beam search knows one of them, so its hypotheses are cut at the others."""
    several = Vllm(model.engine, ends=(END, 8, 6))
    assert decode.beam_search(several, PROMPTS, 1, LIMITS) == [[0, 3], [0, 4], [0]]
    assert {tuple(own.stop_token_ids) for own in model.engine.asked} == {(END, 8, 6)}
    assert decode.beam_search(several, PROMPTS, 5, LIMITS) == [[], [], []]


def test_samples_have_seeds_of_their_own(model: Vllm) -> None:
    seeds = set()
    for seed in range(50):
        found = decode.sample(model, PROMPTS, Sampling(width=2, temperature=0.7, top_p=0.9, seed=seed), LIMITS)
        assert found == [[[0, 3], [1, 3]], [[0, 4], [1, 4]], [[0, 6], [1, 6]]]
        assert {(own.n, own.temperature, own.top_p) for own in model.engine.asked} == {(2, 0.7, 0.9)}
        seeds |= {own.seed + number for own in model.engine.asked for number in range(own.n)}
    assert len(seeds) == 50 * len(PROMPTS) * 2, "no two draws of any seeds and sentences share one"
    assert max(seeds) < 2**63


def test_prompts_go_in_portions_and_keep_their_seeds(model: Vllm, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that goes on asks for what is left, each prompt with the seed of its own place."""
    settings = Sampling(width=1, temperature=1.0, top_p=1.0, seed=3)
    decode.sample(model, PROMPTS, settings, LIMITS)
    seeds = [own.seed for own in model.engine.asked]
    monkeypatch.setattr(vllm, "BATCH", 2)
    heard: list[tuple[list[int], list[int]]] = []
    left = dict(enumerate(PROMPTS))
    vllm.decode(model, left, settings, LIMITS, lambda found: heard.append((list(found), _seeds(model))))
    assert heard == [([0, 1], seeds[:2]), ([2], seeds[2:])]
    heard.clear()
    vllm.decode(model, {2: PROMPTS[2]}, settings, LIMITS, lambda found: heard.append((list(found), _seeds(model))))
    assert heard == [([2], seeds[2:])]


def _seeds(model: Vllm) -> list[int]:
    return [own.seed for own in model.engine.asked]

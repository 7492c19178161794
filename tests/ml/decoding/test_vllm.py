"""vLLM's side of decoding: what its workers are asked, and what becomes of their answers. A stand-in package answers.

The real one is in `test_vllm_engine.py`.
"""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from alma_pipeline.errors import PipelineError, UserError
from alma_pipeline.job import Input
from alma_pipeline.ml.decoding import decode, vllm
from alma_pipeline.ml.decoding.search import DecodeLimits, Sampling
from alma_pipeline.ml.decoding.vllm import Vllm
from alma_pipeline.schema import Hardware
from helpers.processes import lives, wait_for
from helpers.stub_vllm import END, asked, stub_vllm
from helpers.tiny_adapter import make_adapter
from helpers.tiny_checkpoint import make_checkpoint

LIMITS = DecodeLimits(max_new_tokens=4, decode_tokens=1, eos=END, pad=0)
PROMPTS = [[1, 2, 3], [4], [5, 6]]


class Process:
    """In the place of a worker: an output is its own number, the prompt's last token, the end, and one token more."""

    task = "decoding"

    def __init__(self) -> None:
        self.orders: list[dict[str, Any]] = []
        self.closed = False

    def send(self, rows: list[dict[str, Any]]) -> None:
        self.orders += rows

    def receive(self) -> dict[str, Any]:
        order = self.orders[-1]
        if "beams" in order:
            return {"outputs": [[[*prompt, 8, END]] * 2 for prompt in order["prompts"]]}
        both = zip(order["prompts"], order["samplings"], strict=True)
        return {"outputs": [[[n, prompt[-1], END, 7] for n in range(own.get("n", 1))] for prompt, own in both]}

    def end_input(self) -> None: ...

    def close(self, patience: float) -> None:
        self.closed = True

    @property
    def samplings(self) -> list[dict[str, Any]]:
        return [own for order in self.orders for own in order["samplings"]]


@pytest.fixture
def process() -> Process:
    return Process()


@pytest.fixture
def model(process: Process) -> Vllm:
    return Vllm([process])  # type: ignore[list-item]


def test_greedy(model: Vllm, process: Process) -> None:
    assert decode.beam_search(model, PROMPTS, 1, LIMITS) == [[0, 3], [0, 4], [0, 6]]
    assert process.samplings == [{"temperature": 0.0, "max_tokens": 4, "stop_token_ids": [END], "detokenize": False}] * 3


def test_beams(model: Vllm, process: Process) -> None:
    """The best of each search, without its prompt and its end."""
    assert decode.beam_search(model, PROMPTS, 5, LIMITS) == [[8], [8], [8]]
    assert [order["beams"] for order in process.orders] == [{"beam_width": 5, "max_tokens": 4, "length_penalty": 1.0}]


def test_every_end_token_ends_an_output(process: Process) -> None:
    """vLLM's beam search knows one of them, so its hypotheses are cut at the others."""
    several = Vllm([process], ends=(END, 8, 6))  # type: ignore[list-item]
    assert decode.beam_search(several, PROMPTS, 1, LIMITS) == [[0, 3], [0, 4], [0]]
    assert {tuple(own["stop_token_ids"]) for own in process.samplings} == {(END, 8, 6)}
    assert decode.beam_search(several, PROMPTS, 5, LIMITS) == [[], [], []]


def test_samples_have_seeds_of_their_own(model: Vllm, process: Process) -> None:
    for seed in range(50):
        found = decode.sample(model, PROMPTS, Sampling(width=2, temperature=0.7, top_p=0.9, seed=seed), LIMITS)
        assert found == [[[0, 3], [1, 3]], [[0, 4], [1, 4]], [[0, 6], [1, 6]]]
    assert {(own["n"], own["temperature"], own["top_p"]) for own in process.samplings} == {(2, 0.7, 0.9)}
    seeds = {own["seed"] + number for own in process.samplings for number in range(own["n"])}
    assert len(seeds) == 50 * len(PROMPTS) * 2, "no two draws of any seeds and sentences share one"
    assert max(seeds) < 2**63


def test_prompts_go_in_portions_and_keep_their_seeds(model: Vllm, process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that goes on asks for what is left, each prompt with the seed of its own place."""
    settings = Sampling(width=1, temperature=1.0, top_p=1.0, seed=3)
    decode.sample(model, PROMPTS, settings, LIMITS)
    by_length = dict(zip([0, 2, 1], [own["seed"] for own in process.samplings], strict=True))
    monkeypatch.setattr(vllm, "BATCH", 2)
    for left in ({0: PROMPTS[0], 1: PROMPTS[1], 2: PROMPTS[2]}, {2: PROMPTS[2]}):
        process.orders.clear()
        heard: list[list[int]] = []
        vllm.decode(model, left, settings, LIMITS, lambda found: heard.append(list(found)))  # noqa: B023 - called at once
        assert heard == ([[0, 2], [1]] if len(left) == 3 else [[2]])
        assert [own["seed"] for own in process.samplings] == [by_length[index] for portion in heard for index in portion]


def test_an_error_while_decoding_ends_the_processes(model: Vllm, process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Process, "receive", lambda self: {"error": "CUDA error"})
    monkeypatch.setattr(Process, "log_tail", lambda self: "\nlast line", raising=False)
    with pytest.raises(PipelineError, match="vLLM failed while decoding: CUDA error; the end of its log:\nlast line"):
        decode.greedy(model, PROMPTS, LIMITS)
    assert process.closed


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Input:
    return make_checkpoint(tmp_path_factory.mktemp("base"))


def machine(python: str, devices: int = 1, memory_gb: float = 80) -> Hardware:
    launcher = "torchrun" if devices > 1 else "local"
    return Hardware(
        name="test", device="cuda", devices=devices, launcher=launcher, memory_gb=memory_gb, threads=1, vllm_python=python
    )


def load(checkpoint: Input, hardware: Hardware, work: Path, num_beams: int = 1) -> Vllm:
    return vllm.load(checkpoint, hardware, "bf16", longest=512, num_beams=num_beams, work=work)[0]


def test_each_device_gets_a_copy_and_its_share_of_the_prompts(tmp_path: Path, checkpoint: Input) -> None:
    model = load(checkpoint, machine(stub_vllm(tmp_path), devices=2), tmp_path / "merged")
    found = decode.beam_search(model, [*PROMPTS, [1, 2]], 1, LIMITS)
    model.close()
    assert found == [[0, 3], [0, 4], [0, 6], [0, 2]]
    loads, shares = asked(tmp_path)[:2], asked(tmp_path)[2:]
    assert {each["device"] for each in loads} == {"0", "1"} and {each["network"] for each in loads} == {"1"}
    assert all(
        each["model"]
        == {
            "model": checkpoint.base,
            "dtype": "bfloat16",
            "generation_config": "vllm",
            "trust_remote_code": False,
            "enforce_eager": False,
            "max_model_len": 512,
            "skip_tokenizer_init": True,
            "tensor_parallel_size": 1,
        }
        for each in loads
    )
    assert {each["device"]: each["prompts"] for each in shares} == {"0": [[1, 2, 3], [1, 2]], "1": [[5, 6], [4]]}
    wait_for(lambda: not any(lives(each["child"]) for each in loads), 5)


def test_a_model_too_large_for_a_device_is_shared_by_as_few_as_hold_it(tmp_path: Path, checkpoint: Input) -> None:
    """The tiny model has 30,000 parameters, which take 60 kB."""
    model = load(checkpoint, machine(stub_vllm(tmp_path), devices=4, memory_gb=6e-5), tmp_path / "merged", num_beams=12)
    model.close()
    assert sorted(each["device"] for each in asked(tmp_path)) == ["0,1", "2,3"]
    options = asked(tmp_path)[0]["model"]
    assert (options["tensor_parallel_size"], options["tokenizer"], options["max_logprobs"]) == (2, checkpoint.path, 24)
    assert "tensor_parallel:2" in model.signature


def test_an_adapter_is_served_unmerged_and_a_second_one_makes_a_merged_model_that_is_removed(
    tmp_path: Path, checkpoint: Input
) -> None:
    one = make_adapter(checkpoint, tmp_path / "one", 1, rank=4)
    model = load(one, machine(stub_vllm(tmp_path / "a")), tmp_path / "merged")
    decode.greedy(model, PROMPTS, LIMITS)
    model.close()
    first, then = asked(tmp_path / "a")
    assert (first["model"]["model"], first["model"]["enable_lora"], first["model"]["max_lora_rank"]) == (one.base, True, 8)
    assert then["adapter"] == one.adapters[0] and "adapter:unmerged" in model.signature
    odd = make_adapter(checkpoint, tmp_path / "odd", 2, rank=4, modules_to_save=["lm_head"])
    model = load(odd, machine(stub_vllm(tmp_path / "b")), tmp_path / "merged")
    model.close()
    [first] = asked(tmp_path / "b")
    assert first["model"]["model"] == str(tmp_path / "merged") and "model.safetensors" in first["files"]
    assert "enable_lora" not in first["model"] and "adapter:merged" in model.signature
    assert not (tmp_path / "merged").exists()


def test_a_copy_that_fails_ends_the_others_and_the_error_has_the_end_of_its_log(tmp_path: Path, checkpoint: Input) -> None:
    python = stub_vllm(tmp_path, fails="1")
    with pytest.raises(
        PipelineError, match=r"(?s)vLLM failed while decoding with .*: No available memory.*log:.*loading /.*Error"
    ):
        load(checkpoint, machine(python, devices=2), tmp_path / "merged")
    wait_for(lambda: not any(lives(each["child"]) for each in asked(tmp_path)), 5)


def test_without_its_environment_the_error_says_what_to_do(tmp_path: Path, checkpoint: Input) -> None:
    with pytest.raises(
        UserError, match=r"expected at /no/python but does not exist. Run `make vllm`, or set decoding.vllm.python"
    ):
        load(checkpoint, machine("/no/python"), tmp_path / "merged")


def test_a_node_that_is_killed_takes_all_of_vllm_with_it(tmp_path: Path, checkpoint: Input) -> None:
    """SIGKILL to the node's process alone, while both copies compute: they notice that their input has ended."""
    node = os.fork()
    if not node:
        try:
            decode.greedy(load(checkpoint, machine(stub_vllm(tmp_path, hangs=True), devices=2), tmp_path / "m"), PROMPTS, LIMITS)
        finally:
            os._exit(1)
    wait_for(lambda: (tmp_path / "asked.jsonl").exists() and len(asked(tmp_path)) == 4)
    children = [each["child"] for each in asked(tmp_path)[:2]]
    assert all(map(lives, children))
    os.kill(node, signal.SIGKILL)
    os.waitpid(node, 0)
    wait_for(lambda: not any(map(lives, children)), 30)

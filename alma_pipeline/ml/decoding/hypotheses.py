"""Translate sentences as a job's settings specify: by beam search or the best of samples, zero-shot or few-shot.

Used by every kind that translates. Where sentences come from and where hypotheses go is up to the kind.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alma_pipeline.errors import UserError
from alma_pipeline.job import Input, Job
from alma_pipeline.ml import distributed
from alma_pipeline.ml.data.prompts import Prompter
from alma_pipeline.ml.decoding import decode, vllm
from alma_pipeline.ml.decoding.decode import OnRows, PartialOutputs
from alma_pipeline.ml.decoding.reranking import Reranker
from alma_pipeline.ml.decoding.search import DecodeLimits, Sampling
from alma_pipeline.ml.decoding.token_budget import token_budget as token_budget_of
from alma_pipeline.ml.decoding.vllm import Vllm
from alma_pipeline.ml.device_memory import free_device_memory
from alma_pipeline.ml.distributed import World
from alma_pipeline.ml.models.open import load_for_inference
from alma_pipeline.schema import Translating

LoadedModel = tuple[PreTrainedModel | Vllm, PreTrainedTokenizerBase, OnRows | None]
"""A model, its tokenizer, and a callback for the prompt index of each row of a batch (None if not needed)."""


@dataclass(frozen=True)
class Hypothesis:
    """The translation of one sentence."""

    text: str
    tokens: int
    """Length of the output, EOS excluded."""
    truncated: bool
    """Whether it was cut off at `max_new_tokens`."""


@dataclass(frozen=True)
class Hypotheses:
    """The translations of all sentences, in their order."""

    found: list[Hypothesis]
    seconds: float
    """Seconds of decoding and choosing, without loading the model."""
    cut: set[int]
    """Rows whose source was truncated to `max_source`."""
    signatures: dict[str, str]
    """Of the scorers that chose among samples, by name."""
    lowered: dict[str, int] = field(default_factory=dict)
    """`decode_tokens`: the smallest token budget that a device came down to, if its memory did not suffice for the first."""
    engine: str = ""
    """Signature of the engine that decoded; empty for our own."""

    @property
    def at_limit(self) -> int:
        """Number of outputs cut off at `max_new_tokens`."""
        return sum(hypothesis.truncated for hypothesis in self.found)


def init_process_group(job: Job) -> World:
    """Initialise the process group; with vLLM as one process, which leaves the devices to the processes that vLLM starts."""
    alone = dataclasses.replace(job.hardware, device="cpu", devices=1, nodes=1)
    return distributed.init_process_group(job.hardware if job.config.distributed else alone)


def load(job: Job, checkpoint: Input, longest: int, num_beams: int) -> tuple[PreTrainedModel | Vllm, PreTrainedTokenizerBase]:
    """The checkpoint with its adapters, in the configured engine and quantization, and its tokenizer.

    `longest` is the largest number of tokens of a prompt and its output together. Raises UserError if vLLM is not available.
    """
    if job.config.engine == "native":
        return load_for_inference(checkpoint, job.hardware, job.config.precision, Path(job.work), job.config.quantization)
    return vllm.load(checkpoint, job.hardware, job.config.precision, longest, num_beams, Path(job.work) / "vllm")


def end(model: PreTrainedModel | Vllm) -> str:
    """End the processes of an engine that has some; its signature, empty for our own."""
    if not isinstance(model, Vllm):
        return ""
    model.close()
    return model.signature


def load_single_checkpoint(job: Job, checkpoint: Input) -> LoadedModel:
    """Load one checkpoint for all sentences, with the configured engine. Raises UserError if vLLM is not available."""
    config: Translating = job.config
    return *load(job, checkpoint, config.max_source + config.max_new_tokens, config.num_beams), None


def translate_rows(job: Job, rows: Sequence[tuple[str, str]], load: Callable[[], LoadedModel]) -> Hypotheses | None:
    """One hypothesis for each (direction, source) of `rows`; None except on rank 0, which alone chooses among samples.

    Few-shot examples come from the input `examples`. `load` is called once, and the model is freed before scorers need its
    device. Raises UserError if a direction has too few examples, or if a prompt or scorer is not available.
    """
    config: Translating = job.config
    # Fail on a missing scorer before hours of decoding.
    reranker = Reranker(job)
    if job.rank == 0:
        reranker.check()
    # Prompts are built once for all rows; their order is that of the outputs.
    shots = _few_shot_pairs(job, {direction for direction, _ in rows})
    model, tokenizer, on_rows = load()
    prompts, cut = Prompter(tokenizer, config.prompt, config.languages, shots).within(rows, config.max_source)
    limits = decode.limits(tokenizer, config.max_new_tokens, token_budget(job, model, prompts, config.width))
    lowered: dict[str, int] = {}
    started = time.perf_counter()
    outputs = _outputs(job, model, prompts, limits, on_rows, lowered)
    # Free the device: the scorers run in processes of their own.
    engine = end(model)
    del model
    free_device_memory()
    if job.rank != 0:
        return None
    # Only rank 0 chooses, so that scorers run once.
    drawn = [[_hypothesis(tokenizer, ids, config) for ids in each] for each in outputs]
    found = _chosen(reranker, config, [source for _, source in rows], drawn)
    return Hypotheses(found, time.perf_counter() - started, cut, reranker.signatures, lowered, engine)


def token_budget(job: Job, model: PreTrainedModel | Vllm, prompts: list[list[int]], width: int) -> int:
    """Tokens that a decoding batch of these prompts may hold, `width` hypotheses each. vLLM has no use for it."""
    if isinstance(model, Vllm) or not prompts:
        return 1
    return token_budget_of(job.hardware, model, width, min(map(len, prompts)))


def _few_shot_pairs(job: Job, directions: set[str]) -> dict[str, list[tuple[str, str]]]:
    """The first training pairs of each direction, for all its prompts. Raises UserError if a direction has too few."""
    count: int = job.config.num_shots
    found: dict[str, list[tuple[str, str]]] = {direction: [] for direction in directions if count}
    if not count:
        return found
    # Stop reading as soon as every direction has enough: the file may be large.
    with open(Path(job.inputs["examples"].path) / "train.jsonl", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            if len(found.get(row["direction"], range(count))) < count:
                found[row["direction"]].append((row["source"], row["target"]))
                if all(len(own) == count for own in found.values()):
                    return found
    few = ", ".join(f"{len(own)} in {direction}" for direction, own in found.items() if len(own) < count)
    raise UserError(f"num_shots={count}, but there are fewer training pairs to show: {few}; lower stages.translate.num_shots")


def _outputs(
    job: Job,
    model: PreTrainedModel | Vllm,
    prompts: list[list[int]],
    limits: DecodeLimits,
    on_rows: OnRows | None,
    lowered: dict[str, int],
) -> list[list[list[int]]]:
    """Token ids of the outputs of each prompt: the best of a beam search, or all samples. Resumes from outputs kept earlier.

    A token budget that had to be lowered is noted in `lowered`.
    """
    config: Translating = job.config
    note = partial(lowered.__setitem__, "decode_tokens")
    progress, kept = decode.log_progress(job), PartialOutputs(job, "outputs")
    if config.decoding == "beam":
        best = decode.beam_search(model, prompts, config.num_beams, limits, progress, on_rows, kept, note)
        return [[ids] for ids in best]
    sampling = Sampling(width=config.candidates, temperature=config.temperature, top_p=config.top_p, seed=config.seed)
    return decode.sample(model, prompts, sampling, limits, progress, on_rows, kept, note)


def _hypothesis(tokenizer: PreTrainedTokenizerBase, output: list[int], config: Translating) -> Hypothesis:
    """The output as text. After examples a model continues with more of them, so only the first line counts."""
    text, *more = decode.text(tokenizer, output).split("\n") if config.num_shots else [decode.text(tokenizer, output)]
    return Hypothesis(text.strip(), len(output), not more and len(output) == config.max_new_tokens)


def _chosen(reranker: Reranker, config: Translating, sources: list[str], drawn: list[list[Hypothesis]]) -> list[Hypothesis]:
    """For each sentence, the sample with the least expected risk or the highest quality."""
    if config.decoding == "beam":
        return [hypothesis for [hypothesis] in drawn]
    choose = reranker.by_quality if config.decoding == "quality" else reranker.by_mbr
    places = choose(sources, [[hypothesis.text for hypothesis in each] for each in drawn])
    return [each[place] for each, place in zip(drawn, places, strict=True)]

"""A checkpoint's hypotheses as the settings ask: of a beam search or the best of samples, zero-shot or after examples.

For whatever kind translates (`schema.Translating`). Where sentences come from and where hypotheses go is the kind's business.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alma_pipeline.errors import UserError
from alma_pipeline.job import Input, Job
from alma_pipeline.ml import distributed
from alma_pipeline.ml.data.prompts import Prompter
from alma_pipeline.ml.decoding import decode, vllm
from alma_pipeline.ml.decoding.decode import Announce, KeptOutputs
from alma_pipeline.ml.decoding.reranking import Judges
from alma_pipeline.ml.decoding.search import Limits, Sampling
from alma_pipeline.ml.decoding.vllm import Vllm
from alma_pipeline.ml.distributed import World
from alma_pipeline.ml.models.load import load_for_inference, release
from alma_pipeline.schema import Translating

Loaded = tuple[PreTrainedModel | Vllm, PreTrainedTokenizerBase, Announce | None]
"""A model, its tokenizer, and who hears which prompt each row of a batch belongs to."""


@dataclass(frozen=True)
class Hypothesis:
    """Of one sentence."""

    text: str
    tokens: int
    truncated: bool
    """The limit of new tokens ended it."""


@dataclass(frozen=True)
class Hypotheses:
    """Of all sentences, in their order."""

    found: list[Hypothesis]
    seconds: float
    """Of decoding and choosing, the model being loaded."""
    cut: int
    """Sources that were shortened to `max_source`."""
    signatures: dict[str, str]
    """Of the scorers that chose, by name."""

    @property
    def at_limit(self) -> int:
        """How many were ended by max_new_tokens."""
        return sum(hypothesis.truncated for hypothesis in self.found)


def one_checkpoint(job: Job, checkpoint: Input) -> Loaded:
    """The checkpoint with its adapters merged, in what the settings decode with. Raises UserError where vLLM cannot be had."""
    config: Translating = job.config
    return *load(job, checkpoint, config.max_source + config.max_new_tokens, config.beams), None


def translated(job: Job, rows: Sequence[tuple[str, str]], load: Callable[[], Loaded]) -> Hypotheses | None:
    """A hypothesis for each (direction, source); None but in the first process, which alone chooses among samples.

    Examples to show are the input `examples`. `load` is called once, and the model let go before scorers want its device.
    Raises UserError where a direction has too few examples, or a prompt or scorer cannot be had.
    """
    config: Translating = job.config
    judges = Judges(job)
    if job.rank == 0:
        judges.check()
    shots = _shots(job, {direction for direction, _ in rows})
    model, tokenizer, announce = load()
    prompts, cut = Prompter(tokenizer, config.prompt, config.languages, shots).within(rows, config.max_source)
    limits = decode.limits(tokenizer, config.max_new_tokens, job.hardware.decode_tokens)
    started = time.perf_counter()
    outputs = _outputs(job, model, prompts, limits, announce)
    del model
    release()
    if job.rank != 0:
        return None
    drawn = [[_hypothesis(tokenizer, ids, config) for ids in each] for each in outputs]
    found = _chosen(judges, config, [source for _, source in rows], drawn)
    return Hypotheses(found, time.perf_counter() - started, cut, judges.signatures)


def _shots(job: Job, wanted: set[str]) -> dict[str, list[tuple[str, str]]]:
    """The first training pairs of each wanted direction, for every prompt. Raises UserError where a direction has too few."""
    count: int = job.config.shots
    found: dict[str, list[tuple[str, str]]] = {direction: [] for direction in wanted if count}
    if not count:
        return found
    with open(Path(job.inputs["examples"].path) / "train.jsonl", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            if len(found.get(row["direction"], range(count))) < count:
                found[row["direction"]].append((row["source"], row["target"]))
                if all(len(own) == count for own in found.values()):
                    return found
    few = ", ".join(f"{len(own)} in {direction}" for direction, own in found.items() if len(own) < count)
    raise UserError(f"shots={count}, and the training pairs to show are fewer: {few}; lower stages.translate.shots")


def _outputs(
    job: Job, model: PreTrainedModel | Vllm, prompts: list[list[int]], limits: Limits, announce: Announce | None
) -> list[list[list[int]]]:
    """Token ids for each prompt: of a beam search the best, else the samples. A run that goes on has those it kept."""
    config: Translating = job.config
    progress, kept = decode.logged(job), KeptOutputs(job, "outputs")
    if config.decoding == "beam":
        best = decode.beam_search(model, prompts, config.beams, limits, progress, announce, kept)
        return [[ids] for ids in best]
    sampling = Sampling(width=config.candidates, temperature=config.temperature, top_p=config.top_p, seed=config.seed)
    return decode.sample(model, prompts, sampling, limits, progress, announce, kept)


def _hypothesis(tokenizer: PreTrainedTokenizerBase, output: list[int], config: Translating) -> Hypothesis:
    """After examples a model goes on with more: the first line counts."""
    text, *more = decode.text(tokenizer, output).split("\n") if config.shots else [decode.text(tokenizer, output)]
    return Hypothesis(text.strip(), len(output), not more and len(output) == config.max_new_tokens)


def _chosen(judges: Judges, config: Translating, sources: list[str], drawn: list[list[Hypothesis]]) -> list[Hypothesis]:
    """Of each sentence's samples, the one of the least expected risk or of the highest quality."""
    if config.decoding == "beam":
        return [hypothesis for [hypothesis] in drawn]
    choose = judges.by_quality if config.decoding == "quality" else judges.by_risk
    places = choose(sources, [[hypothesis.text for hypothesis in each] for each in drawn])
    return [each[place] for each, place in zip(drawn, places, strict=True)]


def join(job: Job) -> World:
    """As `distributed.join`; vLLM's one process leaves the devices to those that it starts."""
    alone = dataclasses.replace(job.hardware, device="cpu", devices=1, nodes=1)
    return distributed.join(job.hardware if job.config.distributed else alone)


def load(job: Job, checkpoint: Input, longest: int, beams: int) -> tuple[PreTrainedModel | Vllm, PreTrainedTokenizerBase]:
    """The checkpoint with its adapters merged, and its tokenizer. Raises UserError where vLLM is not there.

    `longest` is the most tokens that a prompt and its output take together.
    """
    if job.config.engine == "own":
        return load_for_inference(checkpoint, job.hardware, job.config.precision)
    return vllm.load(checkpoint, job.hardware, job.config.precision, longest, beams)

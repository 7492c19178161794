"""A score for choosing checkpoints: chrF++ of greedy translations of a few dev examples, and how many of these say the same
over and over. Not figures to report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from alma_pipeline.job import Job
from alma_pipeline.ml.decoding import decode
from alma_pipeline.ml.models.causal import causal_model
from alma_pipeline.ml.scoring.guards import loops
from alma_pipeline.ml.scoring.sacrebleu_metrics import metric
from alma_pipeline.schema import Training
from alma_pipeline.schema.metrics import MAIN

LONGEST = 2
"""Translations may be this many times as long as the longest reference."""
Split = Callable[[Any], tuple[NDArray[Any], NDArray[Any]]]
"""The ids of an example's prompt, and of the answer that it should get."""
Score = Callable[[nn.Module], dict[str, float]]
"""Measures of the model's translations of the dev set: `score`, higher is better, and `loops`, the share of repetition loops.
Called by every rank, with the same result."""


@dataclass(frozen=True)
class Sample:
    """What is translated, and what it should be."""

    prompts: list[list[int]]
    references: list[list[int]]


def wanted(job: Job, dev: Sequence[Any], split: Split) -> Score | None:
    """The dev score of a job that chooses by it, over some of its dev examples; None for any other job."""
    config: Training = job.config
    if config.choose_by != "dev_score" or not len(dev):
        return None
    tokenizer = AutoTokenizer.from_pretrained(job.inputs["init"].path, local_files_only=True)
    return dev_score(spread(dev, config.dev_score_examples, split), tokenizer, job.hardware.decode_tokens)


def spread(examples: Sequence[Any], count: int, split: Split) -> Sample:
    """`count` examples from all over `examples`, or all."""
    places = np.unique(np.linspace(0, len(examples) - 1, min(count, len(examples))).round().astype(int))
    pairs = [split(examples[int(place)]) for place in places]
    return Sample([prompt.tolist() for prompt, _ in pairs], [reference.tolist() for _, reference in pairs])


def dev_score(sample: Sample, tokenizer: PreTrainedTokenizerBase, decode_tokens: int) -> Score:
    """A function of the model: `score`, corpus chrF++ (0 to 100) of its greedy translations, and `loops`, the share of them
    (0 to 1) that hold a loop which their reference does not. Every rank must call it."""
    longest = LONGEST * max(map(len, sample.references))
    limits = decode.limits(tokenizer, longest, decode_tokens)
    references = [decode.text(tokenizer, ids) for ids in sample.references]

    def score(model: nn.Module) -> dict[str, float]:
        outputs = decode.greedy(causal_model(model), sample.prompts, limits)
        hypotheses = [decode.text(tokenizer, output) for output in outputs]
        looping = sum(loops(ours) and not loops(theirs) for ours, theirs in zip(hypotheses, references, strict=True))
        return {
            "score": float(metric(MAIN, "13a").corpus_score(hypotheses, [references]).score),
            "loops": looping / len(references),
        }

    return score


TRANSLATES = 10.0
"""chrF++ from which on a parent translates at all (our choice): what a random model writes gets less, and has nothing to lose."""


def divergence(config: Training, parent: Mapping[str, float], now: Mapping[str, float], when: str) -> str | None:
    """What is wrong with the measures `now` beside the parent's, in words; None while nothing is. `when`: `after step 3 of 6`.

    `loss` is always measured; `score` (chrF++, 0 to 100) and `loops` (a share, 0 to 1) only where the node has a dev score.
    """
    limit = config.diverged_above * parent["loss"]
    if not now["loss"] <= limit:  # not a number is above, too
        return (
            f"the dev loss is {now['loss']:.4g} {when}, above {limit:.4g} = diverged_above x {parent['loss']:.4g}, the parent's"
        )
    if parent.get("score", 0.0) < TRANSLATES:
        return None
    floor = config.diverged_below * parent["score"]
    if now["score"] < floor:
        told = f"below {floor:.4g} = diverged_below x {parent['score']:.4g}, the parent's"
        return f"the dev score is {now['score']:.4g} {when}, {told}"
    # A run that was begun before loops were counted knows none of its parent.
    before = parent.get("loops", 0.0)
    if now["loops"] > max(config.diverged_loops, before):
        told = f"above {config.diverged_loops:.0%} = diverged_loops and above the parent's {before:.0%}"
        return f"{now['loops']:.0%} of the dev translations are repetition loops {when}, {told}"
    return None

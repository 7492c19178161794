"""A score for choosing checkpoints: chrF++ of greedy translations of a few dev examples, and how many of these say the same
over and over. Not figures to report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics import CHRF
from torch import nn
from transformers import PreTrainedTokenizerBase

from alma_pipeline.ml import decoding
from alma_pipeline.ml.guards import loops
from alma_pipeline.ml.logprobs import causal_model

LONGEST = 2
"""Translations may be this many times as long as the longest reference."""


@dataclass(frozen=True)
class Sample:
    """What is translated, and what it should be."""

    prompts: list[list[int]]
    references: list[list[int]]


def spread(examples: Sequence[Any], count: int, split: Callable[[Any], tuple[NDArray[Any], NDArray[Any]]]) -> Sample:
    """`count` examples from all over `examples`, or all; `split` gives the prompt's and the reference's ids of one."""
    places = np.unique(np.linspace(0, len(examples) - 1, min(count, len(examples))).round().astype(int))
    pairs = [split(examples[int(place)]) for place in places]
    return Sample([prompt.tolist() for prompt, _ in pairs], [reference.tolist() for _, reference in pairs])


def dev_score(sample: Sample, tokenizer: PreTrainedTokenizerBase, decode_tokens: int) -> Callable[[nn.Module], dict[str, float]]:
    """A function of the model: `score`, corpus chrF++ (0 to 100) of its greedy translations, and `loops`, the share of them
    (0 to 1) that hold a loop which their reference does not. Every rank must call it."""
    longest = LONGEST * max(map(len, sample.references))
    limits = decoding.limits(tokenizer, longest, decode_tokens)
    references = [decoding.text(tokenizer, ids) for ids in sample.references]

    def score(model: nn.Module) -> dict[str, float]:
        outputs = decoding.greedy(causal_model(model), sample.prompts, limits)
        hypotheses = [decoding.text(tokenizer, output) for output in outputs]
        looping = sum(loops(ours) and not loops(theirs) for ours, theirs in zip(hypotheses, references, strict=True))
        return {
            "score": float(CHRF(word_order=2).corpus_score(hypotheses, [references]).score),
            "loops": looping / len(references),
        }

    return score

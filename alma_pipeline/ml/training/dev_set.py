"""Dev measures that choose checkpoints and stop a diverged run: chrF++ and repetition loops of greedy dev translations.

For choosing checkpoints only; never reported as results.
"""

import dataclasses
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
from alma_pipeline.ml.scoring.guards import has_loop
from alma_pipeline.ml.scoring.sacrebleu_metrics import metric
from alma_pipeline.schema import Training
from alma_pipeline.schema.metrics import MAIN

MAX_LENGTH_RATIO = 2
"""Longest allowed translation, as a multiple of the longest reference."""
MIN_PARENT_SCORE = 10.0
"""chrF++ below which a parent does not translate yet (our choice): random output scores less and has nothing to lose."""
DECODE_TOKENS = 8192
"""Token budget of decoding batches with `hardware.decode_tokens=null`: not the free memory, which training needs (our choice)."""
PromptAndAnswer = Callable[[Any], tuple[NDArray[Any], NDArray[Any]]]
"""Token ids of an example's prompt and of its reference answer."""
DevScore = Callable[[nn.Module], dict[str, float]]
"""Measures of the model's translations of the dev set: `score` (chrF++, 0 to 100, higher is better), and `loops`, the
share (0 to 1) of translations that contain a repetition loop. A collective call with the same result on every rank.
"""


@dataclass(frozen=True)
class DevSample:
    """Dev prompts and the reference answers to them, as token ids."""

    prompts: list[list[int]]
    references: list[list[int]]


def dev_scorer(job: Job, dev: Sequence[Any], split: PromptAndAnswer) -> DevScore | None:
    """The dev score of a job with `select_by=dev_score`, over some of its dev examples; None for any other job."""
    config: Training = job.config
    if config.select_by != "dev_score" or not len(dev):
        return None
    tokenizer = AutoTokenizer.from_pretrained(job.inputs["init"].path, local_files_only=True)
    tokens = job.hardware.decode_tokens or DECODE_TOKENS
    return dev_score(spread(dev, config.dev_score_examples, split), tokenizer, tokens)


def dev_score(sample: DevSample, tokenizer: PreTrainedTokenizerBase, decode_tokens: int) -> DevScore:
    """A function that scores a model's greedy translations of `sample`.

    `score` is corpus chrF++ (0 to 100); `loops` is the share (0 to 1) of translations that contain a repetition loop which
    their reference does not. Every rank must call it.
    """
    longest = MAX_LENGTH_RATIO * max(map(len, sample.references))
    limits = [decode.limits(tokenizer, longest, decode_tokens)]
    references = [decode.text(tokenizer, ids) for ids in sample.references]

    def lower(tokens: int) -> None:
        limits.append(dataclasses.replace(limits[-1], decode_tokens=tokens))

    def score(model: nn.Module) -> dict[str, float]:
        # A budget that was too large once is not tried again.
        outputs = decode.greedy(causal_model(model), sample.prompts, limits[-1], on_lowered=lower)
        hypotheses = [decode.text(tokenizer, output) for output in outputs]
        looping = sum(has_loop(ours) and not has_loop(theirs) for ours, theirs in zip(hypotheses, references, strict=True))
        return {
            "score": float(metric(MAIN, "13a").corpus_score(hypotheses, [references]).score),
            "loops": looping / len(references),
        }

    return score


def divergence(config: Training, parent: Mapping[str, float], now: Mapping[str, float], when: str) -> str | None:
    """Why the measures `now` count as diverged from the parent's, or None. `when` is a phrase such as `after step 3 of 6`.

    `loss` is always measured; `score` (chrF++, 0 to 100) and `loops` (a share, 0 to 1) only if the node has a dev score.
    """
    # The dev loss is compared for every node.
    limit = config.max_dev_loss_ratio * parent["loss"]
    if not now["loss"] <= limit:  # true for NaN as well
        ratio = f"max_dev_loss_ratio x {parent['loss']:.4g}, the parent's"
        return f"the dev loss is {now['loss']:.4g} {when}, above {limit:.4g} = {ratio}"
    # Scores mean something only if the parent translates at all.
    if parent.get("score", 0.0) < MIN_PARENT_SCORE:
        return None
    floor = config.min_dev_score_ratio * parent["score"]
    if now["score"] < floor:
        threshold = f"below {floor:.4g} = min_dev_score_ratio x {parent['score']:.4g}, the parent's"
        return f"the dev score is {now['score']:.4g} {when}, {threshold}"
    # A run that started before loops were counted has none recorded for its parent.
    before = parent.get("loops", 0.0)
    if now["loops"] > max(config.max_loop_share, before):
        threshold = f"above {config.max_loop_share:.0%} = max_loop_share and above the parent's {before:.0%}"
        return f"{now['loops']:.0%} of the dev translations are repetition loops {when}, {threshold}"
    return None


def spread(examples: Sequence[Any], count: int, split: PromptAndAnswer) -> DevSample:
    """`count` examples at even distances in `examples`, or all of them."""
    places = np.unique(np.linspace(0, len(examples) - 1, min(count, len(examples))).round().astype(int))
    pairs = [split(examples[int(place)]) for place in places]
    return DevSample([prompt.tolist() for prompt, _ in pairs], [reference.tolist() for _, reference in pairs])

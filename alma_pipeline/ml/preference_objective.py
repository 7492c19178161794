"""The objective of `cpo` and `arpo`: a model wrapped with a preference loss over pairs. The loss itself is `preference`.

How answers lie in a micro-batch is known to `row_length` and `padded_rows` alone. All else sees the labels in one flat
order, pair by pair, the chosen answer first, so that another layout (both answers behind one copy of their prompt) can
take their place.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alma_pipeline.ml.examples import Split
from alma_pipeline.ml.logprobs import label_logprobs
from alma_pipeline.ml.objective import Batch, Objective
from alma_pipeline.ml.pairs import Pair
from alma_pipeline.ml.preference import Norms, Sums, Terms, loss_share, means, statistics

MODEL_INPUTS: tuple[str, ...] = ("input_ids", "attention_mask")


class PreferenceModel(Objective[Pair, Norms]):
    """CPO or ARPO, as `terms` say; both answers of a pair are always in the same micro-batch.

    The model must have no dropout: a margin between two answers must not be one between two masks.
    """

    def __init__(self, model: nn.Module, row_tokens: int, terms: Terms) -> None:
        super().__init__(model, row_tokens)
        self.terms = terms

    def length(self, example: Pair) -> int:
        return row_length(example)

    def labels(self, example: Pair) -> int:
        return len(example.chosen) + len(example.rejected)

    def norms(self, examples: Sequence[Pair]) -> Norms:
        """Pairs, and labels of the chosen answers."""
        return Norms(pairs=len(examples), chosen_labels=sum(len(pair.chosen) for pair in examples))

    def collate(self, examples: Sequence[Pair]) -> Batch:
        """The rows, and `labels` [n] with `answers` [pairs, 2], how many of the labels each answer takes in turn."""
        labels = np.concatenate([np.zeros(0, np.int64), *chain.from_iterable(pair[1:] for pair in examples)])
        answers = np.array([[len(pair.chosen), len(pair.rejected)] for pair in examples], np.int64).reshape(-1, 2)
        arrays = padded_rows(examples) | {"labels": labels, "answers": answers}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def forward(self, batch: Batch, norms: Norms) -> tuple[Tensor, dict[str, Tensor]]:
        inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
        logprobs = label_logprobs(self.model, inputs, batch["positions"], batch["labels"], self.chunks)
        sums = answer_sums(logprobs, batch["answers"])
        labels = torch.full((), len(logprobs), dtype=torch.float64, device=logprobs.device)
        return loss_share(sums, self.terms, norms).float(), {"labels": labels} | statistics(sums, self.terms)

    def measures(self, totals: dict[str, float]) -> dict[str, float]:
        """`loss` and its two terms, accuracy, margins, rewards and log-probabilities; see `preference.means`."""
        return means(totals, self.terms)


def row_length(pair: Pair) -> int:
    """Tokens of a pair's two rows, the shorter one padded to the other."""
    return 2 * (len(pair.prompt) + max(len(pair.chosen), len(pair.rejected)))


def as_split(pairs: Sequence[Pair]) -> Split[Pair]:
    """Pairs with their sizes, as the training loop takes them."""
    lengths = [row_length(pair) for pair in pairs]
    return Split(pairs, tokens=sum(lengths), longest=max(lengths, default=0))


def padded_rows(pairs: Sequence[Pair]) -> dict[str, NDArray[np.int64]]:
    """`input_ids` [2 * pairs, length], chosen and rejected rows in turn, padded on the right; `positions` [labels]
    of the flattened rows whose states predict the labels; `attention_mask` where there is padding.
    """
    answers = [(pair.prompt, answer) for pair in pairs for answer in pair[1:]]
    width = max((len(prompt) + len(answer) for prompt, answer in answers), default=1)
    ids = np.zeros((max(len(answers), 1), width), np.int64)
    real = np.zeros_like(ids)
    positions = [np.zeros(0, np.int64)]
    for row, (prompt, answer) in enumerate(answers):
        end = len(prompt) + len(answer)
        ids[row, :end] = np.concatenate([prompt, answer])
        real[row, :end] = 1
        positions.append(row * width + np.arange(len(prompt) - 1, end - 1))
    result = {"input_ids": ids, "positions": np.concatenate(positions)}
    return result if not answers or real.all() else result | {"attention_mask": real}


def answer_sums(logprobs: Tensor, answers: Tensor) -> Sums:
    """Each answer's sum of its part of `logprobs` [labels]; `answers` [pairs, 2] holds the sizes of the parts.

    Summed in float64: a margin is a small difference of two large sums.
    """
    wide = logprobs.double()
    # segment_reduce refuses to work on no segments; the empty sum stays part of the graph.
    summed = torch.segment_reduce(wide, "sum", lengths=answers.flatten()) if len(answers) else wide[:0]
    chosen, rejected = summed.view(-1, 2).unbind(dim=1)
    return Sums(chosen, rejected, answers[:, 0], answers[:, 1])

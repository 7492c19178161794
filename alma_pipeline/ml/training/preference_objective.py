"""The objective of `cpo` and `arpo`: a model wrapped with a preference loss over pairs of answers.

The losses are in `preference_losses`; how answers are arranged in rows is up to `layouts`. Here labels are in one flat
order: pair by pair, the chosen answer first.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alma_pipeline.ml.data.preference_pairs import PreferencePair
from alma_pipeline.ml.data.token_arrays import Split
from alma_pipeline.ml.distributed import World, all_gather
from alma_pipeline.ml.training.layouts import Item
from alma_pipeline.ml.training.objective import Objective
from alma_pipeline.ml.training.preference_losses import (
    WITH_REFERENCE,
    LossSettings,
    PairCounts,
    PairLogprobs,
    loss_share,
    means,
    statistics,
)
from alma_pipeline.ml.training.prefetch import Batch, on_device


class PreferenceModel(Objective[PreferencePair, PairCounts]):
    """The preference loss that `terms` describe; both answers of a pair are always in the same micro-batch.

    The model must have no dropout: a margin compares two answers and must not depend on two dropout masks.
    """

    def __init__(self, model: nn.Module, micro_batch_tokens: int, terms: LossSettings) -> None:
        super().__init__(model, micro_batch_tokens)
        self.terms = terms

    def items(self, example: PreferencePair) -> list[Item]:
        """Both answers after one prompt; neither sees the other."""
        return [Item(example.prompt, (example.chosen, example.rejected))]

    def norms(self, examples: Sequence[PreferencePair]) -> PairCounts:
        """The number of pairs, and of labels of chosen answers."""
        return PairCounts(pairs=len(examples), chosen_labels=sum(len(pair.chosen) for pair in examples))

    def collate(self, examples: Sequence[PreferencePair]) -> Batch:
        """Rows, and `answers` [pairs, 2], the number of labels of each chosen and rejected answer.

        If the loss needs it, also `reference` [pairs, 2], log-probability sums (nats).
        """
        answers = [[len(pair.chosen), len(pair.rejected)] for pair in examples]
        batch = self.rows(examples) | {"answers": torch.tensor(answers, dtype=torch.int64).view(-1, 2)}
        if self.terms.loss in WITH_REFERENCE:
            batch["reference"] = torch.tensor([pair.reference for pair in examples], dtype=torch.float64).view(-1, 2)
        return batch

    def forward(self, batch: Batch, norms: PairCounts) -> tuple[Tensor, dict[str, Tensor]]:
        """The micro-batch's share of the global batch's loss (float32 scalar), and float64 scalars to log."""
        logprobs = self.logprobs(batch)
        sums = _answer_sums(logprobs, batch["answers"], batch.get("reference"))
        labels = torch.full((), len(logprobs), dtype=torch.float64, device=logprobs.device)
        return loss_share(sums, self.terms, norms).float(), {"labels": labels} | statistics(sums, self.terms)

    def measures(self, totals: dict[str, float]) -> dict[str, float]:
        """`loss` and its two terms, accuracy, margins, rewards and log-probabilities; see `preference_losses.means`."""
        return means(totals, self.terms)


def as_split(pairs: Sequence[PreferencePair], objective: PreferenceModel) -> Split[PreferencePair]:
    """Pairs with their total tokens and longest example, as the training loop takes them."""
    tokens = sum(len(pair.prompt) + len(pair.chosen) + len(pair.rejected) for pair in pairs)
    return Split(pairs, tokens=tokens, longest=max(map(objective.length, pairs), default=0))


def chosen_answer(pair: PreferencePair) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Token ids of the prompt and of the chosen answer, the dev score's reference."""
    return pair.prompt, pair.chosen


@torch.no_grad()
def with_reference(objective: PreferenceModel, pairs: Sequence[PreferencePair], world: World) -> list[PreferencePair]:
    """The pairs with their `reference` sums, in order. A collective call: ranks share the work, and each gets all results.

    Call it before the engine takes the model, while that still equals the parent; a resumed run computes the same again.
    """
    # `collate` expects reference sums, so give it zeros.
    blank = [pair._replace(reference=(0.0, 0.0)) for pair in pairs]
    objective.to(world.device).eval()
    # Empty pieces, which only balance rounds, are not needed without gradients.
    pieces = [piece for piece in objective.micro_batches(blank, world.size, overhead=0)[world.rank] if piece]
    batches = on_device((objective.collate([blank[place] for place in piece]) for piece in pieces), world.device)
    found: dict[int, tuple[float, float]] = {}
    for piece, batch in zip(pieces, batches, strict=True):
        sums = _answer_sums(objective.logprobs(batch), batch["answers"])
        found |= dict(zip(piece, zip(sums.chosen.tolist(), sums.rejected.tolist(), strict=True), strict=True))
    objective.train()
    for others in all_gather(found):
        found |= others
    return [pair._replace(reference=found[place]) for place, pair in enumerate(pairs)]


def _answer_sums(logprobs: Tensor, answers: Tensor, reference: Tensor | None = None) -> PairLogprobs:
    """Sum each answer's part of `logprobs` [labels]; `answers` [pairs, 2] holds the sizes of the parts.

    Sums are float64: a margin is a small difference of two large sums.
    """
    wide = logprobs.double()
    # segment_reduce raises for no segments; the empty slice keeps the graph connected. Checking the lengths, which `collate`
    # has counted, would wait for the device at every micro-batch.
    summed = torch.segment_reduce(wide, "sum", lengths=answers.flatten(), unsafe=True) if len(answers) else wide[:0]
    chosen, rejected = summed.view(-1, 2).unbind(dim=1)
    return PairLogprobs(chosen, rejected, answers[:, 0], answers[:, 1], reference)

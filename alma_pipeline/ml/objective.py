"""What a training stage minimises: a model wrapped with its loss. Not the loop, which `training` holds.

The loop knows examples only through an objective. It asks for `length` to cut a global batch into micro-batches, for
`norms` of the whole global batch, and sums `forward` over micro-batches and ranks: that sum is the batch's loss,
however it was split. The language-model objective below is the one of `mono`, `parallel` and `group_adapter`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from alma_pipeline.ml.examples import Tokens
from alma_pipeline.ml.logprobs import causal_model, chunks_for, label_logprobs

Example = TypeVar("Example")
Norms = TypeVar("Norms")
Batch = dict[str, Tensor]
MODEL_INPUTS: tuple[str, ...] = ("input_ids", "attention_mask")


class Objective(nn.Module, ABC, Generic[Example, Norms]):
    """A model and its loss in one module, so that `deepspeed.initialize` sees all of the forward pass."""

    def __init__(self, model: nn.Module, row_tokens: int) -> None:
        """`row_tokens` is the token budget of a micro-batch, which fixes in how many pieces logits are computed."""
        super().__init__()
        self.model = model
        self.chunks = chunks_for(row_tokens, causal_model(model).config.vocab_size)

    @abstractmethod
    def length(self, example: Example) -> int:
        """Tokens the example takes in a row: its prompt and all it trains on, before padding."""

    @abstractmethod
    def labels(self, example: Example) -> int:
        """Tokens of it that bear loss; their sum is compared with what `forward` really saw."""

    @abstractmethod
    def norms(self, examples: Sequence[Example]) -> Norms:
        """What the loss is divided by, counted over a whole global batch: plain numbers, equal on every rank."""

    @abstractmethod
    def collate(self, examples: Sequence[Example]) -> Batch:
        """CPU tensors of one micro-batch. For no examples: a smallest batch without labels, of the same keys or fewer,
        whose loss is 0 and whose gradient is 0 for every parameter; a rank with fewer rounds runs it."""

    @abstractmethod
    def forward(self, batch: Batch, norms: Norms) -> tuple[Tensor, dict[str, Tensor]]:
        """The batch's share of the loss (float32 scalar), and float64 scalars without gradient to be summed over
        micro-batches and ranks: always the same names in the same order, `labels` among them."""

    @abstractmethod
    def measures(self, totals: dict[str, float]) -> dict[str, float]:
        """Figures to log, from those scalars summed over a global batch or a dev set; `loss` among them."""


class LanguageModel(Objective[Tokens, int]):
    """Mean cross-entropy (nats) over all label tokens of the global batch: those after each example's prompt."""

    def length(self, example: Tokens) -> int:
        return len(example.ids)

    def labels(self, example: Tokens) -> int:
        return len(example.ids) - example.prompt

    def norms(self, examples: Sequence[Tokens]) -> int:
        """The number of labels."""
        return sum(self.labels(example) for example in examples)

    def collate(self, examples: Sequence[Tokens]) -> Batch:
        """Rows padded on the right: a causal model's states at real tokens do not see the padding."""
        lengths = np.array([len(example.ids) for example in examples] or [1])
        prompts = np.array([example.prompt for example in examples] or [1])
        ids = np.zeros((len(lengths), lengths.max()), dtype=np.int64)
        for row, example in enumerate(examples):
            ids[row, : len(example.ids)] = example.ids
        real = np.arange(ids.shape[1]) < lengths[:, None]
        predicted = np.flatnonzero(real & (np.arange(ids.shape[1]) >= prompts[:, None]))
        known = float(sum(example.bytes for example in examples))
        batch = {"input_ids": ids, "positions": predicted - 1, "labels": ids.ravel()[predicted], "bytes": np.array(known)}
        if not real.all():
            batch["attention_mask"] = real.astype(np.int64)
        return {name: torch.from_numpy(array) for name, array in batch.items()}

    def forward(self, batch: Batch, norms: int) -> tuple[Tensor, dict[str, Tensor]]:
        inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
        total = -label_logprobs(self.model, inputs, batch["positions"], batch["labels"], self.chunks).sum()
        labels = torch.full((), len(batch["labels"]), dtype=torch.float64, device=total.device)
        return total / norms, {"labels": labels, "nll": total.detach().double(), "bytes": batch["bytes"]}

    def measures(self, totals: dict[str, float]) -> dict[str, float]:
        """`loss` in nats per label; `bits_per_byte` where the bytes of the text are known."""
        found = {"loss": totals["nll"] / totals["labels"]}
        if totals["bytes"]:
            found["bits_per_byte"] = totals["nll"] / math.log(2) / totals["bytes"]
        return found

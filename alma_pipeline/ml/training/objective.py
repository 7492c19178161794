"""What a training stage minimises: a model wrapped with its loss. Not the loop, which `training` holds.

The loop knows examples only through an objective. It lets `micro_batches` cut a global batch, asks for `norms` of the
whole global batch, and sums `forward` over micro-batches and ranks: that sum is the batch's loss, however it was
split. The language-model objective below is the one of `mono`, `parallel` and `group_adapter`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from alma_pipeline.errors import UserError
from alma_pipeline.ml.data.examples import Tokens
from alma_pipeline.ml.models.causal import causal_model
from alma_pipeline.ml.training import logprobs
from alma_pipeline.ml.training.batching import packed_batches, padded_batches
from alma_pipeline.ml.training.layouts import Item
from alma_pipeline.ml.training.logprobs import chunks_for, label_logprobs
from alma_pipeline.ml.training.packing import LAYOUTS, choose
from alma_pipeline.ml.training.prefetch import Batch

Example = TypeVar("Example")
Norms = TypeVar("Norms")


class Objective(nn.Module, ABC, Generic[Example, Norms]):
    """A model and its loss in one module, so that `deepspeed.initialize` sees all of the forward pass."""

    def __init__(self, model: nn.Module, row_tokens: int) -> None:
        """`row_tokens` is the token budget of a micro-batch, which fixes in how many pieces logits are computed.

        Packed rows are used where the model is seen to be right on them.
        """
        super().__init__()
        self.model = model
        self.row_tokens = row_tokens
        self.chunks = chunks_for(row_tokens, causal_model(model).config.get_text_config().vocab_size)
        self.attention = str(causal_model(model).config._attn_implementation)
        self.layout = choose(model)
        self.head = logprobs.choose(model)

    @abstractmethod
    def items(self, example: Example) -> list[Item]:
        """The example as prompts and their answers, all of whose tokens bear loss; items do not see each other."""

    def length(self, example: Example) -> int:
        """Tokens the example takes in a micro-batch: its prompts and all it trains on, before padding."""
        return sum(map(self._item_length, self.items(example)))

    def _item_length(self, item: Item) -> int:
        sizes = [len(answer) for answer in item.answers]
        packed, padded = len(item.prompt) + sum(sizes), len(sizes) * (len(item.prompt) + max(sizes))
        return packed if self.layout == "packed" else padded

    def labels(self, example: Example) -> int:
        """Tokens of it that bear loss; their sum is compared with what `forward` really saw."""
        return sum(len(answer) for item in self.items(example) for answer in item.answers)

    def micro_batches(self, examples: Sequence[Example], ranks: int, overhead: int) -> list[list[list[int]]]:
        """For each rank its micro-batches of places in `examples`, each within the token budget; see `batches`.

        `overhead` is what a micro-batch costs beside its tokens, in tokens.
        """
        lengths = [self.length(example) for example in examples]
        if self.layout == "packed":
            return packed_batches(lengths, self.row_tokens, ranks)
        return padded_batches(lengths, self.row_tokens, ranks, overhead)

    def rows(self, examples: Sequence[Example]) -> Batch:
        """The model's `inputs`, `positions` and `labels` of one micro-batch; see `layouts.Rows`."""
        return LAYOUTS[self.layout]([item for example in examples for item in self.items(example)])._asdict()

    def logprobs(self, batch: Batch) -> Tensor:
        """[labels] log-probabilities (nats) of the batch's labels."""
        return label_logprobs(self.model, batch["inputs"], batch["positions"], batch["labels"], self.chunks, self.head)

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

    def items(self, example: Tokens) -> list[Item]:
        """One answer after its prompt; the prompt's tokens are no labels."""
        return [Item(example.ids[: example.prompt], (example.ids[example.prompt :],))]

    def norms(self, examples: Sequence[Tokens]) -> int:
        """The number of labels."""
        return sum(self.labels(example) for example in examples)

    def collate(self, examples: Sequence[Tokens]) -> Batch:
        """Packed rows of the examples, and the bytes of their labels' text."""
        known = float(sum(example.bytes for example in examples))
        return self.rows(examples) | {"bytes": torch.tensor(known, dtype=torch.float64)}

    def forward(self, batch: Batch, norms: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of negative log-likelihoods over `norms`, the global batch's number of labels (so the shares of all
        micro-batches and processes add up to its mean), and float64 counts to be logged."""
        total = -self.logprobs(batch).sum()
        labels = torch.full((), len(batch["labels"]), dtype=torch.float64, device=total.device)
        return total / norms, {"labels": labels, "nll": total.detach().double(), "bytes": batch["bytes"]}

    def measures(self, totals: dict[str, float]) -> dict[str, float]:
        """`loss` in nats per label; `bits_per_byte` where the bytes of the text are known."""
        found = {"loss": totals["nll"] / totals["labels"]}
        if totals["bytes"]:
            found["bits_per_byte"] = totals["nll"] / math.log(2) / totals["bytes"]
        return found


class Documents(LanguageModel):
    """Mean cross-entropy (nats) over all tokens of the global batch but each document's first."""

    def __init__(self, model: nn.Module, row_tokens: int, bos: int, eos: int) -> None:
        """A document starts at `bos` and ends with `eos`, which may be the same token.

        Raises UserError for a model that cannot be trained on packed rows.
        """
        super().__init__(model, row_tokens)
        self.bos, self.eos = bos, eos
        if self.layout != "packed":
            raise UserError(
                "documents=apart needs packed rows, but this architecture is not right on them (it was tried); "
                "use documents=joined"
            )

    def items(self, example: Tokens) -> list[Item]:
        """The documents of a block, each attending to itself alone; its first token is context, the others are labels."""
        is_start = example.ids == self.bos
        if self.bos == self.eos:
            # Of two equal tokens in a row the first ends a document and the second starts the next.
            is_start[1:] &= example.ids[:-1] == self.eos
        is_start[0] = True
        parts = np.split(example.ids, np.flatnonzero(is_start)[1:])
        return [Item(part[:1], (part[1:],)) for part in parts]


def blocks_objective(model: nn.Module, row_tokens: int, documents: str) -> LanguageModel:
    """For `documents` joined or apart; BOS and EOS are those of the model's configuration."""
    if documents == "joined":
        return LanguageModel(model, row_tokens)
    config = causal_model(model).config
    return Documents(model, row_tokens, config.bos_token_id, config.eos_token_id)

"""What a training stage minimises: a model wrapped with its loss. Here, the interface and the language-model objectives.

The loop knows examples only through an objective: `micro_batches` splits a global batch, `norms` counts what its loss is
divided by, and the sum of `forward` over micro-batches and ranks is the batch's loss, independent of the split.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from alma_pipeline.errors import UserError
from alma_pipeline.ml.data.token_arrays import Tokens
from alma_pipeline.ml.models.causal import causal_model
from alma_pipeline.ml.models.end_tokens import as_list
from alma_pipeline.ml.training import logprobs
from alma_pipeline.ml.training.batching import packed_batches, padded_batches
from alma_pipeline.ml.training.layouts import Item
from alma_pipeline.ml.training.logprobs import label_logprobs, num_chunks
from alma_pipeline.ml.training.packing import LAYOUTS, choose_layout
from alma_pipeline.ml.training.prefetch import Batch

Example = TypeVar("Example")
Norms = TypeVar("Norms")


class Objective(nn.Module, ABC, Generic[Example, Norms]):
    """A model and its loss in one module, so that `deepspeed.initialize` sees the whole forward pass."""

    def __init__(self, model: nn.Module, micro_batch_tokens: int) -> None:
        """`micro_batch_tokens` is the token budget of a micro-batch, which also fixes the number of chunks of logits.

        Uses packed rows if a trial shows that the model is correct on them.
        """
        super().__init__()
        self.model = model
        self.micro_batch_tokens = micro_batch_tokens
        self.chunks = num_chunks(micro_batch_tokens, causal_model(model).config.get_text_config().vocab_size)
        self.attention = str(causal_model(model).config._attn_implementation)
        self.layout = choose_layout(model)
        self.head = logprobs.choose_head(model)

    @abstractmethod
    def items(self, example: Example) -> list[Item]:
        """The example as prompts and answers; every answer token bears loss, and items do not see each other."""

    def length(self, example: Example) -> int:
        """Tokens that the example takes in a micro-batch in this layout, without padding to other examples."""
        return sum(map(self._item_length, self.items(example)))

    def _item_length(self, item: Item) -> int:
        sizes = [len(answer) for answer in item.answers]
        packed, padded = len(item.prompt) + sum(sizes), len(sizes) * (len(item.prompt) + max(sizes))
        return packed if self.layout == "packed" else padded

    def labels(self, example: Example) -> int:
        """Number of tokens that bear loss; compared with what `forward` counted over a batch."""
        return sum(len(answer) for item in self.items(example) for answer in item.answers)

    def micro_batches(self, examples: Sequence[Example], ranks: int, overhead: int) -> list[list[list[int]]]:
        """For each rank, its micro-batches as lists of positions in `examples`, each within the token budget; see `batching`.

        `overhead` is the fixed cost of a micro-batch, in tokens.
        """
        lengths = [self.length(example) for example in examples]
        if self.layout == "packed":
            return packed_batches(lengths, self.micro_batch_tokens, ranks)
        return padded_batches(lengths, self.micro_batch_tokens, ranks, overhead)

    def rows(self, examples: Sequence[Example]) -> Batch:
        """`inputs`, `positions` and `labels` of one micro-batch on the CPU; see `layouts.Rows`."""
        return LAYOUTS[self.layout]([item for example in examples for item in self.items(example)])._asdict()

    def logprobs(self, batch: Batch) -> Tensor:
        """[labels] log-probabilities (nats) of the batch's labels."""
        return label_logprobs(self.model, batch["inputs"], batch["positions"], batch["labels"], self.chunks, self.head)

    @abstractmethod
    def norms(self, examples: Sequence[Example]) -> Norms:
        """What the loss is divided by, counted over a global batch: plain numbers, equal on every rank."""

    @abstractmethod
    def collate(self, examples: Sequence[Example]) -> Batch:
        """One micro-batch as CPU tensors.

        Without examples: a minimal batch without labels, with the same keys or fewer, whose loss is 0 and whose gradient is 0
        for every parameter; a rank with fewer rounds runs it.
        """

    @abstractmethod
    def forward(self, batch: Batch, norms: Norms) -> tuple[Tensor, dict[str, Tensor]]:
        """The micro-batch's share of the loss (float32 scalar), and scalars to sum over micro-batches and ranks.

        The scalars are float64 without gradient, with the same names in the same order each time, `labels` among them.
        """

    @abstractmethod
    def measures(self, totals: dict[str, float]) -> dict[str, float]:
        """Measures to log, computed from those scalars summed over a global batch or a dev set; `loss` among them."""


class LanguageModel(Objective[Tokens, int]):
    """Mean cross-entropy (nats) over the label tokens of the global batch: those after each example's prompt."""

    def items(self, example: Tokens) -> list[Item]:
        """One prompt with one answer; the prompt bears no loss."""
        return [Item(example.ids[: example.prompt], (example.ids[example.prompt :],))]

    def norms(self, examples: Sequence[Tokens]) -> int:
        """The number of labels."""
        return sum(self.labels(example) for example in examples)

    def collate(self, examples: Sequence[Tokens]) -> Batch:
        """Rows of the examples, and the number of bytes of their labels' text."""
        known = float(sum(example.bytes for example in examples))
        return self.rows(examples) | {"bytes": torch.tensor(known, dtype=torch.float64)}

    def forward(self, batch: Batch, norms: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of negative log-likelihoods (nats) over `norms`, the labels of the global batch, and counts to log.

        The shares of all micro-batches and ranks add up to the batch's mean.
        """
        total = -self.logprobs(batch).sum()
        labels = torch.full((), len(batch["labels"]), dtype=torch.float64, device=total.device)
        return total / norms, {"labels": labels, "nll": total.detach().double(), "bytes": batch["bytes"]}

    def measures(self, totals: dict[str, float]) -> dict[str, float]:
        """`loss` in nats per label, and `bits_per_byte` if the bytes of the text are known."""
        found = {"loss": totals["nll"] / totals["labels"]}
        if totals["bytes"]:
            found["bits_per_byte"] = totals["nll"] / math.log(2) / totals["bytes"]
        return found


class SeparateDocuments(LanguageModel):
    """Mean cross-entropy (nats) over all tokens of a global batch except each document's first; documents are separate."""

    def __init__(self, model: nn.Module, micro_batch_tokens: int, bos: int, eos: int) -> None:
        """A document starts with the token `bos` and ends with `eos`; the two may be equal.

        Raises UserError for a model that is not correct on packed rows.
        """
        super().__init__(model, micro_batch_tokens)
        self.bos, self.eos = bos, eos
        if self.layout != "packed":
            raise UserError(
                "cross_document_attention=false needs packed rows, but a trial shows that this architecture is wrong on them; "
                "use cross_document_attention=true"
            )

    def items(self, example: Tokens) -> list[Item]:
        """The documents of a block, each attending to itself only; its first token is context, the others are labels."""
        is_start = example.ids == self.bos
        if self.bos == self.eos:
            # Of two such tokens in succession, the first ends a document and the second starts the next.
            is_start[1:] &= example.ids[:-1] == self.eos
        is_start[0] = True
        parts = np.split(example.ids, np.flatnonzero(is_start)[1:])
        return [Item(part[:1], (part[1:],)) for part in parts]


def blocks_objective(model: nn.Module, micro_batch_tokens: int, cross_document_attention: bool) -> LanguageModel:
    """The objective for blocks of text. BOS and EOS, which separate documents, come from the model's config."""
    if cross_document_attention:
        return LanguageModel(model, micro_batch_tokens)
    config = causal_model(model).config
    # Of several end tokens the first is the tokenizer's, which ends the documents.
    return SeparateDocuments(model, micro_batch_tokens, config.bos_token_id, as_list(config.eos_token_id)[0])

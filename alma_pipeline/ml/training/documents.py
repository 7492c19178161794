"""The objective of monolingual blocks whose documents are kept apart: none attends to another, each starts at position 0.

The published recipe joins them: `labels = inputs` over whole blocks, across the documents in them (see
`objective.LanguageModel`). Where a block begins in the middle of a document, that part of it is a document of its own.
"""

import numpy as np
from torch import nn

from alma_pipeline.errors import UserError
from alma_pipeline.ml.data.examples import Tokens
from alma_pipeline.ml.models.causal import causal_model
from alma_pipeline.ml.training.layouts import Item
from alma_pipeline.ml.training.objective import LanguageModel


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

"""Blocks whose documents are kept apart, against each document run alone."""

import numpy as np
import pytest
import torch

from alma_pipeline.errors import UserError
from alma_pipeline.ml.data.token_arrays import Tokens
from alma_pipeline.ml.training.objective import LanguageModel, SeparateDocuments, blocks_objective
from helpers.objective_models import bloom, llama

BOS, EOS = 0, 1
# The tail of a document, two whole ones, and the first token of a fourth.
BLOCK = Tokens(np.array([9, 8, EOS, BOS, 5, 6, 7, EOS, BOS, 4, EOS, BOS], np.int32), 1)


def test_loss_is_that_of_the_documents_alone() -> None:
    """Contamination changes it: the joined block has another loss."""
    apart, joined = SeparateDocuments(llama(), 64, BOS, EOS), LanguageModel(llama(), 64)
    alone = [Tokens(ids, 1) for ids in np.split(BLOCK.ids, [3, 8])]
    alone[-1] = Tokens(alone[-1].ids[:3], 1)
    loss, sums = apart(apart.collate([BLOCK]), apart.norms([BLOCK]))
    expected = [joined(joined.collate([part]), 1)[0] for part in alone]
    assert sums["labels"].item() == apart.labels(BLOCK) == 2 + 4 + 2
    assert loss.item() == pytest.approx(sum(expected).item() / 8, rel=1e-6)
    across, _ = joined(joined.collate([BLOCK]), 11)
    assert abs(across.item() - loss.item()) > 1e-2
    assert apart.length(BLOCK) == joined.length(BLOCK) == 12


@pytest.mark.parametrize("bos", [BOS, EOS])
def test_documents_are_found_also_where_bos_and_eos_are_the_same_token(bos: int) -> None:
    """The token that ends a document keeps its label."""
    ids = np.where(BLOCK.ids == BOS, bos, BLOCK.ids).astype(np.int32)
    items = SeparateDocuments(llama(), 64, bos, EOS).items(Tokens(ids, 1))
    assert [[*item.prompt, *item.answers[0]] for item in items] == [[9, 8, 1], [bos, 5, 6, 7, 1], [bos, 4, 1], [bos]]


def test_a_model_that_cannot_be_packed_is_refused() -> None:
    torch.manual_seed(0)
    with pytest.raises(UserError, match="use cross_document_attention=true"):
        SeparateDocuments(bloom(), 64, BOS, EOS)


def test_joined_blocks_are_as_published() -> None:
    assert type(blocks_objective(llama(), 64, True)) is LanguageModel


def test_of_several_end_tokens_the_tokenizer_s_ends_a_document() -> None:
    """A chat model states several; the first is the tokenizer's, with which the corpus was written."""
    model = llama()
    model.config.bos_token_id, model.config.eos_token_id = BOS, [EOS, 7]
    apart = blocks_objective(model, 64, False)
    assert isinstance(apart, SeparateDocuments) and (apart.bos, apart.eos) == (BOS, EOS)

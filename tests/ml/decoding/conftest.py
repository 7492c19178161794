"""What the decoding tests share: one thread, and the random model of `search_model`."""

import pytest
import torch
from transformers import PreTrainedModel

from helpers.search_model import make


@pytest.fixture
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return make()

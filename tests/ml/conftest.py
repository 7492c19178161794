"""What the decoding tests share: one thread, and the random model of `search_bed`."""

import pytest
import torch
from search_bed import make
from transformers import PreTrainedModel


@pytest.fixture
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return make()

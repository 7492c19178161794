"""Decoding in several processes: each takes a share of the prompts, all get all results."""

from pathlib import Path

import pytest
import torch

from alma_pipeline.ml.decoding import decode
from helpers.process_group import in_processes
from helpers.search_model import LIMITS, PROMPTS, SAMPLING, make


def _shared(path: Path) -> None:
    model = make()
    shared = decode.beam_search(model, PROMPTS, 3, LIMITS), decode.sample(model, PROMPTS, SAMPLING, LIMITS)
    many = dict(enumerate([[0]] * 18))
    split = len(decode._share(many, model))
    for parameter in model.parameters():
        parameter.ds_id = 0  # type: ignore[attr-defined]  # what DeepSpeed marks a ZeRO-3 parameter with
    torch.save((shared, split, len(decode._share(many, model))), path)


@pytest.mark.slow
def test_processes_share_out_the_work_and_all_get_the_results(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    in_processes(_shared, tmp_path)
    model = make()
    expected = decode.beam_search(model, PROMPTS, 3, LIMITS), decode.sample(model, PROMPTS, SAMPLING, LIMITS)
    for rank in range(2):
        assert torch.load(tmp_path / f"rank{rank}") == (expected, 9, 18)

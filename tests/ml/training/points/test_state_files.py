"""A state comes back as it was, out of a file that holds numbers and no code."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler
from safetensors.torch import save_file

from alma_pipeline.errors import UserError
from alma_pipeline.ml import rng
from alma_pipeline.ml.training.points.snapshot import HostBuffer
from alma_pipeline.ml.training.points.state_files import copy_state, load_state


def save_state(state: Any, path: Path) -> None:
    copy_state(state, HostBuffer()).write(path)


def test_containers_numbers_and_tensors_come_back(tmp_path: Path) -> None:
    flat = torch.arange(10.0)
    state = {
        0: {"step": torch.tensor(3.0), "exp_avg": flat[2:5]},
        "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.95), "params": [0, 1], "name": None, "fused": True}],
        "shapes": torch.Size([2, 3]),
        "names": {"a"},
        "half": torch.ones(2, 2, dtype=torch.bfloat16).t(),
        "empty": [torch.zeros(0), torch.zeros(0)],
        "dtype": torch.float16,
    }
    save_state(state, tmp_path / "state.pt")
    found = load_state(tmp_path / "state.pt")
    assert torch.equal(found[0]["exp_avg"], torch.tensor([2.0, 3.0, 4.0])) and found[0]["step"] == 3
    assert found["half"].dtype is torch.bfloat16 and [len(one) for one in found["empty"]] == [0, 0]
    for name in ("param_groups", "shapes", "names", "dtype"):
        assert found[name] == state[name], name
    assert (tmp_path / "state.pt").stat().st_size < 2000, "a view is not stored with all it is a view of"


def test_tied_weights_are_stored_once_and_tied_again(tmp_path: Path) -> None:
    weight = torch.randn(100, 10)
    save_state({"embedding": weight, "head": weight}, tmp_path / "state")
    found = load_state(tmp_path / "state")
    assert found["embedding"] is found["head"] and torch.equal(found["head"], weight)
    assert (tmp_path / "state").stat().st_size < 5000


def test_the_loss_scale_of_fp16_comes_back_as_its_numbers(tmp_path: Path) -> None:
    scaler = DynamicLossScaler(
        init_scale=2.0**16, scale_window=1000, min_scale=1.0, delayed_shift=1, consecutive_hysteresis=False,
        raise_error_at_min_scale=True, dtype=torch.half,
    )  # fmt: skip
    scaler.cur_scale, scaler.cur_iter, scaler.last_overflow_iter = 2.0**15, 7, 6
    save_state({"loss_scaler": scaler}, tmp_path / "state")
    found = load_state(tmp_path / "state")["loss_scaler"]
    assert type(found) is DynamicLossScaler and vars(found) == vars(scaler)
    assert found.cur_scale == 2.0**15


def test_random_generators_continue_with_the_next_number(tmp_path: Path) -> None:
    rng.seed(7, rank=0)
    torch.rand(3)
    save_state(rng.states(), tmp_path / "state")
    expected = torch.rand(3), torch.randint(9, (3,))
    rng.restore(load_state(tmp_path / "state"))
    assert torch.equal(torch.rand(3), expected[0]) and torch.equal(torch.randint(9, (3,)), expected[1])


def test_an_object_is_refused_when_it_is_saved(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="cannot hold a PosixPath"):
        save_state({"a": [tmp_path]}, tmp_path / "state")


@pytest.mark.parametrize("content", [b"", b"{}", pickle.dumps({"a": 1}), b"\x08" + bytes(7) + b"{}      "])
def test_another_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state").write_bytes(content)
    with pytest.raises(UserError, match=r"state is not a file of a resume point .*--force NODE"):
        load_state(tmp_path / "state")


@pytest.mark.parametrize(
    "structure", ['{"Path": {}}', '{"dtype": "load"}', '{"tensor": "9"}', '{"dict": 3}', "{", '{"a": 1, "b": 2}']
)
def test_what_is_not_written_here_is_not_read(tmp_path: Path, structure: str) -> None:
    save_file({}, tmp_path / "state", {"state": structure})
    with pytest.raises(UserError, match="is not a file of a resume point"):
        load_state(tmp_path / "state")


def test_numbers_of_any_size_come_back(tmp_path: Path) -> None:
    values: list[Any] = [2**80, float("inf"), -0.0, 1e-320, "ß\u2028"]
    save_state(values, tmp_path / "state")
    assert load_state(tmp_path / "state") == values

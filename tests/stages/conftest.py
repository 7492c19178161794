"""A mirror of the hub, for the tests of published and of adopted checkpoints."""

from pathlib import Path

import pytest
import torch


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path / "mirror"
    monkeypatch.setenv("ALMA_PIPELINE_MIRROR", str(folder))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return folder

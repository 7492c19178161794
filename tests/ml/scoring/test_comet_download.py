"""One COMET model downloaded on several machines at once."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from alma_pipeline.ml.scoring import comet
from alma_pipeline.ml.scoring.comet import sole_download
from alma_pipeline.mounts import Reach
from alma_pipeline.schema import Hardware, Neural


@pytest.mark.parametrize(
    ("found", "expected"), [(Reach.ALL, []), (Reach.UNKNOWN, ["comet.lock", "comet.lock.beat-1"])], ids=["all", "unknown"]
)
def test_a_model_is_downloaded_while_no_other_machine_does(
    found: Reach, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """huggingface_hub 0.36.2 would append both downloads to one file: it runs under the lease."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(comet, "reach", lambda cache: found)
    seen: list[str] = []

    def run(words: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        seen.extend(sorted(file.name for file in (tmp_path / "hub").glob("*")))
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(subprocess, "run", run)
    comet.download(Neural(model="wmt22-comet-da"), Hardware(name="x", comet_python=sys.executable))
    assert seen == expected


def test_a_cache_that_is_read_only_takes_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comet, "reach", lambda cache: Reach.UNKNOWN)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everything
    with sole_download(tmp_path):
        assert list(tmp_path.iterdir()) == []

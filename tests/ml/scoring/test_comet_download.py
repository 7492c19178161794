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


def test_a_worker_finds_its_model_while_no_other_machine_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub 0.36.2 would append both downloads to one file. The model is looked for under the lease, not before it."""
    stand_in = tmp_path / "worker.py"
    stand_in.write_text("import json; print(json.dumps({'reference': True, 'joint': False, 'revision': 'r', 'comet': '1'}))\n")
    monkeypatch.setattr(comet, "WORKER", stand_in)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    seen: list[str] = []
    popen = subprocess.Popen

    def start(words: list[str], **options: Any) -> Any:
        seen.extend(sorted(file.name for file in (tmp_path / "hub").glob("*")))
        return popen(words, **options)

    monkeypatch.setattr(subprocess, "Popen", start)
    metric = Neural(model="wmt22-comet-da")
    for found, expected in ((Reach.ALL, []), (Reach.UNKNOWN, ["comet.lock", "comet.lock.beat-1"])):
        monkeypatch.setattr(comet, "reach", lambda cache, found=found: found)
        comet.CometWorker(metric, Hardware(name="x", comet_python=sys.executable)).close()
        assert seen == expected


def test_a_cache_that_is_read_only_takes_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comet, "reach", lambda cache: Reach.UNKNOWN)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everything
    with sole_download(tmp_path):
        assert list(tmp_path.iterdir()) == []

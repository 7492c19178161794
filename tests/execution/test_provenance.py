"""What a record says of its origin: no credential of the person, and an instant."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alma_pipeline import instants
from alma_pipeline.execution import provenance

CANARY = "canary-0d11f7"


def test_no_credential_is_in_the_provenance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """B42: the value of a secret variable in the command, and the userinfo of the checkout's remote."""
    monkeypatch.setenv("HF_TOKEN", CANARY)
    monkeypatch.setattr(sys, "argv", ["alma-pipeline", f"note={CANARY}"])
    for words in (["init", "-q"], ["remote", "add", "origin", "https://me:another-secret@host/r.git"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(tmp_path), *identity, "commit", "-qm", "x", "--allow-empty"], check=True)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    found = provenance.capture()
    assert found["git"]["remote"] == "https://<redacted>@host/r.git"
    assert found["argv"] == ["alma-pipeline", "note=<redacted>"]
    assert CANARY not in json.dumps(found) and "another-secret" not in json.dumps(found)
    assert found["time"].endswith("+00:00") and abs(instants.parse(found["time"]).timestamp() - time.time()) < 60

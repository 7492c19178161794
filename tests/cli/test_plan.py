"""`plan` names what the run would need and this machine lacks."""

from pathlib import Path

import pytest

from alma_pipeline.cli import plan
from alma_pipeline.cli.arguments import parse

COMET = ("evaluation.comet.models=[comet-22]", "evaluation.comet.python=/nowhere/python")


def test_a_missing_environment_of_comet_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The plan is printed all the same: the run may be on another machine."""
    monkeypatch.setenv("ALMA_PIPELINE_STORE", str(tmp_path / "store"))
    assert plan.main(parse(["plan", "stage=base", *COMET])) == 0
    shown = capsys.readouterr().out
    assert "base.translate+score" in shown and "missing on this machine: COMET runs in its own environment" in shown
    assert "/nowhere/python" in shown
    assert plan.main(parse(["plan", "stage=base"])) == 0
    assert "missing on this machine" not in capsys.readouterr().out

"""The verb `data`: text is prepared and shown, nothing is trained."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.text_files import json_lines, nested


@pytest.mark.slow
def test_one_example_of_each_stage_with_its_mask(tmp_path: Path) -> None:
    json_lines(tmp_path / "deen" / "train.de-en.json", nested(400))
    json_lines(tmp_path / "deen" / "valid.de-en.json", nested(20, 1000))
    own = [
        "stage=parallel",
        "data=alma",
        f"data.root={tmp_path}",
        "directions=de-en",
        "model=tiny",
        "hardware=cpu",
        "tracking=none",
    ]
    own += ["budget=demo", "stages.parallel.inputs.init=base", "evaluation.checkpoints=[]", "evaluation.controls={}"]
    own += ["stages.base.text.reader=cldr", "stages.base.text.revision=2.18.0"]
    environment = os.environ | {"ALMA_PIPELINE_STORE": str(tmp_path / "store")}
    command = [sys.executable, "-m", "alma_pipeline", "data", *own]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    shown = done.stdout.replace("|", "")
    assert "parallel, from parallel_corpus" in shown
    assert re.search(r"no loss +<s>Translate this from German to English:⏎German: Das Haus mit .*⏎English:$", shown, re.MULTILINE)
    assert re.search(r"^  loss +The house with the number \d+ is small and green\.</s>$", shown, re.MULTILINE)
    kinds = {path.name.rpartition("-")[0] for path in (tmp_path / "store" / "artifacts").iterdir()}
    assert kinds == {"base", "parallel_corpus"}

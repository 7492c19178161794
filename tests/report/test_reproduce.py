"""The commands on the page that compute a neural score again."""

import dataclasses
import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from alma_pipeline.ml.scoring.sacrebleu_metrics import measure
from alma_pipeline.report import page
from alma_pipeline.report.content import Report
from alma_pipeline.report.reproduce import rescore_command
from alma_pipeline.schema.metrics import METRICS
from alma_pipeline.store.store import Store

SIGNATURE = "Unbabel/wmt22-comet-da@0123abc|reference:yes|precision:fp16|comet:2.2.7"
FAKES = {
    "hf": 'echo "/hub/$2/$4"',
    "comet-score": 'printf "%s\\n" "$@" > "$TMPDIR/words"',
    "sacrebleu": 'python -m sacrebleu "$@"',
}
"""What the shell finds instead of the commands that need a model."""


def test_the_command_for_each_kind_of_signature() -> None:
    comet_score = 'comet-score --model "$(hf download Unbabel/wmt22-comet-da --revision 0123abc --quiet)/checkpoints/model.ckpt"'
    files = '-s "$out/source" -t "$out/hypothesis"'
    assert rescore_command("comet-22", SIGNATURE) == f'{comet_score} {files} -r "$out/reference"'
    assert rescore_command("comet-22", SIGNATURE.replace("yes", "no")) == f"{comet_score} {files}"
    mine = rescore_command("mine", "sha256:77aa|reference:no|precision:fp32|comet:2.2.7")
    assert (
        mine == f"comet-score --model MODEL.ckpt {files} # MODEL.ckpt: the file with sha256:77aa; "
        "computes in fp16; the score was computed in fp32"
    )
    assert rescore_command("quality", "quality:1") == ""


@pytest.mark.parametrize("metric", [name for name in METRICS if not METRICS[name].needs])
@pytest.mark.parametrize("tokenizer", ["13a", "zh"])
def test_the_sacrebleu_command_computes_the_score_of_its_signature(tmp_path: Path, metric: str, tokenizer: str) -> None:
    references, hypotheses = ["我们看见 the cat .", "a second line here"], ["我们看 the cat !", "a second line there"]
    for part, lines in (("reference", references), ("hypothesis", hypotheses)):
        (tmp_path / part).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    found = measure(metric, tokenizer, hypotheses, references)
    words = rescore_command(metric, found.signature).replace("sacrebleu", f"{sys.executable} -m sacrebleu", 1)
    shell = ["bash", "-c", f"{words} -w 10"]
    done = subprocess.run(shell, env=os.environ | {"out": str(tmp_path)}, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert report["score"] == round(found.score, 10) and report["signature"] == found.signature


def test_the_script_on_the_page_writes_what_comet_score_reads(report: Report, finished: Store, tmp_path: Path) -> None:
    """It runs as it stands, in the folder it names."""
    boards = [dataclasses.replace(board, metric="comet-22", signature=SIGNATURE) for board in report.boards[-1:]]
    shown = page.render(dataclasses.replace(report, boards=[*report.boards, *boards * 2], curves=[]))
    scripts = re.findall(r"<pre><code>(out=.*?)</code></pre>", shown, re.DOTALL)
    assert len(scripts) == 1 and scripts[0].count("comet-score") == 1, "two test sets need it once"
    for name, text in FAKES.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    path = os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "TMPDIR": str(tmp_path)}
    subprocess.run(["bash", "-euc", html.unescape(scripts[0])], cwd=finished.root / "artifacts", env=environment, check=True)
    words = (tmp_path / "words").read_text().splitlines()
    assert words[:2] == ["--model", "/hub/Unbabel/wmt22-comet-da/0123abc/checkpoints/model.ckpt"]
    source = report.sources[-1]
    lines = (finished.root / "artifacts" / source.hypotheses / "hypotheses.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["direction"] == source.directions[0]]
    for flag, part in (("-s", "source"), ("-t", "hypothesis"), ("-r", "reference")):
        written = Path(words[words.index(flag) + 1]).read_text(encoding="utf-8")
        assert written == "".join(f"{row[part]}\n" for row in rows) and len(rows) == 12


def test_a_page_without_neural_scores_has_no_command_for_one(report: Report) -> None:
    assert "hf download" not in page.render(dataclasses.replace(report, curves=[]))

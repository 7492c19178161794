"""The commands on the page that compute a neural score again."""

import dataclasses
import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from alma_pipeline.report import page
from alma_pipeline.report.content import Content
from alma_pipeline.report.recompute import comet_score, expression
from alma_pipeline.store.store import Store

SIGNATURE = "Unbabel/wmt22-comet-da@0123abc|reference:yes|precision:fp16|comet:2.2.7"
FAKES = {
    "hf": 'echo "/hub/$2/$4"',
    "comet-score": 'printf "%s\\n" "$@" > "$TMPDIR/words"',
}
"""What the shell finds instead of the commands that need a model."""


def test_the_command_for_each_kind_of_signature() -> None:
    told = 'comet-score --model "$(hf download Unbabel/wmt22-comet-da --revision 0123abc --quiet)/checkpoints/model.ckpt"'
    files = '-s "$out/source" -t "$out/hypothesis"'
    assert comet_score(SIGNATURE) == f'{told} {files} -r "$out/reference"'
    assert comet_score(SIGNATURE.replace("yes", "no")) == f"{told} {files}"
    mine = comet_score("sha256:77aa|reference:no|precision:fp32|comet:2.2.7")
    assert (
        mine == f"comet-score --model MODEL.ckpt {files} # MODEL.ckpt: the file with sha256:77aa; in fp16; the score is of fp32"
    )
    assert comet_score("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0") == comet_score("quality:1") == ""
    assert expression("comet-22", SIGNATURE) == ""


def test_the_script_on_the_page_writes_what_comet_score_reads(told: Content, finished: Store, tmp_path: Path) -> None:
    """It runs as it stands, in the folder it names."""
    boards = [dataclasses.replace(board, metric="comet-22", signature=SIGNATURE) for board in told.boards[-1:]]
    shown = page.render(dataclasses.replace(told, boards=[*told.boards, *boards * 2], curves=[]))
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
    source = told.sources[-1]
    lines = (finished.root / "artifacts" / source.hypotheses / "hypotheses.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["direction"] == source.directions[0]]
    for flag, part in (("-s", "source"), ("-t", "hypothesis"), ("-r", "reference")):
        written = Path(words[words.index(flag) + 1]).read_text(encoding="utf-8")
        assert written == "".join(f"{row[part]}\n" for row in rows) and len(rows) == 12


def test_a_page_without_neural_scores_speaks_of_none(told: Content) -> None:
    assert "comet-score" not in page.render(dataclasses.replace(told, curves=[]))

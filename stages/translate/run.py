"""Translate a test corpus with a checkpoint, by beam search, greedily, or by ranking samples."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from alma_pipeline.errors import UserError
from alma_pipeline.job import Job
from alma_pipeline.ml.decoding import hypotheses
from alma_pipeline.ml.decoding.hypotheses import Hypothesis
from stages.translate.config import Config


def run(job: Job) -> dict[str, Any]:
    """Inputs: `checkpoint`; `test`, a corpus of sentence pairs; for few-shot prompts `examples`, another corpus.

    Writes `hypotheses.jsonl`, in the order of the test.
    """
    config: Config = job.config
    hypotheses.init_process_group(job)
    rows = _rows(Path(job.inputs["test"].path) / "test.jsonl", config)
    load = partial(hypotheses.load_single_checkpoint, job, job.inputs["checkpoint"])
    made = hypotheses.translate_rows(job, [(row["direction"], row["source"]) for row in rows], load)
    if made is None:
        return {}
    _write(job.out / "hypotheses.jsonl", rows, made.found)
    return {
        "sentences": len(rows),
        "output_tokens": sum(hypothesis.tokens for hypothesis in made.found),
        "seconds": made.seconds,
        "sources_cut": len(made.cut),
        "outputs_at_limit": made.at_limit,
        **made.lowered,
        **({"ranked_by": made.signatures} if made.signatures else {}),
        **({"engine": made.engine} if made.engine else {}),
    }


def _rows(path: Path, config: Config) -> list[dict[str, str]]:
    """The test sentences in directions between this node's languages. Raises UserError if there are none."""
    with open(path, encoding="utf-8") as file:
        found = [json.loads(line) for line in file]
    rows = [row for row in found if set(row["direction"].split("-")) <= set(config.languages)]
    if not rows:
        directions = ", ".join(sorted({row["direction"] for row in found})) or "none"
        raise UserError(
            f"the test corpus has no direction between {', '.join(config.languages)}; it has {directions}. "
            "Choose languages of the corpus, or another corpus."
        )
    return rows


def _write(path: Path, rows: list[dict[str, str]], found: list[Hypothesis]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for line in _lines(rows, found):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _lines(rows: list[dict[str, str]], found: list[Hypothesis]) -> Iterator[dict[str, Any]]:
    for row, hypothesis in zip(rows, found, strict=True):
        kept = {name: row[name] for name in ("id", "direction", "source")}
        yield kept | {"reference": row["target"], "hypothesis": hypothesis.text, "truncated": hypothesis.truncated}

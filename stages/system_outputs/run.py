"""Reads another system's outputs from files and matches them to the sentences of a test corpus."""

import json
from pathlib import Path
from typing import Any

from alma_pipeline.errors import UserError
from alma_pipeline.job import Job
from alma_pipeline.ml.data.rows import directions
from alma_pipeline.ml.data.system_outputs import SystemOutputs
from stages.system_outputs.config import Config


def run(job: Job) -> dict[str, Any]:
    """Input: `test`, a corpus of sentence pairs. Writes `hypotheses.jsonl` in the order of the test, for
    directions with outputs. Raises UserError if there are none.
    """
    config: Config = job.config
    ((system, source),) = config.system_outputs.items()
    outputs = SystemOutputs(system, source, config.languages, job)
    rows = _rows(Path(job.inputs["test"].path) / "test.jsonl", config.directions or directions(config.languages))
    # A system may have outputs in some directions only; the others are reported as missing.
    found: dict[str, list[str]] = {}
    for direction, own in rows.items():
        if texts := outputs.aligned(direction, [row["source"] for row in own], [row["id"] for row in own]):
            found[direction] = texts
    if not found:
        raise UserError(
            f"evaluation.outputs.{system}: no output in any direction of the test ({', '.join(rows)}); "
            "add some, or remove the system"
        )
    _write(job.out / "hypotheses.jsonl", {direction: rows[direction] for direction in found}, found)
    return {
        "sentences": sum(map(len, found.values())),
        "missing": [direction for direction in rows if direction not in found],
        "unused": dict(outputs.unused),
    }


def _rows(path: Path, wanted: list[str]) -> dict[str, list[dict[str, str]]]:
    """The test sentences by direction."""
    found: dict[str, list[dict[str, str]]] = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            if row["direction"] in wanted:
                found.setdefault(row["direction"], []).append(row)
    return found


def _write(path: Path, rows: dict[str, list[dict[str, str]]], found: dict[str, list[str]]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for direction, own in rows.items():
            for row, hypothesis in zip(own, found[direction], strict=True):
                kept = {name: row[name] for name in ("id", "direction", "source")}
                line = kept | {"reference": row["target"], "hypothesis": hypothesis}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")

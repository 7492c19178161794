"""Score a translate node's hypotheses by direction, with averages and signatures."""

import json
from pathlib import Path
from typing import Any

from alma_pipeline.errors import UserError
from alma_pipeline.job import Job
from alma_pipeline.ml import metrics
from alma_pipeline.ml.metrics import Scores, Translation
from stages.score.config import Config


def run(job: Job) -> dict[str, Any]:
    """Input: `hypotheses`. Leaves `scores.json`, which says what the result says."""
    config: Config = job.config
    translations = _read(Path(job.inputs["hypotheses"].path) / "hypotheses.jsonl")
    scores = {direction: _score(found, direction, config) for direction, found in translations.items()}
    result = {
        "directions": {direction: value.plain() for direction, value in scores.items()},
        "averages": metrics.averages(scores),
        "signatures": {
            "chrf++": next(iter(scores.values())).chrf_signature,
            "bleu": {direction: value.bleu_signature for direction, value in scores.items()},
        },
        "newlines": sum(value.newlines for value in scores.values()),
    }
    if job.rank == 0:
        text = json.dumps(result, indent=1, ensure_ascii=False)
        (job.out / "scores.json").write_text(text + "\n", encoding="utf-8")
    return result


def _read(path: Path) -> dict[str, list[Translation]]:
    """Translations by direction, in the order in which the directions first appear."""
    found: dict[str, list[Translation]] = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            item = Translation(row["direction"], row["source"], row["reference"], row["hypothesis"])
            found.setdefault(item.direction, []).append(item)
    if not found:
        raise UserError(f"{path} holds no hypotheses; expected at least one line")
    return found


def _score(found: list[Translation], direction: str, config: Config) -> Scores:
    target = direction.split("-")[1]
    if target not in config.languages:
        raise UserError(
            f"the hypotheses hold {direction}, but this node's languages are {', '.join(config.languages)}: "
            f"nothing says how to tokenise {target} for BLEU"
        )
    return metrics.score(found, config.languages[target].tokenizer)

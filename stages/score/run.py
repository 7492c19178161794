"""Scores a translate node's hypotheses by direction; `config.py` documents the results."""

import json
from pathlib import Path
from typing import Any

from alma_pipeline.errors import UserError
from alma_pipeline.job import Job
from alma_pipeline.ml.data.prompts import one_line
from alma_pipeline.ml.scoring import comet, metrics
from alma_pipeline.ml.scoring.comet import CometSegment
from alma_pipeline.ml.scoring.metrics import DirectionScores, ScorableTranslation
from alma_pipeline.ml.scoring.sacrebleu_metrics import MetricResult
from alma_pipeline.ml.scoring.segment_cache import SegmentCache
from alma_pipeline.schema.metrics import METRICS, bleu_tokenizer, not_scored
from stages.score.config import Config


def run(job: Job) -> dict[str, Any]:
    """Input: `hypotheses`. Writes `scores.json`, equal to the returned result, and `segments.jsonl`."""
    config: Config = job.config
    rows = _read(Path(job.inputs["hypotheses"].path) / "hypotheses.jsonl")
    directions = {direction: [row for row in rows if row["direction"] == direction] for direction in _directions(rows)}
    scores = {direction: _score(found, direction, config) for direction, found in directions.items()}
    # Neural metrics are added to the finished scores: each loads its model once, for all directions.
    cut = {name: _add_neural(job, name, rows, scores) for name in config.comet}
    result: dict[str, Any] = {
        "directions": {direction: value.plain() for direction, value in scores.items()},
        "averages": metrics.averages(scores),
        "signatures": metrics.signatures(scores),
        "lower_is_better": sorted(name for name in config.metrics if METRICS[name].lower_is_better),
        "languages": {direction: value.languages() for direction, value in scores.items()},
        "unscored": _unscored(list(directions), config),
        "cut": cut,
        "newlines": sum(value.newlines for value in scores.values()),
    }
    if job.rank == 0:
        text = json.dumps(result, indent=1, ensure_ascii=False)
        (job.out / "scores.json").write_text(text + "\n", encoding="utf-8")
        _write_segments(job.out / "segments.jsonl", rows, scores)
    return result


def _read(path: Path) -> list[dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    if not rows:
        raise UserError(f"{path} has no hypotheses; expected at least one line")
    return rows


def _directions(rows: list[dict[str, Any]]) -> list[str]:
    """The directions, in the order in which they first appear."""
    return list(dict.fromkeys(row["direction"] for row in rows))


def _score(rows: list[dict[str, Any]], direction: str, config: Config) -> DirectionScores:
    target = direction.split("-")[1]
    if target not in config.languages:
        raise UserError(
            f"the hypotheses contain {direction}, but this node's languages are {', '.join(config.languages)}: "
            f"the BLEU tokenizer of {target} is unknown; score with the languages of the translate node"
        )
    found = [
        ScorableTranslation(direction, row["source"], row["reference"], row["hypothesis"], row.get("truncated")) for row in rows
    ]
    language = config.languages[target]
    names = [name for name in config.metrics if not not_scored(name, language)]
    return metrics.score(found, bleu_tokenizer(language), names)


def _unscored(directions: list[str], config: Config) -> dict[str, dict[str, str]]:
    """Metric to direction to the reason why the metric means nothing there."""
    found = {
        name: {pair: reason for pair in directions if (reason := not_scored(name, config.languages[pair.split("-")[1]]))}
        for name in config.metrics
    }
    return {name: reasons for name, reasons in found.items() if reasons}


def _add_neural(job: Job, name: str, rows: list[dict[str, Any]], scores: dict[str, DirectionScores]) -> dict[str, int]:
    """Add one neural metric to the `scores` of all directions. Returns the number of truncated segments by direction."""
    found = [CometSegment(row["source"], one_line(row["hypothesis"])[0], row["reference"]) for row in rows]
    cache = SegmentCache(job.cache / "segment_scores.db")
    scorer = comet.with_local_model(job.config.scorers[name], job.files)
    scored = comet.score(scorer, found, job.hardware, cache, lambda done, total: job.log(done, total, {}))
    cut: dict[str, int] = {}
    for direction, value in scores.items():
        places = [place for place, row in enumerate(rows) if row["direction"] == direction]
        segments = [scored.scores[place] for place in places]
        # As in comet-score, the corpus score is the mean over segments.
        result = MetricResult(sum(segments) / len(segments), scored.signature, segments)
        scores[direction] = metrics.with_metric(value, name, result)
        cut[direction] = sum(scored.cut[place] for place in places)
    return cut


def _write_segments(path: Path, rows: list[dict[str, Any]], scores: dict[str, DirectionScores]) -> None:
    """Write one line per hypothesis, in the order of `rows`, in which directions may alternate."""
    lines = {direction: iter(value.segments()) for direction, value in scores.items()}
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            kept = {name: row[name] for name in ("id", "direction", "source", "reference")}
            line = kept | {"hypothesis": one_line(row["hypothesis"])[0]} | next(lines[row["direction"]])
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

"""A checkpoint's scores for its model card: tables with signatures, and results for the hub's `model-index`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alma_pipeline.report.caveats import unscored_notes
from alma_pipeline.report.names import arrow
from alma_pipeline.report.sides import find_side
from alma_pipeline.report.systems import ScoredCheckpoint
from alma_pipeline.schema.metrics import METRICS, metric_label, signature_parts, tokenizer
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

MEAN_LABELS = {"en-xx": "mean en→xx", "xx-en": "mean xx→en"}
NO_SCORE = "–"


@dataclass(frozen=True)
class ScoreTable:
    """A checkpoint's scores on one test set, as text."""

    test: str
    decoding: str
    columns: list[str]
    rows: list[list[str]]
    signatures: list[str]
    """Markdown, one line per metric and signature, with the command that computes the score; then why cells are empty."""
    without_mean: bool
    """Whether a metric has no mean: its scores have different signatures (B49), or a direction has none."""


def newest_evaluations(store: Store, record: Record) -> list[ScoredCheckpoint]:
    """For each test set the newest translations, and of their scores those with most metrics."""
    return [next(iter(seed.values())) for system in find_side(store.root, record.key).systems for seed in system.seeds]


def score_table(evaluation: ScoredCheckpoint) -> ScoreTable:
    """All metrics by direction, followed by means over directions into and out of English."""
    metrics = list(evaluation.result.get("signatures", {}))
    directions = evaluation.result["directions"]
    rows = [[arrow(direction), *_numbers(scores, metrics)] for direction, scores in directions.items()]
    # A mean over a single direction would repeat its row.
    averages = evaluation.result.get("averages", {})
    several = [part for part in MEAN_LABELS if part in averages and sum(_part(direction) == part for direction in directions) > 1]
    means = [[MEAN_LABELS[part], *_numbers(averages[part], metrics)] for part in several]
    columns = [f"{metric_label(metric)}{' ↓' if evaluation.lower_is_better(metric) else ''}" for metric in metrics]
    lines = [*_signatures(evaluation, metrics), *unscored_notes([evaluation])]
    lacking = any(NO_SCORE in row for row in means)
    return ScoreTable(evaluation.test_set, _decoding(evaluation), columns, rows + means, lines, lacking)


def _numbers(scores: dict[str, Any], metrics: list[str]) -> list[str]:
    return [NO_SCORE if scores.get(metric) is None else f"{scores[metric]:.1f}" for metric in metrics]


def _part(direction: str) -> str:
    return "en-xx" if direction.startswith("en-") else "xx-en"


def _signatures(evaluation: ScoredCheckpoint, metrics: list[str]) -> Iterator[str]:
    directions = list(evaluation.result["directions"])
    for metric in metrics:
        by_signature: dict[str, list[str]] = {}
        for direction in directions:
            by_signature.setdefault(evaluation.signature(direction, metric), []).append(arrow(direction))
        for signature, into in by_signature.items():
            if not signature:
                continue
            # Naming the directions is only useful if they differ in signature.
            where = f" ({', '.join(into)})" if len(by_signature) > 1 else ""
            lower = ", lower is better" if evaluation.lower_is_better(metric) else ""
            yield f"{metric_label(metric)}{where}{lower}: `{signature}`{_command(metric, signature)}"


def _command(metric: str, signature: str) -> str:
    if metric not in METRICS:
        return ", times 100" if "comet" in signature_parts(signature) else ""
    return f"; `sacrebleu REFERENCE -i HYPOTHESIS {METRICS[metric].command(tokenizer(signature))}`"


def _decoding(evaluation: ScoredCheckpoint) -> str:
    """A description of how the hypotheses were decoded."""
    config = decoding_settings(evaluation)
    beams, samples, shots = config.get("num_beams", 1), config.get("candidates", 16), config.get("num_shots", 0)
    searched = "greedy decoding" if beams == 1 else f"beam search with {beams} beams"
    chosen = {
        "mbr": f"minimum Bayes risk decoding over {samples} samples",
        "quality": f"the best of {samples} samples by {', '.join(config.get('rank_by', []))}",
    }
    how = chosen.get(config.get("decoding", "beam"), searched)
    return f"{how}, {f'{shots} examples' if shots else 'no examples'} in the prompt"


def decoding_settings(evaluation: ScoredCheckpoint) -> dict[str, Any]:
    """The settings of the translate node; empty if its artifact is gone."""
    settings: dict[str, Any] = evaluation.translations.payload["config"] if evaluation.translations else {}
    return settings


def names_of_test_set(store: Store, evaluation: ScoredCheckpoint) -> set[str]:
    """The test set's repository and the sets that its source declares as overlapping."""
    pairs = _test(store, evaluation)
    return {name for name in (pairs.get("repo"), *pairs.get("trained_on", [])) if name}


def _test(store: Store, evaluation: ScoredCheckpoint) -> dict[str, Any]:
    test = store.find(evaluation.translations.payload["inputs"].get("test", "")) if evaluation.translations else None
    pairs: dict[str, Any] = test.payload["config"].get("pairs", {}) if test else {}
    return pairs


def hub_results(store: Store, evaluations: list[ScoredCheckpoint]) -> "Iterator[EvalResult]":
    """The scores in the hub's format: one result for each test set, direction and metric."""
    from huggingface_hub import EvalResult

    # `signatures` names the metrics; the other numbers of a direction are guards, which the hub does not know.
    for evaluation in evaluations:
        pairs = _test(store, evaluation)
        for direction, scores in evaluation.result["directions"].items():
            for metric in evaluation.result.get("signatures", {}):
                if scores.get(metric) is not None:
                    signature = evaluation.signature(direction, metric)
                    yield EvalResult(
                        task_type="translation",
                        task_name=f"Translation {arrow(direction)}",
                        dataset_type=pairs.get("repo") or pairs.get("reader") or "unknown",
                        dataset_name=evaluation.test_set,
                        dataset_config=direction,
                        dataset_split=pairs.get("split"),
                        dataset_revision=pairs.get("revision"),
                        metric_type=_hub_type(metric, signature),
                        metric_name=metric_label(metric),
                        metric_value=round(scores[metric], 2),
                        metric_args={"signature": signature} if signature else None,
                    )


def _hub_type(metric: str, signature: str) -> str:
    """The metric's id on the hub: chrf, bleu, ter or comet; our own name for others."""
    if metric in METRICS:
        return METRICS[metric].type.lower()
    return "comet" if "comet" in signature_parts(signature) else metric

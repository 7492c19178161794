"""Score tables as data: systems as columns, directions as rows, each score with its difference from the baseline and a verdict.

Page, paper and terminal each format these numbers in their own way.
"""

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from alma_pipeline.report.significance import LEVEL, SACREBLEU, PairedTests, SignificanceResult, seed_test, segment_test
from alma_pipeline.report.systems import ScoredCheckpoint, System, one_line, variant_settings
from alma_pipeline.schema.metrics import METRICS, metric_label

VERDICTS = ("better", "worse", "tie")
ENGLISH_SIDES = {"en→xx": "mean out of English", "xx→en": "mean into English", "xx→xx": "mean between others"}
"""Sides of English. Each has its own mean: translating into and out of English are different tasks."""


@dataclass(frozen=True)
class Cell:
    """A system's score or its mean over directions, compared with its baseline."""

    value: float
    spread: float | None = None
    """Standard deviation over seeds."""
    seeds: int = 1
    delta: float | None = None
    p: float | None = None
    test: str = ""
    """The kind of test that gave `p`; see `significance.SignificanceResult`."""
    wins: float | None = None
    """Neural metrics only; see `significance.SignificanceResult`."""
    verdict: str = ""
    """better | worse | tie; empty if nothing was compared."""
    tally: dict[str, int] = field(default_factory=dict)
    """Means only, which are not tested: number of directions by verdict."""
    covers: str = ""
    """Means only: `4 of 8` if the system lacks some of the table's directions."""


@dataclass(frozen=True)
class ScoreRow:
    """One direction or mean, with a cell per system."""

    name: str
    cells: list[Cell | None]
    mean: bool = False


@dataclass(frozen=True)
class Board:
    """One metric with one signature on one test set: only such scores are comparable (B49)."""

    test: str
    metric: str
    signature: str
    systems: list[System]
    rows: list[ScoreRow]
    higher_is_better: bool = True

    def best(self, cells: list[Cell | None]) -> float | None:
        """The best value of a row; means over only some of the directions do not compete. None for an empty row."""
        values = [cell.value for cell in cells if cell and not cell.covers]
        return (max if self.higher_is_better else min)(values) if values else None


def kinds_of_tests(rows: Iterable[list[Cell | None]]) -> set[str]:
    """The kinds of tests behind these scores."""
    return {cell.test for cells in rows for cell in cells if cell and cell.test}


def tab_names(boards: list[Board]) -> list[str]:
    """A name per board: `BLEU`; `BLEU into zh` if the metric has several signatures; with the test set if there are several."""
    several = len({board.test for board in boards}) > 1
    names = []
    for board in boards:
        alike = [other for other in boards if (other.metric, other.test) == (board.metric, board.test)]
        into = ", ".join(dict.fromkeys(row.name.rpartition("-")[2] for row in board.rows if not row.mean))
        name = f"{metric_label(board.metric)} into {into}" if len(alike) > 1 else metric_label(board.metric)
        names.append(f"{name} · {board.test}" if several else name)
    return names


def build_boards(systems: list[System], tests: PairedTests) -> list[Board]:
    """A board for each test set, metric and signature: test sets sorted, metrics in the order of the scores."""
    places = dict.fromkeys(
        (system.test, metric, evaluation.signature(direction, metric))
        for system in systems
        for seed in system.seeds
        for direction, evaluation in seed.items()
        for metric in evaluation.result.get("signatures", {})
        if evaluation.score(direction, metric) is not None
    )
    metrics = list(dict.fromkeys(metric for _, metric, _ in places))
    ordered = sorted(places, key=lambda place: (place[0], metrics.index(place[1])))
    return [_board(test, metric, signature, systems, tests) for test, metric, signature in ordered]


def _board(test: str, metric: str, signature: str, systems: list[System], tests: PairedTests) -> Board:
    columns = [_restricted(system, metric, signature) for system in systems if system.test == test]
    columns = [system for system in columns if system.seeds]
    directions = list(dict.fromkeys(direction for system in columns for direction in system.directions))
    baselines = [_baseline(system, columns) for system in columns]
    rows = [
        ScoreRow(
            direction, [_cell(system, base, direction, metric, tests) for system, base in zip(columns, baselines, strict=True)]
        )
        for direction in directions
    ]
    # All evaluations in a column share the metric, so the first system answers for the board.
    lower = any(evaluation.lower_is_better(metric) for evaluation in columns[0].seeds[0].values())
    return Board(test, metric, signature, columns, [*_means(rows, columns, metric), *rows], not lower)


def _restricted(system: System, metric: str, signature: str) -> System:
    """The system with only those evaluations that have the metric with this signature."""
    seeds = [
        {direction: evaluation for direction, evaluation in seed.items() if _has(evaluation, direction, metric, signature)}
        for seed in system.seeds
    ]
    return replace(system, seeds=[seed for seed in seeds if seed])


def _has(evaluation: ScoredCheckpoint, direction: str, metric: str, signature: str) -> bool:
    return evaluation.score(direction, metric) is not None and evaluation.signature(direction, metric) == signature


def _baseline(system: System, columns: list[System]) -> System | None:
    """The column of a system's baseline: the same variant, else the one that shares most settings with it, else the only one."""
    named = [column for column in columns if column.name == system.baseline]
    own = [column for column in named if variant_settings(column.variant) <= variant_settings(system.variant)]
    return max(own, key=lambda column: len(variant_settings(column.variant)), default=named[0] if len(named) == 1 else None)


def _cell(system: System, baseline: System | None, direction: str, metric: str, tests: PairedTests) -> Cell | None:
    values = system.values(direction, metric)
    if not values:
        return None
    theirs = baseline.values(direction, metric) if baseline else []
    cell = Cell(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))
    if not theirs or baseline is None:
        return cell
    # With several seeds the variation between seeds counts; with one, that between sentences.
    several = len(values) > 1 or len(theirs) > 1
    found = seed_test(values, theirs) if several else _paired(system, baseline, direction, metric, tests)
    delta = cell.value - statistics.fmean(theirs)
    if found is None:
        return replace(cell, delta=delta)
    ours = system.first(direction)
    better = delta < 0 if ours and ours.lower_is_better(metric) else delta > 0
    # sacrebleu's p-value is how often chance makes a larger difference, so equal scores get the smallest: they tie regardless.
    verdict = "tie" if found.p >= LEVEL or delta == 0 else "better" if better else "worse"
    return replace(cell, delta=delta, p=found.p, test=found.kind, wins=found.wins, verdict=verdict)


def _paired(system: System, baseline: System, direction: str, metric: str, tests: PairedTests) -> SignificanceResult | None:
    ours, theirs = system.first(direction), baseline.first(direction)
    return compare_direction(theirs, ours, direction, metric, tests) if ours and theirs else None


def compare_direction(
    one: ScoredCheckpoint, other: ScoredCheckpoint, direction: str, metric: str, tests: PairedTests
) -> SignificanceResult | None:
    """Test `other` against the baseline `one`; None if they did not translate the same segments or have no segment scores."""
    theirs, ours = one.segments.get(direction, []), other.segments.get(direction, [])
    references = [row["reference"] for row in ours]
    if not ours or [(row["source"], row["reference"]) for row in theirs] != [(row["source"], row["reference"]) for row in ours]:
        return None
    # A metric that is not sacrebleu's has only its segment scores to resample.
    if metric not in METRICS:
        scores = [[row["scores"][metric] for row in rows if metric in row.get("scores", {})] for rows in (theirs, ours)]
        return segment_test(*scores) if len(scores[0]) == len(scores[1]) == len(ours) else None
    baseline, hypotheses = ([one_line(row["hypothesis"]) for row in rows] for rows in (theirs, ours))
    return SignificanceResult(
        tests.p_value(metric, other.signature(direction, metric), baseline, hypotheses, references), SACREBLEU
    )


def _means(rows: list[ScoreRow], columns: list[System], metric: str) -> Iterator[ScoreRow]:
    for part in ENGLISH_SIDES:
        chosen = [row for row in rows if english_side(row.name) == part]
        if chosen:
            yield ScoreRow(part, [_mean(chosen, place, system, metric) for place, system in enumerate(columns)], mean=True)


def english_side(direction: str) -> str:
    """`en→xx`, `xx→en` or `xx→xx`."""
    source, _, target = direction.partition("-")
    return f"{'en' if source == 'en' else 'xx'}→{'en' if target == 'en' else 'xx'}"


def _mean(rows: list[ScoreRow], place: int, system: System, metric: str) -> Cell | None:
    """A system's mean over those of the rows that it has; the difference is the mean of the directions' differences."""
    cells = [cell for row in rows if (cell := row.cells[place])]
    if not cells:
        return None
    deltas = [cell.delta for cell in cells if cell.delta is not None]
    # The spread compares like with like: only seeds that have all of the directions count.
    directions = [row.name for row in rows if row.cells[place]]
    seeds = [statistics.fmean(_known(seed, directions, metric)) for seed in system.seeds if set(directions) <= set(seed)]
    return Cell(
        statistics.fmean(cell.value for cell in cells),
        spread=statistics.stdev(seeds) if len(seeds) > 1 else None,
        seeds=min(cell.seeds for cell in cells),
        delta=statistics.fmean(deltas) if deltas else None,
        covers="" if len(cells) == len(rows) else f"{len(cells)} of {len(rows)}",
        tally=_tally(cells),
    )


def _known(seed: dict[str, ScoredCheckpoint], directions: list[str], metric: str) -> list[float]:
    found = (seed[direction].score(direction, metric) for direction in directions)
    return [value for value in found if value is not None]


def _tally(cells: list[Cell]) -> dict[str, int]:
    counts = {name: sum(cell.verdict == name for cell in cells) for name in VERDICTS}
    return {name: count for name, count in counts.items() if count}

"""Scores side by side: systems as columns, directions as rows, each score with its difference and whether that is chance.

Numbers only; pages, papers and terminals each write them in their own way.
"""

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from alma_pipeline.report.significance import LEVEL, SACREBLEU, PairedTests, SignificanceResult, seed_test, segment_test
from alma_pipeline.report.systems import ScoredCheckpoint, System, one_line, variant_settings
from alma_pipeline.schema.metrics import METRICS, metric_label

VERDICTS = ("better", "worse", "tie")
ENGLISH_SIDES = {"en→xx": "mean out of English", "xx→en": "mean into English", "xx→xx": "mean between others"}
"""Never one mean over both sides: the two are not the same task."""


@dataclass(frozen=True)
class Cell:
    """A system's score, or its mean over directions, and how it stands to the system it was trained from."""

    value: float
    spread: float | None = None
    """Standard deviation over seeds."""
    seeds: int = 1
    delta: float | None = None
    p: float | None = None
    test: str = ""
    """The kind of test that `p` is of, see `significance.Chance`."""
    wins: float | None = None
    """Of a neural metric: see `significance.Chance`."""
    verdict: str = ""
    """better | worse | tie; empty where nothing was compared."""
    tally: dict[str, int] = field(default_factory=dict)
    """Of a mean, which is not tested itself: directions by verdict."""
    covers: str = ""
    """Of a mean: `4 of 8` directions, where a system has fewer than the table."""


@dataclass(frozen=True)
class ScoreRow:
    """A direction's scores, or a mean's, one for each system."""

    name: str
    cells: list[Cell | None]
    mean: bool = False


@dataclass(frozen=True)
class Board:
    """One metric of one signature on one test set: what may share a column (B49)."""

    test: str
    metric: str
    signature: str
    systems: list[System]
    rows: list[ScoreRow]
    higher_is_better: bool = True

    def best(self, cells: list[Cell | None]) -> float | None:
        """Of a row; a mean over some of the directions only does not compete with one over all."""
        values = [cell.value for cell in cells if cell and not cell.covers]
        return (max if self.higher_is_better else min)(values) if values else None


def kinds_of_tests(rows: Iterable[list[Cell | None]]) -> set[str]:
    """The kinds of tests behind these scores."""
    return {cell.test for cells in rows for cell in cells if cell and cell.test}


def tab_names(boards: list[Board]) -> list[str]:
    """`BLEU`, with the test set where there are several, and `BLEU into zh` where a metric has several signatures."""
    several = len({board.test for board in boards}) > 1
    names = []
    for board in boards:
        alike = [other for other in boards if (other.metric, other.test) == (board.metric, board.test)]
        into = ", ".join(dict.fromkeys(row.name.rpartition("-")[2] for row in board.rows if not row.mean))
        name = f"{metric_label(board.metric)} into {into}" if len(alike) > 1 else metric_label(board.metric)
        names.append(f"{name} · {board.test}" if several else name)
    return names


def build_boards(systems: list[System], tests: PairedTests) -> list[Board]:
    """One for each test set, metric and signature, in the order in which the scores name them."""
    places = dict.fromkeys(
        (system.test, metric, evaluation.signature(direction, metric))
        for system in systems
        for seed in system.seeds
        for direction, evaluation in seed.items()
        for metric in evaluation.result.get("signatures", {})
    )
    metrics = list(dict.fromkeys(metric for _, metric, _ in places))
    ordered = sorted(places, key=lambda place: (place[0], metrics.index(place[1])))
    return [_board(test, metric, signature, systems, tests) for test, metric, signature in ordered]


def _board(test: str, metric: str, signature: str, systems: list[System], tests: PairedTests) -> Board:
    columns = [_restricted(system, metric, signature) for system in systems if system.test == test]
    columns = [system for system in columns if system.seeds]
    directions = list(dict.fromkeys(direction for system in columns for direction in system.directions))
    parents = [_parent(system, columns) for system in columns]
    rows = [
        ScoreRow(
            direction, [_cell(system, parent, direction, metric, tests) for system, parent in zip(columns, parents, strict=True)]
        )
        for direction in directions
    ]
    lower = any(evaluation.lower_is_better(metric) for evaluation in columns[0].seeds[0].values())
    return Board(test, metric, signature, columns, [*_means(rows, columns, metric), *rows], not lower)


def _restricted(system: System, metric: str, signature: str) -> System:
    """The system's evaluations that have the metric by this signature."""
    seeds = [
        {direction: evaluation for direction, evaluation in seed.items() if _has(evaluation, direction, metric, signature)}
        for seed in system.seeds
    ]
    return replace(system, seeds=[seed for seed in seeds if seed])


def _has(evaluation: ScoredCheckpoint, direction: str, metric: str, signature: str) -> bool:
    return evaluation.score(direction, metric) is not None and evaluation.signature(direction, metric) == signature


def _parent(system: System, columns: list[System]) -> System | None:
    """The column of the system it was trained from: of the same variant, else one that it shares with other variants."""
    named = [column for column in columns if column.name == system.parent]
    own = [column for column in named if variant_settings(column.variant) <= variant_settings(system.variant)]
    return max(own, key=lambda column: len(variant_settings(column.variant)), default=named[0] if len(named) == 1 else None)


def _cell(system: System, parent: System | None, direction: str, metric: str, tests: PairedTests) -> Cell | None:
    values = system.values(direction, metric)
    if not values:
        return None
    theirs = parent.values(direction, metric) if parent else []
    cell = Cell(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))
    if not theirs or parent is None:
        return cell
    several = len(values) > 1 or len(theirs) > 1
    chance = seed_test(values, theirs) if several else _paired(system, parent, direction, metric, tests)
    delta = cell.value - statistics.fmean(theirs)
    ours = system.first(direction)
    better = delta < 0 if ours and ours.lower_is_better(metric) else delta > 0
    # Equal scores get the smallest p-value there is: sacrebleu asks how often chance makes a larger difference.
    if chance is None:
        return replace(cell, delta=delta)
    verdict = "tie" if chance.p >= LEVEL or delta == 0 else "better" if better else "worse"
    return replace(cell, delta=delta, p=chance.p, test=chance.kind, wins=chance.wins, verdict=verdict)


def _paired(system: System, parent: System, direction: str, metric: str, tests: PairedTests) -> SignificanceResult | None:
    ours, theirs = system.first(direction), parent.first(direction)
    return compare_direction(theirs, ours, direction, metric, tests) if ours and theirs else None


def compare_direction(
    one: ScoredCheckpoint, other: ScoredCheckpoint, direction: str, metric: str, tests: PairedTests
) -> SignificanceResult | None:
    """Of `other` against `one`; None where they did not translate the same segments."""
    theirs, ours = one.segments.get(direction, []), other.segments.get(direction, [])
    references = [row["reference"] for row in ours]
    if not ours or [(row["source"], row["reference"]) for row in theirs] != [(row["source"], row["reference"]) for row in ours]:
        return None
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
    """Over a system's directions; its difference is the mean of theirs."""
    cells = [cell for row in rows if (cell := row.cells[place])]
    if not cells:
        return None
    deltas = [cell.delta for cell in cells if cell.delta is not None]
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

"""Guard rates by system: failures that a good score can hide. Rates beyond their bounds are marked.

Aggregates what score nodes measured; `ml.scoring.guards` computes the flags themselves.
"""

import statistics
from dataclasses import dataclass

from alma_pipeline.report.jobs import ReportJob
from alma_pipeline.report.names import arrow
from alma_pipeline.report.systems import System, group_of


@dataclass(frozen=True)
class Guard:
    """A guard's label and bounds. Rates are percentages, except for the length ratio."""

    label: str
    low: float = 0.0
    high: float = 100.0
    """A rate below `low` or above `high` is marked (our choice)."""
    explained: str = ""


GUARDS = {
    "exact": Guard("equal to the reference %", explained="hypotheses equal to their reference; many suggest leaked test data"),
    "empty": Guard("empty %", high=1.0, explained="hypotheses without any text"),
    "copy": Guard("copied %", high=5.0, explained="hypotheses equal to their source, unless the reference is too"),
    "off_target": Guard("off target %", high=5.0, explained="hypotheses in a language other than the target language"),
    "repetition": Guard("looping %", high=1.0, explained="hypotheses with a repetition loop"),
    "truncated": Guard("truncated %", high=1.0, explained="hypotheses that reached the limit of new tokens"),
    "length_ratio": Guard(
        "length ratio", low=0.8, high=1.25, explained="characters in the hypotheses divided by characters in the references"
    ),
}


UNIDENTIFIED = "?"
"""Counted in place of a language if the identifier was not confident."""


@dataclass(frozen=True)
class GuardRate:
    """A guard's mean over a system's directions."""

    value: float
    worst: str = ""
    """The direction farthest beyond a bound, with its rate; empty if all directions are within bounds."""


def guard_rates(systems: list[System]) -> tuple[list[str], list[tuple[System, list[GuardRate | None]]]]:
    """The names of the guards that were measured, and each system with one rate per name."""
    names = [
        name for name in GUARDS if any(system.values(direction, name) for system in systems for direction in system.directions)
    ]
    return names, [(system, [_rate(system, name) for name in names]) for system in systems]


def _rate(system: System, name: str) -> GuardRate | None:
    values = {direction: statistics.fmean(found) for direction in system.directions if (found := system.values(direction, name))}
    if not values:
        return None
    guard = GUARDS[name]
    beyond = {direction: max(value - guard.high, guard.low - value) for direction, value in values.items()}
    worst = max(beyond, key=lambda direction: beyond[direction])
    return GuardRate(statistics.fmean(values.values()), f"{arrow(worst)} {values[worst]:.3g}" if beyond[worst] > 0 else "")


@dataclass(frozen=True)
class LanguageConfusion:
    """Target language against identified language, in % of the hypotheses whose language was identified."""

    system: str
    languages: list[str]
    """Identified languages, the columns."""
    rows: list[tuple[str, list[float]]]
    """Target language, and the share of each identified language."""


def language_confusions(systems: list[System]) -> list[LanguageConfusion]:
    """One matrix for each system whose scores include language counts."""
    return [matrix for system in systems if (matrix := _confusion(system, system.label, set(system.directions)))]


def group_confusions(systems: list[System], job: ReportJob) -> list[LanguageConfusion]:
    """One matrix per language group, for systems that translate several groups."""
    found = []
    for system in systems:
        groups = {direction: group_of(job, direction) for direction in system.directions}
        several = sorted({group for group in groups.values() if group is not None})
        for group in several if len(several) > 1 else []:
            own = {direction for direction, other in groups.items() if other == group}
            matrix = _confusion(system, f"{system.label}, group {group}", own)
            found += [matrix] if matrix else []
    return found


def _confusion(system: System, label: str, directions: set[str]) -> LanguageConfusion | None:
    # Target language → identified language → hypotheses, summed over seeds.
    counts: dict[str, dict[str, int]] = {}
    for seed in system.seeds:
        for direction, evaluation in ((name, seed[name]) for name in seed if name in directions):
            row = counts.setdefault(direction.rpartition("-")[2], {})
            for language, count in evaluation.result.get("languages", {}).get(direction, {}).items():
                if language != UNIDENTIFIED:
                    row[language] = row.get(language, 0) + count
    # Target languages come first among the columns, so that correct outputs are on the diagonal.
    targets = sorted(language for language, row in counts.items() if row)
    columns = [*targets, *sorted({language for row in counts.values() for language in row} - set(targets))]
    if not columns:
        return None
    shares = [
        (language, [100 * counts[language].get(other, 0) / sum(counts[language].values()) for other in columns])
        for language in targets
    ]
    return LanguageConfusion(label, columns, shares)

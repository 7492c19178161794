"""The rates that unmask a good score, by system, with those beyond a bound marked."""

import statistics
from dataclasses import dataclass

from alma_pipeline.report.jobs import ReportJob
from alma_pipeline.report.systems import System, group_of


@dataclass(frozen=True)
class Guard:
    """A rate, in % unless it is the length ratio, and the bounds that leave it unmarked."""

    label: str
    low: float = 0.0
    high: float = 100.0
    """Beyond these the rate is marked (our choice)."""
    explained: str = ""


GUARDS = {
    "exact": Guard("equal to the reference %", explained="hypotheses that equal their reference; many hint at seen test data"),
    "empty": Guard("empty %", high=1.0, explained="hypotheses without text"),
    "copy": Guard("copied %", high=5.0, explained="hypotheses that equal their source, where the reference does not"),
    "off_target": Guard("off target %", high=5.0, explained="hypotheses in another language than the target's"),
    "repetition": Guard("looping %", high=1.0, explained="hypotheses that repeat a stretch of text over and over"),
    "truncated": Guard("cut off %", high=1.0, explained="hypotheses ended by the limit of new tokens"),
    "length_ratio": Guard(
        "length ratio", low=0.8, high=1.25, explained="characters of the hypotheses over those of the references"
    ),
}


UNIDENTIFIED = "?"
"""What a language identifier that is not sure says."""


@dataclass(frozen=True)
class GuardRate:
    """A guard's mean over a system's directions."""

    value: float
    worst: str = ""
    """The direction farthest beyond the bound, with its rate; empty where all are within."""


def guard_rates(systems: list[System]) -> tuple[list[str], list[tuple[System, list[GuardRate | None]]]]:
    """The guards that the scores have, and each system's rate of each."""
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
    told = f"{worst.replace('-', '→')} {values[worst]:.3g}" if beyond[worst] > 0 else ""
    return GuardRate(statistics.fmean(values.values()), told)


@dataclass(frozen=True)
class LanguageConfusion:
    """Which languages a system writes when asked for which: shares in % of the hypotheses of which it can be told."""

    system: str
    found: list[str]
    rows: list[tuple[str, list[float]]]
    """Language asked for, and the share of each found one."""


def language_confusions(systems: list[System]) -> list[LanguageConfusion]:
    """Of every system whose scores counted languages."""
    return [told for system in systems if (told := _confusion(system, system.label, set(system.directions)))]


def group_confusions(systems: list[System], job: ReportJob) -> list[LanguageConfusion]:
    """The same for each language group of a system that translates several."""
    found = []
    for system in systems:
        groups = {direction: group_of(job, direction) for direction in system.directions}
        several = sorted({group for group in groups.values() if group is not None})
        for group in several if len(several) > 1 else []:
            own = {direction for direction, other in groups.items() if other == group}
            told = _confusion(system, f"{system.label}, group {group}", own)
            found += [told] if told else []
    return found


def _confusion(system: System, label: str, directions: set[str]) -> LanguageConfusion | None:
    counts: dict[str, dict[str, int]] = {}
    for seed in system.seeds:
        for direction, evaluation in ((name, seed[name]) for name in seed if name in directions):
            row = counts.setdefault(direction.rpartition("-")[2], {})
            for language, count in evaluation.result.get("languages", {}).get(direction, {}).items():
                if language != UNIDENTIFIED:
                    row[language] = row.get(language, 0) + count
    asked = sorted(language for language, row in counts.items() if row)
    found = [*asked, *sorted({language for row in counts.values() for language in row} - set(asked))]
    if not found:
        return None
    shares = [
        (language, [100 * counts[language].get(other, 0) / sum(counts[language].values()) for other in found])
        for language in asked
    ]
    return LanguageConfusion(label, found, shares)

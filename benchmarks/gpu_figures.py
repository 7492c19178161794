"""What a case of `gpu.py` finds: figures beside what was expected of them, and the table of them all."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number."""

    name: str
    measured: float
    unit: str = ""
    expected: float | None = None
    """The plan's estimate, or the aim."""
    wrong: bool = False
    """Whether it is a fault, so that the script fails."""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one case."""

    case: str
    seconds: float
    figures: list[Figure]
    failure: str = ""
    """How it ended if not well; empty otherwise."""

    @property
    def is_right(self) -> bool:
        return not self.failure and not any(figure.wrong for figure in self.figures)


def plain(figures: list[Figure]) -> list[dict[str, Any]]:
    """For JSON."""
    return [asdict(figure) for figure in figures]


def bound(name: str, measured: float, limit: float, note: str = "") -> Figure:
    """A share of difference that is wrong above `limit`, and if it is no number."""
    return Figure(name=name, measured=measured, unit="of it", expected=limit, wrong=not measured <= limit, note=note)


def lines(outcome: Outcome) -> Iterator[str]:
    """The rows of the table for one case."""
    if outcome.failure:
        yield f"{outcome.case:22} FAILED after {outcome.seconds:.0f} s: {outcome.failure}"
    for place, figure in enumerate(outcome.figures):
        case = outcome.case if place == 0 and not outcome.failure else ""
        expected = _number(figure.expected) if figure.expected is not None else "-"
        ratio = f"{figure.measured / figure.expected:.2f}" if figure.expected else "-"
        marks = f"{'WRONG ' if figure.wrong else ''}{figure.note}"
        row = f"{case:22} {figure.name:38} {expected:>9} {_number(figure.measured):>9} {figure.unit:8} {ratio:>6}  {marks}"
        yield row.rstrip()


HEADER = f"{'case':22} {'figure':38} {'expected':>9} {'measured':>9} {'unit':8} {'ratio':>6}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"

"""`compare A B`: what two sides differ in, then their scores, and whether each difference may be chance.

`report.sides` defines what a side can be.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from alma_pipeline.cli.arguments import Arguments
from alma_pipeline.console import LiteralConsole
from alma_pipeline.errors import UserError
from alma_pipeline.paths import store_root
from alma_pipeline.report.caveats import unscored_notes
from alma_pipeline.report.content import P_VALUES_FILE
from alma_pipeline.report.scoreboard import build_boards, kinds_of_tests
from alma_pipeline.report.sides import Side, find_side
from alma_pipeline.report.significance import BOOTSTRAP, PairedTests, describe_tests
from alma_pipeline.report.systems import System
from alma_pipeline.report.terminal import print_board
from alma_pipeline.store.identity import differences
from alma_pipeline.units import typed

BASELINE, OTHER = "A", "B"
NONE = "–"
AGAINST = "against"


@dataclass(frozen=True)
class Difference:
    """A setting that differs, or a node that only one side has."""

    key: str
    one: str
    other: str


def main(arguments: Arguments) -> int:
    """Compare two sides. Raises UserError."""
    return compare(store_root(), [arguments.one, arguments.other], arguments.significance or "")


def compare(root: Path, names: list[str], significance: str = "") -> int:
    """Print differences, then scores. `significance`: the test; empty for the one that the sides ask for.

    Raises UserError for a side that does not exist or has no scores in common with the other."""
    one, other = (find_side(root, name) for name in names)
    screen = LiteralConsole()
    screen.print_line(f"{BASELINE}: {one.label}\n{OTHER}: {other.label}\n")
    screen.print(_difference_table(list(settings(one, other))))
    found = list(comparable_systems(one, other))
    if not found:
        raise UserError(_why_none(one, other))
    tests = PairedTests(root / "reports" / P_VALUES_FILE, significance or one.significance or other.significance or BOOTSTRAP)
    shown = [board for pair in found for board in build_boards(list(pair), tests)]
    for board in shown:
        print_board(screen, board, AGAINST)
    for note in unscored_notes(each for pair in found for system in pair for each in system.evaluations):
        screen.print_line(f"\n{note}", "yellow")
    tests.save()
    if how := describe_tests(tests.test, kinds_of_tests(row.cells for board in shown for row in board.rows)):
        screen.print_line(f"\n▲ better and ▼ worse than {BASELINE}, significantly; ≈ not significant ({how})", "dim")
    return 0


def _why_none(one: Side, other: Side) -> str:
    """Why the two sides cannot be compared."""
    ours, theirs = ({system.test for system in side.systems} for side in (one, other))
    if bare := [side.label for side in (one, other) if not side.systems]:
        return f"{' and '.join(dict.fromkeys(bare))}: not scored in this store; evaluate it, then compare"
    if not ours & theirs:
        return (
            f"{one.label} was scored on {' and '.join(sorted(ours))}, {other.label} on {' and '.join(sorted(theirs))}: "
            "score both on the same test set, then compare"
        )
    if not any({*a.directions} & {*b.directions} for a in one.systems for b in other.systems):
        return f"{one.label} and {other.label} were scored on no common direction"
    if not _alone(one, other) and (lacking := list(_lacking(one, other))):
        return f"{'; '.join(lacking)}; evaluate those, then compare"
    return f"{one.label} and {other.label} have the same scores"


def _alone(one: Side, other: Side) -> bool:
    """Whether each side is one system; these are compared whatever their names."""
    return all(len({system.name for system in side.systems}) == 1 for side in (one, other))


def _lacking(one: Side, other: Side) -> Iterator[str]:
    ours, theirs = ({system.name for system in side.systems} for side in (one, other))
    for label, names in ((one.label, theirs - ours), (other.label, ours - theirs)):
        if names:
            yield f"{label} has no scores of {', '.join(sorted(names))}"


def settings(one: Side, other: Side) -> Iterator[Difference]:
    """Differing settings of the nodes that both sides have, and the nodes that only one has."""
    for name in dict.fromkeys([*one.payloads, *other.payloads]):
        theirs, ours = one.payloads.get(name), other.payloads.get(name)
        if theirs is None or ours is None:
            yield Difference(name, *(payload["kind"] if payload else NONE for payload in (theirs, ours)))
            continue
        for key, a, b in differences(_with_language_codes(theirs["config"]), _with_language_codes(ours["config"])):
            yield Difference(f"{name}.{key}", typed(a), typed(b))


def _with_language_codes(config: dict[str, Any]) -> dict[str, Any]:
    """The settings, with languages shortened to their codes."""
    return config | ({"languages": ", ".join(config["languages"])} if isinstance(config.get("languages"), dict) else {})


def _difference_table(found: list[Difference]) -> Table | str:
    if not found:
        return "no difference in settings"
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("what differs", BASELINE, OTHER):
        table.add_column(name, overflow="fold")
    for row in found:
        table.add_row(row.key, row.one, row.other)
    return table


def comparable_systems(one: Side, other: Side) -> Iterator[tuple[System, System]]:
    """Systems to compare, on the directions that both were scored on.

    Two single systems whatever their names; of several, those with equal names whose scores differ."""
    alone = _alone(one, other)
    for theirs in one.systems:
        for ours in other.systems:
            common = {*theirs.directions} & {*ours.directions}
            if theirs.test == ours.test and common and (alone or theirs.name == ours.name) and _keys(theirs) != _keys(ours):
                baseline = f"{BASELINE} {theirs.qualified_name}"
                yield _named(theirs, baseline, "", common), _named(ours, f"{OTHER} {ours.qualified_name}", baseline, common)


def _named(system: System, name: str, parent: str, directions: set[str]) -> System:
    seeds = [{direction: found for direction, found in seed.items() if direction in directions} for seed in system.seeds]
    return replace(system, name=name, variant="", baseline=parent, seeds=[seed for seed in seeds if seed])


def _keys(system: System) -> frozenset[str]:
    return frozenset(evaluation.scores.key for seed in system.seeds for evaluation in seed.values())

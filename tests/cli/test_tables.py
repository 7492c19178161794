"""The tables at the end of a run: scores by checkpoint and direction, and what each training node did."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table
from stages.fake.config import Config as Fake

from alma_pipeline.cli import tables
from alma_pipeline.instants import NEVER
from alma_pipeline.plan.estimates.node_estimate import Estimate
from alma_pipeline.plan.plan import Plan
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store
from helpers.fake_stages.recipes import planned, recipe

AVERAGE = {"chrf++": 61.25, "bleu": 40.04, "exact": 33.3}
RESULT: dict[str, Any] = {
    "before": {"loss": 2.5, "bits_per_byte": 5.0},
    "after": {"loss": 0.5, "bits_per_byte": 1.25},
    "steps": 1200,
    "tokens_per_second": 4321.0,
    "seconds": 81.0,
    "peak_memory_bytes": 534e6,
}


def record(name: str, kind: str, result: dict[str, Any]) -> Record:
    return Record(Path(f"/store/{name}"), name, name, kind, {}, result, {}, {}, NEVER, 1.0)


def score(name: str, *directions: str, **averages: dict[str, float]) -> Record:
    found = {direction: {"chrf++": 50.0 + number} for number, direction in enumerate(directions)}
    return record(f"{name}.score", "score", {"directions": found, "averages": averages})


def text(table: Table, width: int = 300) -> list[list[str]]:
    """The words of each line, columns apart."""
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    return [[cell for cell in line.rstrip().split("  ") if cell] for line in capture.get().splitlines()]


def lines(records: list[Record], width: int = 300) -> list[list[list[str]]]:
    return [[[cell.strip() for cell in row] for row in text(table)] for table in tables.score_tables(by_name(records), width)]


def by_name(records: list[Record]) -> dict[str, Record]:
    return {found.name: found for found in records}


def test_scores_by_checkpoint_and_direction() -> None:
    whole = {"all": AVERAGE, "en-xx": AVERAGE, "xx-en": AVERAGE}
    base, cpo = (score(name, "de-en", "en-de", **whole) for name in ("base", "cpo"))
    [table] = lines([base, record("mono", "mono", {}), cpo])
    assert table == [
        ["chrF++ (mean over directions, then each)"],
        ["checkpoint", "all", "en→xx", "xx→en", "BLEU xx→en", "exact %", "de→en", "en→de"],
        ["base", "61.2", "61.2", "61.2", "40.0", "33.3", "50.0", "51.0"],
        ["cpo", "61.2", "61.2", "61.2", "40.0", "33.3", "50.0", "51.0"],
    ]


def test_what_a_checkpoint_has_no_score_of_stays_empty_and_a_missing_number_is_a_dash() -> None:
    """An average of BLEU over directions of other signatures does not exist (B49)."""
    group = score("g1.arpo", "de-en", **{"all": {"chrf++": 60.0}, "xx-en": {"chrf++": 60.0}})
    [table] = lines([score("cpo", "de-en", "cs-en", all=AVERAGE), group])
    assert table[1] == ["checkpoint", "all", "en→xx", "xx→en", "BLEU xx→en", "exact %", "de→en", "cs→en"]
    assert table[3] == ["g1.arpo", "60.0", "60.0", "–", "–", "50.0"]


def test_many_directions_take_as_many_tables_as_the_width_asks_for() -> None:
    directions = [f"{code}-en" for code in ("de", "nl", "cs", "pl", "sv", "ru")]
    found = lines([score("cpo", *directions, all=AVERAGE)], width=50)
    assert len(found) == 3
    assert [name for table in found for row in table for name in row if "→en" in name and len(name) == 5] == [
        "xx→en",
        *(direction.replace("-", "→") for direction in directions),
    ]
    assert all([row[0] for row in table if row[0] in ("checkpoint", "cpo")] == ["checkpoint", "cpo"] for table in found)


def test_without_scores_there_is_no_table() -> None:
    assert lines([record("mono", "mono", {})]) == []


@pytest.fixture
def plan(store: Store) -> Plan:
    """`a` ran with an estimate, `b` was reused, `c` trains nothing."""
    planned_steps = planned(recipe({name: Fake(text=name) for name in "abc"}, "a", "b", "c"), store).steps
    expected = Estimate(steps=1200, tokens=1, seconds=49.0, memory_bytes=646_000_000)
    return Plan([dataclasses.replace(planned_steps[0], estimate=expected), *planned_steps[1:]])


def test_training_shows_the_estimate_beside_what_it_took(plan: Plan) -> None:
    preference = RESULT | {
        "before": {"rewards/accuracies": 0.5, "logps/margins": 0.2, "loss": 1.0},
        "after": {"rewards/accuracies": 0.6, "logps/margins": 0.9, "loss": 0.9},
    }
    records = by_name([record("a", "mono", RESULT), record("b", "cpo", preference), record("c", "corpus", {"counts": {}})])
    table = tables.training_table(plan, records, 200)
    assert table is not None
    rows = [[cell.strip() for cell in row] for row in text(table)]
    assert rows[1:] == [
        ["node", "dev set, before → after", "steps", "tokens/s", "time", "memory"],
        ["a", "bits/byte 5 → 1.25", "1,200", "4.3k", "1 min 21 s (49 s)", "534 MB (646 MB)"],
        ["b", "accuracy 0.5 → 0.6, margin 0.2 → 0.9", "1,200", "4.3k", "1 min 21 s", "534 MB"],
    ]


def test_on_a_narrow_terminal_the_last_columns_go(plan: Plan) -> None:
    table = tables.training_table(plan, by_name([record("a", "mono", RESULT)]), 50)
    assert table is not None
    assert [str(column.header) for column in table.columns] == ["node", "dev set, before → after", "steps", "tokens/s"]


def test_without_training_there_is_no_table(plan: Plan) -> None:
    assert tables.training_table(plan, by_name([record("c", "corpus", {"counts": {}})]), 200) is None


def test_the_targets_checkpoints_are_named_with_their_folders(plan: Plan) -> None:
    found = tables.targets(plan, by_name([record("a", "mono", RESULT)]))
    assert [(step.node.name, str(made.path)) for step, made in found] == [("a", "/store/a")]
    assert "all 3 nodes exist" in str(tables.reused(plan))

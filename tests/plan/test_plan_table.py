"""The plan as a person sees it in a terminal."""

import io

from fakes.bed import LOCAL, chain, fill, planned
from rich.console import Console

from alma_pipeline.cli.plan_table import plan_table
from alma_pipeline.plan.plan import Plan
from alma_pipeline.store.store import Store


def shown(plan: Plan, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(plan_table(plan, LOCAL, width))
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_a_plan_with_nothing_to_do(store: Store) -> None:
    """It used to end in a traceback."""
    fill(store, planned(chain(), store))
    assert shown(planned(chain(), Store(store.root))).splitlines() == ["reuse (3): a, b, c", "", "3 nodes: 3 reuse"]


def test_what_runs_has_a_row_and_what_is_there_a_name(store: Store) -> None:
    fill(store, planned(chain(), store), "a")
    lines = shown(planned(chain(), Store(store.root))).splitlines()
    assert [line.split()[:3] for line in lines[1:3]] == [["b", "run", "new"], ["c", "run", "new"]]
    assert "reuse (1): a" in lines and "3 nodes: 1 reuse, 2 run" in lines

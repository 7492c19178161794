"""The plan as a person sees it in a terminal."""

import dataclasses
import io

import pytest
from rich.console import Console
from stages.fake_many.config import Config as FakeMany

from alma_pipeline.cli.plan_table import plan_table, total_seconds
from alma_pipeline.config import load
from alma_pipeline.plan.estimates.node_estimate import Estimate
from alma_pipeline.plan.plan import Plan, make_plan, to_json
from alma_pipeline.schema import Config, Hardware
from alma_pipeline.store.store import Store
from helpers.artifacts import fill
from helpers.fake_stages.recipes import LOCAL, chain, changed, planned
from helpers.plans import loaded


def shown(plan: Plan, width: int = 80, hardware: Hardware = LOCAL) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(plan_table(plan, hardware, width))
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


def test_what_is_to_know_about_text_is_reported_once(store: Store) -> None:
    plan = planned(chain(), store)
    noted = [dataclasses.replace(step, node=dataclasses.replace(step.node, notes=["x is gone"])) for step in plan.steps]
    assert shown(Plan(noted)).splitlines().count("x is gone") == 1
    assert [step["notes"] for step in to_json(Plan(noted))["steps"]] == [["x is gone"]] * 3


def test_a_reason_that_does_not_fit_is_below_its_row_and_whole(made: Store, cpo: Config) -> None:
    plan = make_plan(changed(cpo, "parallel", learning_rate=0.5), made)
    narrow, wide = shown(plan).splitlines(), shown(plan, 200).splitlines()
    assert all(len(line) <= 80 for line in narrow)
    row = next(number for number, line in enumerate(narrow) if line.startswith("cpo  "))
    assert narrow[row].split()[:2] == ["cpo", "run"] and narrow[row + 1] == "    inputs changed: init (parallel), preferences"
    assert any(line.startswith("cpo  ") and line.endswith("  inputs changed: init (parallel), preferences") for line in wide)


def test_translations_and_scores_of_one_reason_share_a_row(made: Store, cpo: Config) -> None:
    lines = shown(make_plan(changed(cpo, "cpo", beta=0.2), made), 120).splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["cpo", "cpo.translate+score"]
    assert lines[2].endswith("  inputs changed: checkpoint")


def test_a_narrow_terminal_drops_numbers_before_reasons(store: Store, cpo: Config) -> None:
    plan = make_plan(cpo, store)
    heads = [shown(plan, width).splitlines()[0].split() for width in (120, 64, 52)]
    assert heads[0] == ["node", "verdict", "steps", "tokens", "memory", "disk", "time", "why"]
    assert heads[1] == ["node", "verdict", "steps", "memory", "time", "why"]
    assert heads[2] == ["node", "verdict", "time", "why"]


def test_skipped_groups_are_one_name(store: Store) -> None:
    config = loaded("experiment=x_alma_13b")
    names = {"g1.group_corpus", "g3.group_corpus"}
    lines = shown(make_plan(config, store), 200)
    assert "skip (" in lines and all(name in lines for name in names), "two groups are listed"
    every = make_plan(load.load(["experiment=x_alma_13b"]), store)
    assert "g1–g8.group_corpus" in shown(every, 200) and "g2.group_corpus" not in shown(every, 200)


def test_what_does_not_fit_names_the_settings_that_help(store: Store, cpo: Config) -> None:
    small = dataclasses.replace(cpo, hardware=dataclasses.replace(cpo.hardware, memory_gb=0.1))
    text = " ".join(shown(make_plan(small, store), 200, small.hardware).split())
    assert "does not fit into 0.1 GB per device: " in text and "try hardware.zero_stage=3" in text
    assert "for decoding, try a smaller hardware.decode_tokens" in text
    free = dataclasses.replace(small.hardware, device="cuda", decode_tokens=None, memory_gb=0.001)
    text = " ".join(shown(make_plan(dataclasses.replace(small, hardware=free), store), 200, free).split())
    assert "for decoding, try devices with more memory" in text and "decode_tokens" not in text


def test_the_whole_takes_the_sum_shared_but_never_less_than_its_longest_chain(store: Store, cpo: Config) -> None:
    plan = make_plan(cpo, store)
    seconds = {step.node.name: step.estimate.seconds if step.estimate else 0.0 for step in plan.steps}
    chain = ("base", "mono_corpus", "mono", "parallel", "preferences", "cpo", "cpo.translate", "cpo.score")
    one, many = (dataclasses.replace(cpo.hardware, max_parallel_nodes=number) for number in (1, 100))
    assert total_seconds(plan, one) == pytest.approx(sum(seconds.values()))
    assert sum(seconds.values()) > total_seconds(plan, many) >= sum(seconds[name] for name in chain) > max(seconds.values())


@pytest.mark.parametrize(
    ("limit", "line"),
    [
        ("1-00", "allocations of 1-00 each: b about 2, c about 5; each continues where the one before it ended"),
        ("UNLIMITED", ""),
        ("30-00", ""),
    ],
)
def test_with_slurm_the_allocations_of_longer_nodes_are_counted(store: Store, limit: str, line: str) -> None:
    """b takes a day: five minutes of each allocation belong to the notice."""
    hardware = Hardware(name="test", launcher="slurm", nodes=2, time_limit=limit)
    days = {"a": 0.5, "b": 1.0, "c": 4.5}
    plan = planned(chain(kind=FakeMany, hardware=hardware), store)
    steps = [dataclasses.replace(step, estimate=Estimate(seconds=days[step.node.name] * 86_400)) for step in plan.steps]
    assert [text for text in shown(Plan(steps), 120, hardware).splitlines() if "allocations" in text] == [line] * bool(line)
    assert "allocations" not in shown(Plan(steps), 120, LOCAL)

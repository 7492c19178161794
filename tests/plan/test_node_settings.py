"""`tokens=20e9` on the command line: the target's horizon, and with it its schedule's."""

from pathlib import Path

import pytest

from alma_pipeline.config import load
from alma_pipeline.errors import ConfigError
from alma_pipeline.plan.plan import Plan, make_plan
from alma_pipeline.schema.training import total_steps
from alma_pipeline.store.store import Store
from helpers.plans import loaded


def plan(tmp_path: Path, *overrides: str) -> Plan:
    return make_plan(loaded(*overrides), Store(tmp_path))


def test_the_target_trains_for_so_many_tokens_its_control_too_and_nothing_else(tmp_path: Path) -> None:
    before, after = plan(tmp_path, "stage=parallel"), plan(tmp_path, "stage=parallel", "tokens=2e6")
    node, same = after["parallel"].node.config, after["mono"].node.config
    assert (node.steps, node.epochs, node.tokens) == (None, None, 2e6)  # type: ignore[attr-defined]
    assert (same.steps, same.tokens) == (220, None)  # type: ignore[attr-defined]
    changed = {step.node.name for step in after.steps if step.key != before[step.node.name].key}
    assert changed == {f"{name}{part}" for name in ("parallel", "parallel_scratch") for part in ("", ".translate", ".score")}


def test_the_schedule_and_the_estimate_are_reckoned_from_the_same_number(tmp_path: Path) -> None:
    step = plan(tmp_path, "stage=mono", "tokens=1e6")["mono"]
    steps = total_steps(step.node.config, 10_000, 10_000 * 96)  # type: ignore[arg-type]
    assert step.estimate is not None and step.estimate.steps == steps == 1303, "1e6 / (8 blocks of 96), rounded up"


def test_a_token_budget_that_is_the_target_s_own_changes_no_key(tmp_path: Path) -> None:
    own = plan(tmp_path, "stage=mono", "budget.mono.tokens=5e5", "budget.mono.steps=null")
    assert plan(tmp_path, "stage=mono", "tokens=5e5")["mono"].key == own["mono"].key


def test_later_rounds_train_alike(tmp_path: Path) -> None:
    steps = plan(tmp_path, "stage=cpo", "tokens=3e5", "rounds=2")
    assert [steps[name].node.config.tokens for name in ("cpo", "cpo_2")] == [3e5, 3e5]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stage=mono", "stages.mono.steps=5"], r"tokens=2e\+10 and stages\.mono\.steps=5 both set how long mono trains"),
        (["stage=mono", "budget.mono.tokens=5e6", "budget.mono.steps=null"], "budget.mono.tokens=5e6 both set"),
        (["stage=mono", "targets=[mono_corpus]"], r"no target of this stage is trained \(mono_corpus\)"),
    ],
)
def test_two_horizons_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_plan(load.load([*overrides, "tokens=20e9"]), Store(Path("nowhere")))

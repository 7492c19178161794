"""Every option of every group composes and plans, offline; golden plans of the experiments; released settings."""

import json
from datetime import datetime, tzinfo
from pathlib import Path

import hydra.core.utils
import pytest
from hydra.core.utils import setup_globals
from omegaconf import OmegaConf

from alma_pipeline import paths
from alma_pipeline.config import load
from alma_pipeline.plan.plan import make_plan
from alma_pipeline.store.store import Store

GOLDEN = Path(__file__).parents[1] / "golden" / "plans"
OPTIONS = sorted(
    (path.parent.name, path.stem)
    for path in paths.CONF.glob("*/*.yaml")
    if path.parent.name not in ("node", "released", "experiment")
)
EXPERIMENTS = sorted(path.stem for path in (paths.CONF / "experiment").glob("*.yaml"))


def rows(experiment: str, store: Path) -> list[list[object]]:
    """[node, verdict, steps] of an experiment's plan in an empty store."""
    plan = make_plan(load.load([f"experiment={experiment}"]), Store(store))
    return [[step.node.name, step.verdict, step.estimate.steps if step.estimate else 0] for step in plan.steps]


def test_two_sweeps_of_one_second_have_a_folder_each_and_their_jobs_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is also the sweep's id in MLflow."""

    class Noon(datetime):
        """A clock that is read several times in one second."""

        readings = 0

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Noon":
            cls.readings += 1
            return cls(2026, 11, 29, 12, 0, 0, cls.readings)

    monkeypatch.setattr(hydra.core.utils, "datetime", Noon)
    setup_globals()
    one, other = (OmegaConf.load(paths.CONF / "config.yaml").hydra.sweep for _ in range(2))
    assert one.dir == one.dir == "multirun/2026-11-29/12-00-00-000002", "for all its jobs"
    assert other.dir == "multirun/2026-11-29/12-00-00-000004"


def test_every_option_is_found() -> None:
    assert len(OPTIONS) == 39, OPTIONS
    assert EXPERIMENTS == ["alma_13b", "alma_13b_r", "alma_7b", "demo", "smollm2_de_en", "x_alma_13b"]
    nodes = {path.stem for path in (paths.CONF / "node").glob("*.yaml")}
    listed = {
        line.split("@stages.")[1].strip()
        for path in (paths.CONF / "stage").glob("*.yaml")
        for line in path.read_text().splitlines()
        if "@stages." in line
    }
    assert nodes == listed, "a node file that no stage lists, or the other way round"


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_plans(group: str, option: str, tmp_path: Path) -> None:
    plan = make_plan(load.load([f"{group}={option}"]), Store(tmp_path))
    assert any(step.node.target for step in plan.steps)
    assert not list(tmp_path.iterdir()), "planning writes nothing"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_plan_of_an_experiment_is_its_golden_one(experiment: str, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    found = rows(experiment, tmp_path)
    if pytestconfig.getoption("--golden"):
        lines = ",\n".join(f" {json.dumps(row)}" for row in found)
        GOLDEN.mkdir(parents=True, exist_ok=True)
        (GOLDEN / f"{experiment}.json").write_text(f"[\n{lines}\n]\n")
    assert found == json.loads((GOLDEN / f"{experiment}.json").read_text())


@pytest.mark.parametrize("model", ["7b", "13b", "x_alma"])
@pytest.mark.parametrize("stage", ["mono", "parallel", "group_adapter", "cpo", "arpo"])
def test_every_stage_of_every_published_model_plans_without_a_network(
    model: str, stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*words: object) -> None:
        raise AssertionError(f"the plan wanted the network: {words}")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    plan = make_plan(load.load([f"model={model}", f"stage={stage}"]), Store(tmp_path))
    targets = [step for step in plan.steps if step.node.target]
    assert targets and all(step.estimate is not None and step.estimate.steps > 0 for step in targets)
    assert {step.verdict for step in targets} == {"run"} and plan.work


@pytest.mark.parametrize("model", ["7b", "13b"])
def test_published_checkpoints_are_adopted_on_the_way_and_the_target_is_trained(model: str, tmp_path: Path) -> None:
    plan = make_plan(load.load([f"model={model}", "stage=cpo"]), Store(tmp_path))
    assert [plan[name].verdict for name in ("mono", "parallel", "cpo")] == ["adopt", "adopt", "run"]
    estimate = plan["cpo"].estimate
    assert estimate is not None and estimate.steps > 0 and estimate.memory_bytes > 1e9 and estimate.fits


@pytest.mark.parametrize("model", ["7b", "13b"])
def test_the_target_is_adopted_when_told_so(model: str, tmp_path: Path) -> None:
    plan = make_plan(load.load([f"model={model}", "stage=cpo", "target=adopt"]), Store(tmp_path))
    assert plan["cpo"].verdict == "adopt"


def test_all_eight_modules_of_x_alma_are_adopted(tmp_path: Path) -> None:
    plan = make_plan(load.load(["model=x_alma", "stage=arpo", "target=adopt"]), Store(tmp_path))
    assert [plan[f"g{group}.arpo"].verdict for group in range(1, 9)] == ["adopt"] * 8
    assert plan["mono"].verdict == "adopt", "the modules stand on the published base"


def test_a_changed_setting_trains_its_node_and_says_why(tmp_path: Path) -> None:
    plan = make_plan(
        load.load(["model=13b", "stage=cpo", "stages.parallel.lora.rank=32", "stages.cpo.lora.rank=32"]), Store(tmp_path)
    )
    assert (plan["mono"].verdict, plan["parallel"].verdict) == ("adopt", "run")
    assert "stages.parallel.lora.rank 16 → 32" in plan["parallel"].reason
    assert "haoranxu/ALMA-13B-Pretrain-LoRA" in plan["parallel"].reason


def test_another_language_is_not_in_the_published_checkpoint(tmp_path: Path) -> None:
    plan = make_plan(load.load(["model=13b", "stage=parallel", "data.languages=[cs,de,is,ru,zh,fr]"]), Store(tmp_path))
    assert plan["mono"].verdict == "run" and "fr" in plan["mono"].reason


def test_upstream_train_adopts_nothing(tmp_path: Path) -> None:
    plan = make_plan(load.load(["model=13b", "stage=cpo", "upstream=train"]), Store(tmp_path))
    assert not [step.node.name for step in plan.steps if step.verdict == "adopt"]

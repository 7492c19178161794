"""A plan against what is free on the disk: artifacts, resume points, and merged models."""

import dataclasses
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from alma_pipeline.cli import main
from alma_pipeline.errors import PipelineError, UserError
from alma_pipeline.plan import disk_space
from alma_pipeline.plan.estimates.node_estimate import Estimate
from alma_pipeline.plan.plan import Plan, make_plan
from alma_pipeline.store.store import Store
from helpers.fake_stages.recipes import chain, planned
from helpers.fake_stages.world import World
from helpers.plans import real, released

Usage = namedtuple("Usage", ["total", "used", "free"])


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Free bytes of the disk, to be set."""
    found = {"bytes": 0}
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(0, 0, found["bytes"]))
    return found


def estimated(plan: Plan, **sizes: tuple[int, int]) -> Plan:
    """The plan with these estimates: bytes of the artifact, and of its work folder besides."""
    return Plan(
        [
            dataclasses.replace(step, estimate=Estimate(disk_bytes=sizes[name][0], work_bytes=sizes[name][1]))
            if (name := step.node.name) in sizes
            else step
            for step in plan.steps
        ]
    )


def test_a_plan_needs_all_artifacts_and_the_largest_work_folders(store: Store) -> None:
    config = chain()
    plan = estimated(planned(config, store), a=(10, 100), b=(20, 300), c=(30, 200))
    assert disk_space.store_bytes(plan.work, config, store) == (60, 300)
    pair = dataclasses.replace(config, hardware=dataclasses.replace(config.hardware, max_parallel_nodes=2))
    assert disk_space.store_bytes(plan.work, pair, store) == (60, 500)


def test_what_an_earlier_attempt_left_is_not_needed_again(store: Store) -> None:
    config = chain()
    plan = estimated(planned(config, store), a=(10, 100))
    left = store.work_path("a", plan["a"].key) / "resume" / "step-3"
    left.mkdir(parents=True)
    (left / "state").write_bytes(bytes(70))
    assert disk_space.store_bytes(plan.work, config, store) == (10, 30)


def test_13b_takes_what_its_weights_and_optimiser_take(store: Store, free: dict[str, int]) -> None:
    """Weights in bf16 for base and mono; for mono the best ones so far, and two resume points of 14 bytes per parameter."""
    config = released(real("stage=mono", "model=13b", "evaluation=paper", "evaluation.checkpoints=[]"))
    plan = make_plan(config, store)
    parameters = 13_015_864_320
    kept, temporary = disk_space.store_bytes(plan.work, config, store)
    assert kept == 2 * 2 * parameters
    assert temporary == 2 * parameters + 2 * (2 + 12) * parameters
    free["bytes"] = kept + temporary
    assert disk_space.shortages(plan, config, store) == []
    free["bytes"] -= 1
    with pytest.raises(
        UserError, match=r"not enough space on .*store: 443 GB free, about 443 GB needed, of which 390 GB while nodes run"
    ):
        disk_space.check(plan, config, store)


def test_a_base_that_was_downloaded_before_needs_no_room(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An artifact of a published model consists of hard links into the hub's cache."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    config = real("stage=base", "model=7b", "evaluation.checkpoints=[]")
    kept, _ = disk_space.store_bytes(make_plan(config, store).work, config, store)
    assert kept > 13e9
    file = tmp_path / "hub" / "models--meta-llama--Llama-2-7b-hf" / "snapshots" / "abc" / "config.json"
    file.parent.mkdir(parents=True)
    file.touch()
    assert disk_space.store_bytes(make_plan(config, store).work, config, store) == (0, 0)


@pytest.mark.parametrize("engine", ["native", "vllm"])
def test_decoding_needs_room_for_a_merged_model_in_a_work_folder(
    store: Store, free: dict[str, int], monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    """7B in 16 bits, if that is more than the resume points of other nodes."""
    words = ["stage=parallel", "model=7b", "stages.parallel.adapter=new", "hardware=gpu1"]
    config = real(*words, f"stages.translate.engine={engine}")
    plan, free["bytes"] = make_plan(config, store), 10**9
    for resume_points, text in ((10**9, "13 GB while nodes run, for a merged model"), (10**11, "resume points")):
        monkeypatch.setattr(disk_space, "store_bytes", lambda *_: (0, resume_points))  # noqa: B023 - called at once
        [found] = disk_space.shortages(plan, config, store)
        assert text in found


def test_plan_shows_a_shortage_and_run_refuses(
    free: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALMA_PIPELINE_STORE", str(tmp_path / "store"))
    free["bytes"] = 2_000_000
    monkeypatch.setattr("sys.argv", ["alma-pipeline", "plan", "stage=mono"])
    assert main.main() == 0
    assert f"not enough space on {tmp_path / 'store'}: 2.0 MB free, about " in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["alma-pipeline", "stage=mono"])
    assert main.main() == 2
    assert "gc` lists what the store can spare" in capsys.readouterr().err and not (tmp_path / "store").exists()


def test_the_disk_is_compared_again_before_each_node(world: World, free: dict[str, int]) -> None:
    """It filled up meanwhile: what is finished is kept, and nothing is started."""
    free["bytes"] = 50
    plan = estimated(planned(chain(), world.store), a=(10, 20), b=(10, 50))
    with pytest.raises(PipelineError, match=r"b: not enough space on .*: 50 B free, about 60 B needed; free some"):
        world.runner(chain()).run(plan)
    assert world.told.events == [("a", "started"), ("a", "FINISHED")]
    work = world.store.work_path("b", plan["b"].key)
    assert not work.exists() or world.store.begin_if_free("b", plan["b"].key), "its lock is free"
    free["bytes"] = 60
    assert world.run(chain())["c"].result["text"] == "abc"

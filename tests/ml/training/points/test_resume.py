"""Resume points: what counts as one, and that a run taken up ends with the very weights of one that was not cut off."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaMLP

from alma_pipeline.errors import UserError
from alma_pipeline.job import Job
from alma_pipeline.ml.training import step_log
from alma_pipeline.ml.training.engine import Engine
from alma_pipeline.ml.training.points import resume
from alma_pipeline.ml.training.points.point_writer import PointWriter
from alma_pipeline.ml.training.selection import CheckpointSelector
from helpers.damage import flip
from helpers.tiny_model import EVERY_STEP, LORA, digest, lines, logged, make_base, make_job, make_pairs
from stages.parallel.run import run


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return copy_of(tmp_path, "first")


def copy_of(tmp_path: Path, name: str, hardware: dict[str, Any] | None = None, **settings: Any) -> Job:
    """The same node in a work folder of its own."""
    inputs = {"init": make_base(tmp_path / "base"), "corpus": make_pairs(tmp_path / "pairs")}
    return make_job(tmp_path / name, "parallel", inputs, EVERY_STEP | (hardware or {}), **settings)


@pytest.fixture(autouse=True)
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Together with EVERY_STEP: a point follows each step, however long the last one took."""
    monkeypatch.setattr(step_log, "SPARING", 0)


def set_aside(monkeypatch: pytest.MonkeyPatch, job: Job, steps: tuple[int, ...], target: Path) -> None:
    """Run `job` with its resume points of `steps`, and what they refer to, copied to `target` as they are completed."""
    complete = PointWriter.complete

    def complete_and_copy(self: PointWriter) -> float:
        seconds = complete(self)
        if self.newest in steps:
            shutil.copytree(self.root / f"step-{self.newest}", target / "resume" / f"step-{self.newest}")
            for best in Path(job.work).glob("best-*"):
                shutil.copytree(best, target / best.name, dirs_exist_ok=True)
        return seconds

    monkeypatch.setattr(PointWriter, "complete", complete_and_copy)
    run(job)
    monkeypatch.setattr(PointWriter, "complete", complete)


@pytest.mark.parametrize(
    ("zero_stage", "settings"),
    [
        (0, {}),
        (0, {"adapter": "new", "lora": dataclasses.replace(LORA, dropout=0.2)}),
        (1, {"precision": "bf16"}),
        (3, {"adapter": "new", "lora": dataclasses.replace(LORA, dropout=0.2)}),
    ],
)
def test_taken_up_run_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zero_stage: int, settings: dict[str, Any]
) -> None:
    first, second = (copy_of(tmp_path, name, {"zero_stage": zero_stage}, **settings) for name in ("first", "second"))
    set_aside(monkeypatch, first, (2,), Path(second.work))
    result = run(second)
    assert lines(second)[0]["step"] == 3
    assert logged(second, "train/loss") == logged(first, "train/loss")[2:]
    assert digest(second) == digest(first)
    assert result["steps"] == 6
    assert result["before"]["loss"] == logged(first, "dev/loss")[0]


def test_a_taken_up_run_recomputes_its_layers_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers drops what a layer keeps only in one that is set to train, and a model is loaded set to evaluate."""
    hardware = {"gradient_checkpointing": True, "micro_batch_tokens": 32}
    first, second = (copy_of(tmp_path, name, hardware) for name in ("first", "second"))
    set_aside(monkeypatch, first, (2,), Path(second.work))
    calls = {"forward": 0, "backward": 0}
    phase, forward, backward = ["forward"], LlamaMLP.forward, Engine.backward

    def counted(self: LlamaMLP, states: torch.Tensor) -> torch.Tensor:
        calls[phase[-1]] += torch.is_grad_enabled()
        found: torch.Tensor = forward(self, states)
        return found

    def noted(self: Engine, loss: torch.Tensor) -> None:
        phase.append("backward")
        backward(self, loss)
        phase.pop()

    monkeypatch.setattr(LlamaMLP, "forward", counted)
    monkeypatch.setattr(Engine, "backward", noted)
    run(second)
    assert calls["backward"] == calls["forward"] > 0
    assert digest(second) == digest(first)


def test_result_of_a_taken_up_run_counts_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = copy_of(tmp_path, "first"), copy_of(tmp_path, "second")
    set_aside(monkeypatch, first, (4,), Path(second.work))
    result = run(second)
    whole = run(copy_of(tmp_path, "third"))
    same = ("steps", "tokens", "labels", "before", "after", "chosen_step", "evaluations")
    assert {name: result[name] for name in same} == {name: whole[name] for name in same}


def test_only_the_newest_point_and_the_best_checkpoints_remain(job: Job) -> None:
    run(job)
    assert [path.name for path in job.resume.glob("step-*")] == ["step-5"]
    assert {path.name for path in Path(job.work).glob("best-*")} <= {"best-3", "best-6"}


def damage_file(point: Path) -> None:
    file = max(point.glob("*.pt"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def lose_file(point: Path) -> None:
    (point / "generators-0.safetensors").unlink()


def lose_manifest(point: Path) -> None:
    (point / "manifest.json").unlink()


def cut_manifest(point: Path) -> None:
    text = (point / "manifest.json").read_text()
    (point / "manifest.json").write_text(text[: len(text) // 2])


def leave_unfinished(point: Path) -> None:
    point.rename(point.with_name(f"{point.name}.tmp-0123abcd"))


@pytest.mark.parametrize("harm", [damage_file, lose_file, lose_manifest, cut_manifest, leave_unfinished])
def test_damaged_point_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Any) -> None:
    """B8, B9"""
    first, second = copy_of(tmp_path, "first"), copy_of(tmp_path, "second")
    set_aside(monkeypatch, first, (2, 4), Path(second.work))
    harm(second.resume / "step-4")
    run(second)
    assert lines(second)[0]["step"] == 3
    assert digest(second) == digest(first)
    assert [path.name for path in second.resume.glob("step-*")] == ["step-5"]


def test_with_no_sound_point_the_run_starts_afresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = copy_of(tmp_path, "first"), copy_of(tmp_path, "second")
    set_aside(monkeypatch, first, (4,), Path(second.work))
    damage_file(second.resume / "step-4")
    (Path(second.work) / "best-3" / "model.safetensors").write_bytes(b"left over")
    run(second)
    assert lines(second)[0]["step"] == 0
    assert digest(second) == digest(first)


@pytest.mark.parametrize("harm", [flip, Path.unlink])
def test_a_kept_checkpoint_that_changed_on_disk_is_not_published(
    job: Job, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], None]
) -> None:
    """It may have been written days ago, by an attempt that was killed since."""
    publish = CheckpointSelector.publish

    def harmed(self: CheckpointSelector, *args: Any) -> Any:
        assert self.kept
        harm(Path(job.work) / f"best-{self.kept.step}" / "model.safetensors")
        return publish(self, *args)

    monkeypatch.setattr(CheckpointSelector, "publish", harmed)
    with pytest.raises(UserError, match=r"best-\d/model\.safetensors is no longer what was written there .*--force NODE"):
        run(job)
    assert not list(job.out.iterdir())


class Hostile:
    """Runs code as it is unpickled: it makes a file."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self) -> Any:
        return Path.touch, (self.sign,)


def make_hostile(point: Path, name: str, sign: Path, **manifest: Any) -> None:
    """Put a pickle in place of a file of a resume point, with a manifest that vouches for it."""
    torch.save({"python": Hostile(sign)}, point / name)
    content = json.loads((point / "manifest.json").read_text())
    content["files"][name] = resume._digest(point / name)
    (point / "manifest.json").write_text(json.dumps(content | manifest))


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_a_pickle_in_a_resume_point_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zero_stage: int) -> None:
    """Whoever may write to a shared store runs no code as whoever resumes there."""
    first = copy_of(tmp_path, "first", {"zero_stage": zero_stage})
    set_aside(monkeypatch, first, (4,), tmp_path / "saved")
    names = sorted(path.name for path in (tmp_path / "saved/resume/step-4").iterdir() if path.name != "manifest.json")
    assert len(names) == 2 + bool(zero_stage) and not list(first.resume.glob("*.py"))
    for name in names:
        job = copy_of(tmp_path, f"harmed {name}", {"zero_stage": zero_stage})
        shutil.copytree(tmp_path / "saved", Path(job.work), dirs_exist_ok=True)
        make_hostile(job.resume / "step-4", name, tmp_path / "sign")
        with pytest.raises(UserError, match=rf"{re.escape(name)} is not a file of a resume point .*--force NODE"):
            run(job)
        assert not (tmp_path / "sign").exists()


def test_a_point_of_an_earlier_version_is_not_opened_and_the_run_starts_afresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = copy_of(tmp_path, "first"), copy_of(tmp_path, "second")
    set_aside(monkeypatch, first, (4,), Path(second.work))
    make_hostile(second.resume / "step-4", "generators-0.pt", tmp_path / "sign", schema=1)
    run(second)
    assert lines(second)[0]["step"] == 0 and digest(second) == digest(first)
    assert f"resume point {second.resume}/step-4 is incomplete, damaged or of an earlier version" in capsys.readouterr().out
    assert not (tmp_path / "sign").exists()


def test_other_zero_stage_or_precision_is_refused_with_both_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """B1, B3"""
    first = copy_of(tmp_path, "first", {"zero_stage": 1})
    work = tmp_path / "second"
    set_aside(monkeypatch, first, (4,), work)
    with pytest.raises(UserError, match=r"zero stage 1, now 2.*--force NODE"):
        run(copy_of(tmp_path, "second", {"zero_stage": 2}))
    with pytest.raises(UserError, match="precision fp32, now bf16"):
        run(copy_of(tmp_path, "second", {"zero_stage": 1}, precision="bf16"))


def test_other_number_of_processes_is_refused_with_both_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """B1"""
    first, second = copy_of(tmp_path, "first"), copy_of(tmp_path, "second")
    set_aside(monkeypatch, first, (4,), Path(second.work))
    manifest = second.resume / "step-4" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["topology"]["processes"] = 4
    manifest.write_text(json.dumps(content))
    with pytest.raises(UserError, match="processes 4, now 1"):
        run(second)

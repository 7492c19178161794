"""Kills for memory, as the kernel counts them, and what is advised."""

from pathlib import Path

import pytest
from stages.fake.config import Config as Fake
from stages.fake_many.config import Config as FakeMany

from alma_pipeline.execution import failure, out_of_memory
from alma_pipeline.execution.out_of_memory import available_bytes, kill_count, lower_settings
from alma_pipeline.job import Job
from alma_pipeline.plan.estimates.node_estimate import Estimate
from alma_pipeline.schema import Hardware, Neural
from helpers.plans import real
from stages.score.config import Config as Score

V2 = {"proc/self/cgroup": "0::/user/me", "mount/user/me/memory.events": "low 0\noom 3\noom_kill 2\noom_group_kill 0\n"}
V1 = {
    "proc/self/cgroup": "4:cpu,memory:/job\n0::/",
    "mount/memory/job/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n",
}
INSIDE = {"proc/self/cgroup": "0::/docker/4f2a", "mount/memory.events": "oom_kill 1\n"}
"""A container that sees its own group as the root, and the host's path."""
NO_GROUP = {"proc/self/cgroup": "0::/", "proc/vmstat": "nr_free_pages 7\noom_kill 9\n"}


def laid(folder: Path, files: dict[str, str]) -> tuple[Path, Path]:
    for name, text in ({"proc/meminfo": "MemTotal:       8000 kB\nMemFree:  1 kB\n"} | files).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / "proc", folder / "mount"


@pytest.mark.parametrize(("files", "count"), [(V2, 2), (V1, 5), (INSIDE, 1), (NO_GROUP, 9), ({}, 0)])
def test_kills_are_counted_by_every_kind_of_control_group(tmp_path: Path, files: dict[str, str], count: int) -> None:
    assert kill_count(*laid(tmp_path, files)) == count


def test_this_machines_counters_can_be_read() -> None:
    assert kill_count() >= 0 and available_bytes() > 1e8


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, 8_192_000),
        (V2 | {"mount/user/me/memory.max": "max\n", "mount/user/memory.max": "4000000\n"}, 4_000_000),
        (V1 | {"mount/memory/job/memory.limit_in_bytes": "9223372036854771712\n"}, 8_192_000),
        (V1 | {"mount/memory/job/memory.limit_in_bytes": "5000000\n"}, 5_000_000),
    ],
)
def test_memory_is_the_machines_or_a_groups_lower_limit(tmp_path: Path, files: dict[str, str], limit: int) -> None:
    assert available_bytes(*laid(tmp_path, files)) == limit


def test_advice_differs_for_training_decoding_and_scoring() -> None:
    stages = real("stage=cpo").stages
    pair = Hardware(name="x", max_parallel_nodes=2, comet_batch=8)
    assert [*lower_settings(stages["mono"], pair)] == [
        *("hardware.max_parallel_nodes=1", "hardware.micro_batch_tokens=2048 (now 4096)"),
        "hardware.gradient_checkpointing=true",
    ]
    one = Hardware(name="x", gradient_checkpointing=True, comet_batch=8)
    assert [*lower_settings(stages["cpo"], one)] == ["hardware.micro_batch_tokens=2048 (now 4096)"]
    assert [*lower_settings(stages["translate"], one)] == ["hardware.decode_tokens=4096 (now 8192)"]
    free = Hardware(name="x", device="cuda", decode_tokens=None, comet_batch=8)
    assert [*lower_settings(stages["translate"], free)] == ["hardware.decode_tokens=8192 (now what is free)"]
    score = Score(scorers={"kiwi": Neural(model="x/y")})
    assert [*lower_settings(score, one)] == ["evaluation.comet.batch=4 (now 8)"]


def failed(folder: Path, code: int, text: str = "", log: str = "", before: int = 0, gpu: bool = False) -> str:
    """The reason for a worker's end in a work folder that holds this."""
    work = folder / "store" / "work" / "mono-1"
    work.mkdir(parents=True)
    (work / "log.txt").write_text(log)
    if text:
        (work / "failed-0.txt").write_text(text)
    hardware = Hardware(name="x", device="cuda" if gpu else "cpu", comet_batch=1)
    job = Job("mono", "k", str(work), real("stage=mono").stages["mono"], hardware, {})
    return str(failure.worker_error(job, code, before, Estimate(memory_bytes=12_300_000_000)))


SETTINGS = "hardware.micro_batch_tokens=2048 (now 4096) or hardware.gradient_checkpointing=true"


@pytest.fixture
def no_kills(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(out_of_memory, "kill_count", lambda: 0)


@pytest.mark.parametrize("code", [-9, 137, 1])
def test_a_kill_by_the_kernel_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """A launcher reports a code of its own."""
    monkeypatch.setattr(out_of_memory, "kill_count", lambda: 4)
    said = failed(tmp_path, code, before=3)
    assert said.startswith("mono: the kernel killed its worker because memory ran out")
    assert "the plan estimated 12 GB per process" in said and f"; {SETTINGS} lowers the need" in said
    assert said.endswith("the same command resumes from the last resume point")


def test_a_worker_with_another_error_is_not_the_process_that_the_kernel_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(out_of_memory, "kill_count", lambda: 4)
    found = failed(tmp_path, 1, "Traceback\nValueError: x\n", before=3)
    assert found.startswith("mono: its worker failed, and meanwhile the kernel killed a process because memory ran out; ")


@pytest.mark.parametrize(
    ("code", "log"),
    [(-9, ""), (1, "traceback : Signal 9 (SIGKILL)\nexitcode  : -9 (pid: 7)  (SIGKILL)"), (1, "exits with return code = -9")],
)
def test_a_kill_by_nobody_known_is_most_likely_for_memory(tmp_path: Path, no_kills: None, code: int, log: str) -> None:
    said = failed(tmp_path, code, log=log)
    assert "its worker was killed (signal 9)" in said and "most likely for memory" in said and SETTINGS in said


@pytest.mark.parametrize(
    "text",
    [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB",
        "MemoryError",
        "RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes",
        "PipelineError: COMET's worker ended with signal 9 while scoring with x",
    ],
)
def test_a_worker_that_noticed_by_itself_gets_the_same_advice(tmp_path: Path, no_kills: None, text: str) -> None:
    said = failed(tmp_path, 1, f"Traceback (most recent call last):\n{text}\n", gpu=True)
    assert said.startswith("mono: memory ran out; the plan estimated 12 GB per device") and SETTINGS in said


@pytest.mark.parametrize(("code", "reason"), [(1, "exit code 1"), (-11, "signal 11"), (0, "exit code 0 but left no result")])
def test_other_ends_are_not_blamed_on_memory(tmp_path: Path, no_kills: None, code: int, reason: str) -> None:
    assert failed(tmp_path, code, "Traceback\nValueError: x\n", log="(SIGKILL)") == f"mono: its worker ended with {reason}"


def test_the_fakes_have_no_settings_to_lower() -> None:
    assert [*lower_settings(Fake(), Hardware(name="x"))] == [*lower_settings(FakeMany(), Hardware(name="x"))] == []

"""What the plan says below its table of memory."""

from pathlib import Path

import pytest

from alma_pipeline.cli import plan_needs
from alma_pipeline.config import load
from alma_pipeline.plan.plan import make_plan
from alma_pipeline.store.store import Store


def said(folder: Path, *words: str) -> list[str]:
    config = load.load(["stage=mono", "target=train", *words])
    return [line.plain for line in plan_needs.lines(make_plan(config, Store(folder)), config.hardware)]


def test_full_13b_on_eight_cards_recomputes_and_writes_182_gb_at_a_time(tmp_path: Path) -> None:
    first, second = said(tmp_path, "model=13b", "hardware=gpu8")
    assert first == "gradient checkpointing (activations are recomputed): mono"
    assert second.startswith("resume points, at 1.0 GB/s: mono ") and second.endswith(" x 182 GB (3 min each)")


def test_where_nothing_is_recomputed_offloaded_or_long_nothing_is_said(tmp_path: Path) -> None:
    assert said(tmp_path, "model=tiny", "hardware=cpu") == []


def test_too_little_memory_is_reported_of_this_machine_but_not_of_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_needs, "available_bytes", lambda: 150 * 10**9)
    *_, here = said(tmp_path, "model=13b", "hardware=gpu8", "hardware.offload=cpu")
    assert here == "host memory: up to 242 GB per machine, but this one has 150 GB; try hardware.offload=none"
    *_, fits = said(tmp_path, "model=7b", "hardware=gpu8", "hardware.offload=cpu")
    assert fits == "host memory: up to 128 GB per machine"
    *_, away = said(tmp_path, "model=13b", "hardware=slurm", "hardware.zero_stage=3")
    assert away == "host memory: up to 213 GB per machine"

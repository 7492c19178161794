"""Energy by the machine's counters, on made-up ones: what is read, summed, and left unsaid."""

import dataclasses
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from alma_pipeline import units
from alma_pipeline.execution import energy
from alma_pipeline.execution.energy import CpuPackageCounter, Meter
from alma_pipeline.job import Job
from alma_pipeline.report import page, significance
from alma_pipeline.report.content import build_report
from alma_pipeline.report.jobs import plan_job
from alma_pipeline.schema import Hardware, NodeConfig
from alma_pipeline.store.store import Store
from helpers.finished_store import composed, finish

FULL = 262_143_328_850


def package(powercap: Path, name: str, microjoules: int, label: str = "package-0") -> Path:
    folder = powercap / name
    folder.mkdir(parents=True)
    for file, text in (("name", label), ("max_energy_range_uj", str(FULL)), ("energy_uj", str(microjoules))):
        (folder / file).write_text(f"{text}\n")
    return folder


def test_a_counter_that_is_full_begins_again(tmp_path: Path) -> None:
    counter = CpuPackageCounter(folder := package(tmp_path, "intel-rapl:0", FULL - 3_000_000))
    for microjoules, joules in ((FULL - 1_000_000, 2), (4_000_000, 7), (4_000_000, 7), (6_000_000, 9)):
        (folder / "energy_uj").write_text(str(microjoules))
        assert counter() == joules


def test_all_packages_and_nothing_twice(tmp_path: Path) -> None:
    folders = [package(tmp_path, f"intel-rapl:{n}", 10, f"package-{n}") for n in (0, 1)]
    package(tmp_path, "intel-rapl:0:0", 10, "core")
    package(tmp_path, "intel-rapl:2", 10, "psys")
    meter = Meter(energy.available_counters(Hardware(name="test"), tmp_path))
    for folder in folders:
        (folder / "energy_uj").write_text("1500010")
    assert meter.stop() == {"energy_joules": 3.0, "energy_of": "CPU packages"}


def test_nothing_is_said_without_a_counter(tmp_path: Path) -> None:
    assert Meter(energy.available_counters(Hardware(name="test"), tmp_path / "none")).stop() == {}
    package(tmp_path, "intel-rapl:0", 10)
    (package(tmp_path, "intel-rapl:1", 10) / "energy_uj").unlink()  # as root's alone: no reading
    assert energy.cpu_counters(tmp_path) == [], "half a machine is no figure"


def test_nothing_is_said_where_a_counter_was_lost(tmp_path: Path) -> None:
    folder = package(tmp_path, "intel-rapl:0", 10)
    meter = Meter(energy.available_counters(Hardware(name="test"), tmp_path))
    (folder / "energy_uj").unlink()
    assert meter.stop() == {}


@pytest.mark.parametrize("settings", [{"max_parallel_nodes": 2}, {"nodes": 2}])
def test_nothing_is_said_of_what_others_may_have_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, int]
) -> None:
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "powercap")
    package(tmp_path / "powercap", "intel-rapl:0", 10)
    job = Job("a", "a" * 64, str(tmp_path), NodeConfig(kind="fake"), Hardware(name="test"), {})
    assert energy.start_meter(job).stop() == {"energy_joules": 0.0, "energy_of": "CPU packages"}
    assert energy.start_meter(dataclasses.replace(job, hardware=Hardware(name="test", **settings))).stop() == {}  # type: ignore[arg-type]
    job.resume.mkdir()
    assert energy.start_meter(job).stop() == {}, "an earlier attempt's part is not known"


def test_gpus_by_nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    millijoules = {"1": 5_000, "GPU-x": 7_000, "0": 100_000}
    nvml = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=str,
        nvmlDeviceGetHandleByUUID=str,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: millijoules[handle],
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,GPU-x,0")
    machine = Hardware(name="test", device="cuda", devices=2)
    meter = Meter(energy.available_counters(machine, tmp_path))
    millijoules.update({"1": 6_000, "GPU-x": 9_500, "0": 900_000})
    assert meter.stop() == {"energy_joules": 3.5, "energy_of": "GPUs"}
    package(tmp_path, "intel-rapl:0", 10)
    assert list(energy.available_counters(machine, tmp_path)) == ["GPUs", "CPU packages"]

    def refuse(handle: str) -> int:
        raise RuntimeError("not supported")

    nvml.nvmlDeviceGetTotalEnergyConsumption = refuse
    assert energy.available_counters(machine, tmp_path) == {}, "the CPU's alone would mislead"


@pytest.mark.parametrize(("joules", "text"), [(1_500, "0.42 Wh"), (43_200, "12 Wh"), (4_680_000, "1.3 kWh")])
def test_joules_in_words(joules: float, text: str) -> None:
    assert units.energy(joules) == text


def test_the_report_has_a_column_of_energy_where_it_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(significance, "sacrebleu_p_value", lambda *asked: 0.5)
    store = Store(tmp_path / "store")
    finish(store, "stage=parallel")
    job = plan_job([], composed("stage=parallel"), Store(store.root))
    assert "energy" not in cost_section(page.render(build_report([], [job], store)))
    measured = {"energy_joules": 7_200.0, "energy_of": "CPU packages"}
    for name in ("mono", "parallel"):
        job.records[name] = dataclasses.replace(job.records[name], result=job.records[name].result | measured)
    report = build_report([], [job], store)
    assert {total.phase: total.joules for total in report.totals if total.joules} == {"training": 14_400.0, "total": 14_400.0}
    section = cost_section(page.render(report))
    assert section.count("2 Wh") == 2 and "4 Wh" in section
    assert section.count("training, packed rows") == sum(cost.phase == "training" for cost in report.costs)
    assert "(CPU packages) and includes other work on the machine; measured for 2 of" in section


def cost_section(text: str) -> str:
    found = re.search(r'<section id="cost".*?</section>', text, re.DOTALL)
    assert found
    return found[0].replace("&#39;", "'")

"""Slurm itself, on this machine: what its nodes give to ranks; two of them train one model, and no allocation is left behind."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from alma_pipeline import start
from alma_pipeline.execution.srun import srun
from alma_pipeline.schema import Hardware
from helpers.fake_stages.world import journal, parent
from helpers.processes import wait_for
from helpers.slurm_cluster import CPUS, MEMORY, NODES, Cluster, missing

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing() or "there is a Slurm")]

TRAINING = [
    *("stage=mono", "hardware=slurm", "hardware.device=cpu", "hardware.devices=1", "hardware.threads=1"),
    *("hardware.decode_tokens=8192", "tracking=none"),
    *("hardware.micro_batch_tokens=512", "hardware.time_limit=10", "evaluation=paper", "evaluation.checkpoints=[]"),
    *("budget.text.documents=60", "budget.text.dev=6", "budget.mono.steps=3"),
]
HARDWARE = Hardware(name="test", launcher="slurm", nodes=2, time_limit="5")
RANK = """
import json, os
names = ["RANK", "SLURM_NODEID", "SLURMD_NODENAME", "SLURM_CPUS_ON_NODE", "OMP_NUM_THREADS"]
print(json.dumps([*(os.environ[name] for name in names), len(os.sched_getaffinity(0))]))
"""
HOLDING = "import time; time.sleep(20)"


@pytest.mark.parametrize("inside", [False, True], ids=["requested", "within an allocation and a step"])
def test_ranks_have_all_cores_of_their_nodes_and_slurms_order(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: bool
) -> None:
    """n9 comes before n10; a shell of srun --pty is a step, beside which ours must not wait forever."""
    around: list[str] = []
    if inside:
        around = ["salloc", "--quiet", "--nodes=2", "--exclusive", "--mem=0", "srun", "--nodes=1", "--ntasks=1"]
        monkeypatch.setenv("SLURM_JOB_ID", "in the allocation")
    monkeypatch.delitem(cluster.environment, "OMP_NUM_THREADS", raising=False)
    (tmp_path / "rank.py").write_text(RANK)
    agent = start.command("alma_pipeline.execution.slurm_agent", str(tmp_path), "2", "1", str(tmp_path / "rank.py"))
    found = [json.loads(line) for line in cluster.ask(*around, *srun(HARDWARE), *agent).splitlines() if line[0] == "["]
    cores = len(os.sched_getaffinity(0))
    expected = [[str(place), str(place), name, str(CPUS), str(cores), cores] for place, name in enumerate(NODES)]
    assert sorted(found) == expected, cluster.logs()


def test_a_job_has_the_whole_memory_of_its_nodes(cluster: Cluster) -> None:
    """By default it would get 100 MB per core here, and few GB elsewhere: a model is killed while it is loaded."""
    words = [*srun(HARDWARE), sys.executable, "-c", HOLDING]
    process = subprocess.Popen(words, env=cluster.environment)
    try:
        wait_for(lambda: "RUNNING" in cluster.jobs())
        assert f"cpu={2 * CPUS},mem={2 * MEMORY}M,node=2" in cluster.ask("squeue", "-h", "-O", "tres-alloc:80")
    finally:
        process.terminate()
        process.wait(60)


def test_two_nodes_train_one_model(cluster: Cluster, tmp_path: Path) -> None:
    """B2, B13: srun, an agent and one process on each node, ZeRO-2 across them; the store is what they share."""
    environment = cluster.environment | {"ALMA_PIPELINE_STORE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "alma_pipeline", *TRAINING], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr + cluster.logs()
    [made] = [path for path in (tmp_path / "artifacts").iterdir() if path.name.startswith("mono-")]
    record = json.loads((made / "record.json").read_text())
    assert (record["hardware"]["launcher"], record["hardware"]["nodes"], record["hardware"]["zero_stage"]) == ("slurm", 2, 2)
    assert record["result"]["after"]["loss"] < record["result"]["before"]["loss"]
    assert (made / "log.txt").read_text().startswith("$ srun --nodes=2 --exclusive ")
    assert cluster.jobs() == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_allocation_ends_with_its_orchestrator(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orders: Path, number: int
) -> None:
    """Told to end it waits for srun; killed, the ranks see that nobody wants them, and srun ends with them."""
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    (orders / "a.json").write_text('{"hold": 3}')
    process = subprocess.Popen(parent(tmp_path / "store", "slurm", 20), stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    wait_for(lambda: any(word == "step 3" for _, word in journal(orders, "a")) or process.poll() is not None, seconds=120)
    assert cluster.jobs() == "alma_pipeline RUNNING 2", cluster.logs()
    process.send_signal(number)
    output, _ = process.communicate(timeout=90)
    assert process.returncode == (143 if number == signal.SIGTERM else -number)
    assert ("a KILLED" in output) == (number == signal.SIGTERM)
    wait_for(lambda: cluster.jobs() == "", seconds=30)

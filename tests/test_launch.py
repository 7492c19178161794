"""How workers are started: command lines, environment, the warm server, and launchers that are not ours."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.bed import SITE, World, fake_world, planned, recipe, wait_for
from stages.fake_many.config import Config as FakeMany

from alma_pipeline import launch, slurm_agent
from alma_pipeline.errors import PipelineError, UserError
from alma_pipeline.fields import problems
from alma_pipeline.job import Job
from alma_pipeline.launch import ForkServer, Launcher, command, environment
from alma_pipeline.schema import Hardware
from alma_pipeline.store import Store

WORKER = ["-m", "alma_pipeline.worker", "/s/work/mono-3f", "T"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
DEEPSPEED = [sys.executable, "-m", "deepspeed.launcher.runner"]
SRUN = ["srun", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--kill-on-bad-exit=1"]
AGENT = [sys.executable, "-m", "alma_pipeline.slurm_agent", "--nnodes=2", "--nproc-per-node=4", "--rdzv-id=mono-3f"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"launcher": "torchrun", "devices": 8}, [*TORCHRUN, "--standalone", "--nproc-per-node=8", *WORKER]),
        (
            {"launcher": "torchrun", "devices": 4, "nodes": 2, "rendezvous": "first:29400"},
            [*TORCHRUN, *AGENT[3:], "--rdzv-backend=c10d", "--rdzv-endpoint=first:29400", *WORKER],
        ),
        (
            {"launcher": "deepspeed", "devices": 4, "nodes": 2, "hostfile": "/etc/hosts of mine"},
            [
                *DEEPSPEED,
                *("--hostfile", "/etc/hosts of mine", "--num_nodes", "2", "--num_gpus", "4", "--no_local_rank", "--module"),
                *WORKER[1:],
            ],
        ),
        (
            {"launcher": "slurm", "devices": 4, "nodes": 2},
            [*SRUN, "--time=24:00:00", "--job-name=alma_pipeline", *AGENT, *WORKER],
        ),
        (
            {
                **{"launcher": "slurm", "devices": 4, "nodes": 2, "device": "cuda", "threads": 6},
                **{"partition": "gpu", "account": "mt", "time_limit": "2:00:00"},
            },
            [
                *SRUN,
                *("--time=2:00:00", "--job-name=alma_pipeline", "--gpus-per-node=4", "--cpus-per-task=24"),
                *("--partition=gpu", "--account=mt"),
                *AGENT,
                *WORKER,
            ],
        ),
    ],
)
def test_commands(settings: dict[str, Any], expected: list[str]) -> None:
    """B13, B17: one plain argument list; no launcher's own flag reaches the worker, and nothing reaches Hydra."""
    assert command(Hardware(name="x", **settings), Path("/s/work/mono-3f"), "T") == expected


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"launcher": "torchrun", "nodes": 2}, "launcher=torchrun with nodes=2 needs rendezvous=HOST:PORT"),
        ({"launcher": "deepspeed", "nodes": 2}, "launcher=deepspeed needs hostfile="),
        ({"launcher": "local", "devices": 2}, "launcher=local runs one process, found devices x nodes = 2"),
        ({"launcher": "torchrun", "nodes": 2, "rendezvous": "first:29400"}, None),
        ({"launcher": "slurm", "nodes": 2}, None),
        ({"launcher": "torchrun", "devices": 2}, None),
    ],
)
def test_what_a_launcher_needs_is_said_before_it_starts(settings: dict[str, Any], said: str | None) -> None:
    found = list(problems(Hardware(name="x", **settings), "hardware"))
    assert not found if said is None else any(f"hardware: {said}" in text for text in found)


def test_a_workers_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """B35: nothing that steers tracking; and no place in somebody else's group of processes."""
    for name in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("HF_TOKEN", "needed-for-gated-models")
    values = environment(Hardware(name="x", threads=3), 1)
    assert [name for name in values if name.startswith("MLFLOW_") or name in launch.PLACE] == []
    assert values["HF_TOKEN"] == "needed-for-gated-models"
    assert (values["OMP_NUM_THREADS"], values["CUDA_VISIBLE_DEVICES"], values["DS_ACCELERATOR"]) == ("3", "", "cpu")


@pytest.mark.parametrize(("processes", "threads"), [(1, 6), (2, 3), (4, 1), (99, 1)])
def test_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch, processes: int, threads: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    assert environment(Hardware(name="x"), processes)["OMP_NUM_THREADS"] == str(threads)


def test_devices_stay_visible_to_a_gpu_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert environment(Hardware(name="x", device="cuda"), 2)["CUDA_VISIBLE_DEVICES"] == "2,3"


# The warm server, on fakes.


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    with fake_world(monkeypatch, tmp_path) as orders:
        yield orders


@pytest.fixture
def server(orders: Path, tmp_path: Path) -> Iterator[ForkServer]:
    server = ForkServer(Hardware(name="x"), tmp_path / "server.txt")
    yield server
    server.close()


def prepared(store: Store, name: str = "a") -> tuple[Path, str]:
    """A work folder with its job, as the runner leaves it to a launcher; the lock stays held."""
    config = recipe({name: FakeMany(text=name)})
    step = planned(config, store)[name]
    work = store.begin(name, step.key)
    (work.path / "out").mkdir(exist_ok=True)
    Job(name, step.key, str(work.path), step.node.config, config.hardware, {}).write()
    HELD.append(work)
    return work.path, work.token


HELD: list[Any] = []


@pytest.fixture(autouse=True)
def released() -> Iterator[None]:
    yield
    while HELD:
        HELD.pop().close()


def test_the_server_forks_a_worker_with_a_log_of_its_own(server: ForkServer, store: Store) -> None:
    work, token = prepared(store)
    running = server.start(work, token)
    assert running.pid not in (os.getpid(), server.process.pid)
    assert wait_for(lambda: running.poll() is not None) and running.poll() == 0
    assert json.loads((work / "result.json").read_text())["pid"] == running.pid
    assert (work / "log.txt").exists() and not list(work.glob("server*"))


@pytest.mark.parametrize(("end", "code"), [("crash", 1), ("user", 2), ("kill", -9)])
def test_exit_codes_and_signals(server: ForkServer, store: Store, orders: Path, end: str, code: int) -> None:
    (orders / "a.json").write_text(json.dumps({"end": end}))
    running = server.start(*prepared(store))
    wait_for(lambda: running.poll() is not None)
    assert running.poll() == code
    text = (store.root / "work").glob("a-*/log.txt")
    assert ("Traceback" in next(text).read_text()) == (end == "crash")


def test_the_server_serves_again_after_a_worker_was_killed(server: ForkServer, store: Store, orders: Path) -> None:
    (orders / "a.json").write_text('{"end": "kill"}')
    running = server.start(*prepared(store))
    wait_for(lambda: running.poll() is not None)
    again = server.start(*prepared(store, "b"))
    wait_for(lambda: again.poll() is not None)
    assert again.poll() == 0


def test_a_worker_can_be_stopped_at_once(server: ForkServer, store: Store, orders: Path) -> None:
    """Also before it has done anything at all."""
    (orders / "a.json").write_text('{"pause": 60}')
    running = server.start(*prepared(store))
    running.stop()
    assert running.poll() == -signal.SIGTERM


def test_a_server_that_cannot_import_says_where_its_log_is(orders: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(launch, "PRELOADED", ("no_such_library",))
    server = ForkServer(Hardware(name="x"), tmp_path / "server.txt")
    with pytest.raises(PipelineError, match=r"ended \(exit code 1\).*server.txt"):
        server.start(tmp_path, "T")
    server.close()
    assert "no_such_library" in (tmp_path / "server.txt").read_text()


def test_a_server_that_is_gone_is_an_error_not_a_closed_pipe(server: ForkServer, store: Store) -> None:
    """BrokenPipeError means to the command line that nobody reads its output, and would end with exit code 0."""
    first = server.start(*prepared(store))
    wait_for(lambda: first.poll() is not None)
    server.process.kill()
    server.process.wait()
    with pytest.raises(PipelineError, match=r"exit code -9"):
        server.start(*prepared(store, "b"))


def test_losing_the_server_while_a_worker_runs_is_noticed(server: ForkServer, store: Store, orders: Path) -> None:
    (orders / "a.json").write_text('{"pause": 60}')
    running = server.start(*prepared(store))
    server.process.kill()
    with pytest.raises(PipelineError, match=r"exit code -9"):
        wait_for(lambda: running.poll() is not None)
    running.stop()
    os.killpg(running.pid, signal.SIGKILL)


def test_closing_ends_the_server_and_its_worker(server: ForkServer, store: Store, orders: Path) -> None:
    (orders / "a.json").write_text('{"pause": 60}')
    running = server.start(*prepared(store))
    server.close()
    assert server.process.poll() == 0
    wait_for(lambda: not os.path.exists(f"/proc/{running.pid}"))


def test_closing_does_not_wait_for_slow_imports(orders: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "slow_library.py").write_text("import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", f"{SITE}{os.pathsep}{slow}")
    monkeypatch.setattr(launch, "PRELOADED", ("slow_library",))
    server = ForkServer(Hardware(name="x"), tmp_path / "server.txt")
    server.close()
    assert server.process.poll() == -signal.SIGTERM


def test_what_libraries_print_on_import_goes_to_the_log(orders: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "loud_library.py").write_text("import os; print('printed'); os.system('echo from C')")
    monkeypatch.setenv("PYTHONPATH", f"{SITE}{os.pathsep}{tmp_path}")
    monkeypatch.setattr(launch, "PRELOADED", ("loud_library", "alma_pipeline.worker"))
    server = ForkServer(Hardware(name="x"), tmp_path / "server.txt")
    assert server.reply(wait=True) == {"ready": True}
    server._ready = True
    server.close()
    assert {"printed", "from C"} <= set((tmp_path / "server.txt").read_text().split("\n"))


@pytest.mark.slow
def test_the_real_server_forks_with_everything_imported(orders: Path, monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("FAKE_ORDERS", str(orders))
    monkeypatch.setenv("PYTHONPATH", str(SITE))
    store.root.mkdir()
    launcher = Launcher(Hardware(name="x"), store.root)
    for name in ("a", "b"):
        running = launcher.start(*prepared(store, name), distributed=True)
        wait_for(lambda running=running: running.poll() is not None, seconds=60)
        assert running.poll() == 0
    launcher.close()


# Launchers that are not ours.


def ranks(orders: Path) -> set[str]:
    return {word for _, word in (line.split(" ", 1) for line in (orders / "a.journal").read_text().splitlines())}


@pytest.mark.slow
def test_two_processes_through_the_deepspeed_launcher(orders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """B17: both ranks get our arguments and no others; rank 0 alone writes the result (B18)."""
    played(tmp_path, monkeypatch, "ssh", 'while [ "$1" != localhost ]; do shift; done; shift; exec "$@"')
    hosts = tmp_path / "hosts"
    hosts.write_text("localhost slots=2\n")
    hardware = Hardware(name="two", launcher="deepspeed", devices=2, hostfile=str(hosts))
    world = World(tmp_path, orders, Launcher(hardware, tmp_path))
    done = world.run(recipe({"a": FakeMany(text="a")}, hardware=hardware))
    assert done["a"].result["text"] == "a" and "rank 1" in ranks(orders)
    assert (done["a"].path / "log.txt").read_text().startswith(f"$ {sys.executable} -m deepspeed")
    world.launcher.close()


# Slurm, without Slurm: its commands are played by scripts.


def test_the_agent_meets_on_the_first_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    played(tmp_path, monkeypatch, "scontrol", 'test "$*" = "show hostnames n[1-2]" && printf "n1\\nn2\\n"')
    step = {"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_JOB_NODELIST": "n[0-9]", "SLURM_JOB_ID": "100007", "SLURM_STEP_ID": "1"}
    words = {node: slurm_agent.meeting(step | {"SLURM_NODEID": node}) for node in ("0", "1")}
    endpoint = f"--rdzv-endpoint=n1:{slurm_agent.port('100007', '1')}"
    assert words["0"] == ["--rdzv-backend=c10d", endpoint, "--rdzv-conf=is_host=true"]
    assert words["1"] == ["--rdzv-backend=c10d", endpoint, "--rdzv-conf=is_host=false"]


def test_ports_differ_between_steps_and_stay_free_of_clients() -> None:
    found = {slurm_agent.port(str(job), str(step)) for job in range(4_000_000, 4_000_040) for step in range(20)}
    assert len(found) == 800
    assert min(found) >= 15000 and max(found) < 32768


@pytest.mark.parametrize(
    ("variables", "script", "said"),
    [
        ({}, "true", "no Slurm step here"),
        (
            {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "n1"},
            "echo 'bad list' >&2; exit 1",
            "show hostnames n1` failed: bad list",
        ),
    ],
)
def test_the_agent_says_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str], script: str, said: str
) -> None:
    played(tmp_path, monkeypatch, "scontrol", script)
    with pytest.raises(UserError, match=said):
        slurm_agent.meeting(variables)


def test_without_scontrol_the_agent_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="scontrol must be on the nodes' PATH"):
        slurm_agent.first_host("n1")


def test_the_agent_becomes_torchrun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The whole chain of processes from srun on, with a torchrun that only tells how it was called."""
    played(tmp_path, monkeypatch, "scontrol", "echo localhost")
    played(tmp_path, monkeypatch, "srun", 'while [ "$1" != "$PYTHON" ]; do shift; done; exec "$@"')
    shadow = tmp_path / "shadow" / "torch" / "distributed"
    shadow.mkdir(parents=True)
    (shadow.parent / "__init__.py").write_text("")
    (shadow / "__init__.py").write_text("")
    (shadow / "run.py").write_text("import sys; print(*sys.argv[1:])")
    step = {"SLURM_STEP_NODELIST": "n1", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_NODEID": "0"}
    values = {**os.environ, **step, "PYTHON": sys.executable, "PYTHONPATH": str(tmp_path / "shadow")}
    words = command(Hardware(name="x", launcher="slurm"), Path("/s/work/mono-3f"), "T")
    done = subprocess.run(words, env=values, capture_output=True, text=True, check=True)
    port = slurm_agent.port("7", "0")
    assert done.stdout.split() == [
        *("--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{port}", "--rdzv-conf=is_host=true"),
        *("--nnodes=1", "--nproc-per-node=1", "--rdzv-id=mono-3f"),
        *WORKER,
    ]


def played(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str) -> None:
    """A command of this name that comes first on the PATH."""
    file = folder / "bin" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"#!{shutil.which('sh')}\n{script}\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{file.parent}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.slow
def test_two_agents_meet_through_torchrun(orders: Path, tmp_path: Path, store: Store) -> None:
    """Two nodes on one machine: each agent starts one rank, and the ranks know each other's number."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        endpoint = f"localhost:{free.getsockname()[1]}"
    hardware = Hardware(name="x", launcher="torchrun", nodes=2, rendezvous=endpoint)
    work, token = prepared(store)
    words = command(hardware, work, token)
    agents = [
        subprocess.Popen(words, env=environment(hardware, 1), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in "12"
    ]
    assert [agent.wait(60) for agent in agents] == [0, 0]
    assert "rank 1" in ranks(orders) and (work / "result.json").exists()

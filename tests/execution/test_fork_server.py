"""The warm server: a worker a job, whatever becomes of the one before, on fakes."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from alma_pipeline.errors import PipelineError
from alma_pipeline.execution import fork_client, out_of_memory, processes
from alma_pipeline.execution.fork_client import ForkServer
from alma_pipeline.execution.launch import Launcher
from alma_pipeline.schema import Hardware
from alma_pipeline.store.store import Store
from helpers.fake_stages.world import SITE
from helpers.processes import wait_for, zombies

Prepared = Callable[..., tuple[Path, str]]


@pytest.fixture
def server(orders: Path, tmp_path: Path) -> Iterator[ForkServer]:
    server = ForkServer(Hardware(name="x"), tmp_path / "server.txt")
    yield server
    server.close()


def test_the_server_forks_a_worker_with_a_log_of_its_own(server: ForkServer, prepared: Prepared) -> None:
    work, token = prepared()
    running = server.start(work, token)
    assert running.pid not in (os.getpid(), server.process.pid)
    assert wait_for(lambda: running.poll() is not None) and running.poll() == 0
    assert zombies(server.process.pid) == []
    assert json.loads((work / "result.json").read_text())["pid"] == running.pid
    assert (work / "log.txt").exists() and not list(work.glob("server*"))


@pytest.mark.parametrize(("end", "code"), [("crash", 1), ("user", 2), ("kill", -9)])
def test_exit_codes_and_signals(server: ForkServer, store: Store, prepared: Prepared, orders: Path, end: str, code: int) -> None:
    (orders / "a.json").write_text(json.dumps({"end": end}))
    running = server.start(*prepared())
    wait_for(lambda: running.poll() is not None)
    assert running.poll() == code
    text = (store.root / "work").glob("a-*/log.txt")
    assert ("Traceback" in next(text).read_text()) == (end == "crash")


def test_the_server_serves_again_after_a_worker_was_killed(server: ForkServer, prepared: Prepared, orders: Path) -> None:
    (orders / "a.json").write_text('{"end": "kill"}')
    running = server.start(*prepared())
    wait_for(lambda: running.poll() is not None)
    again = server.start(*prepared("b"))
    wait_for(lambda: again.poll() is not None)
    assert again.poll() == 0


def test_a_worker_can_be_stopped_at_once(server: ForkServer, prepared: Prepared, orders: Path) -> None:
    """Also before it has done anything at all."""
    (orders / "a.json").write_text('{"pause": 60}')
    running = server.start(*prepared())
    running.stop()
    assert running.poll() == -signal.SIGTERM


def test_sigterm_to_every_process_leaves_the_server_to_its_parent(server: ForkServer, prepared: Prepared, orders: Path) -> None:
    """A service manager sends it to all at once, and a worker may then be writing a resume point."""
    (orders / "a.json").write_text('{"hold": 1}')
    running = server.start(*prepared())
    server.process.send_signal(signal.SIGTERM)
    (orders / "a.go").touch()
    assert wait_for(lambda: running.poll() is not None) and running.poll() == 0


def test_a_server_that_cannot_import_says_where_its_log_is(orders: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fork_client, "PRELOADED", ("no_such_library",))
    server = ForkServer(Hardware(name="x"), tmp_path / "server.txt")
    with pytest.raises(PipelineError, match=r"ended \(exit code 1\).*server.txt"):
        server.start(tmp_path, "T")
    server.close()
    assert "no_such_library" in (tmp_path / "server.txt").read_text()


def test_a_server_that_is_gone_is_an_error_not_a_closed_pipe(server: ForkServer, prepared: Prepared) -> None:
    """BrokenPipeError means to the command line that nobody reads its output, and would end with exit code 0."""
    first = server.start(*prepared())
    wait_for(lambda: first.poll() is not None)
    server.process.kill()
    server.process.wait()
    with pytest.raises(PipelineError, match=r"exit code -9"):
        server.start(*prepared("b"))


def test_losing_the_server_while_a_worker_runs_is_noticed(server: ForkServer, prepared: Prepared, orders: Path) -> None:
    (orders / "a.json").write_text('{"pause": 60}')
    running = server.start(*prepared())
    server.process.kill()
    with pytest.raises(PipelineError, match=r"exit code -9"):
        wait_for(lambda: running.poll() is not None)
    running.stop()
    os.killpg(running.pid, signal.SIGKILL)


def test_closing_ends_the_server_and_its_worker(server: ForkServer, prepared: Prepared, orders: Path) -> None:
    (orders / "a.json").write_text('{"pause": 60}')
    running = server.start(*prepared())
    server.close()
    assert server.process.poll() == 0
    wait_for(lambda: not os.path.exists(f"/proc/{running.pid}"))


def test_closing_does_not_wait_for_slow_imports(orders: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "slow_library.py").write_text("import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", f"{SITE}{os.pathsep}{slow}")
    monkeypatch.setattr(fork_client, "PRELOADED", ("slow_library",))
    server = ForkServer(Hardware(name="x"), tmp_path / "server.txt")
    server.close()
    assert server.process.poll() == -signal.SIGTERM


def test_what_libraries_print_on_import_goes_to_the_log(orders: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "loud_library.py").write_text("import os; print('printed'); os.system('echo from C')")
    monkeypatch.setenv("PYTHONPATH", f"{SITE}{os.pathsep}{tmp_path}")
    monkeypatch.setattr(fork_client, "PRELOADED", ("loud_library", "alma_pipeline.execution.worker"))
    server = ForkServer(Hardware(name="x"), tmp_path / "server.txt")
    assert server.reply(wait=True) == {"ready": True}
    server._ready = True
    server.close()
    assert {"printed", "from C"} <= set((tmp_path / "server.txt").read_text().split("\n"))


def exit_code(running: processes.WorkerHandle) -> int | None:
    wait_for(lambda: running.poll() is not None)
    return running.poll()


@pytest.mark.slow
def test_the_real_server_forks_with_everything_imported(
    orders: Path, monkeypatch: pytest.MonkeyPatch, store: Store, prepared: Prepared
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("FAKE_ORDERS", str(orders))
    monkeypatch.setenv("PYTHONPATH", SITE)
    store.root.mkdir()
    launcher = Launcher(Hardware(name="x"), store.root)
    for name in ("a", "b"):
        assert exit_code(launcher.start(*prepared(name), distributed=True)) == 0
    launcher.close()


def test_a_server_that_the_kernel_killed_for_memory(
    server: ForkServer, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.process.kill()
    server.process.wait()
    monkeypatch.setattr(out_of_memory, "kill_count", lambda: server._killed_before + 1)
    with pytest.raises(
        PipelineError, match=r"memory ran out, and the kernel killed the fork server; .* of memory here; the same"
    ):
        server.start(*prepared())

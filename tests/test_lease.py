"""Leases: one holder at a time, on machines whose locks reach one another and on machines whose locks do not."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from alma_pipeline import files, heartbeat
from alma_pipeline.heartbeat import Watch, held_among
from alma_pipeline.lease import Lease, held
from alma_pipeline.mounts import Reach
from helpers.another_machine import start
from helpers.processes import wait_for

HOLDER = {"host": "far", "pid": 7, "machine": "kernel of far", "token": "its token", "released": False, "count": 3}


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a lease is; whether locks there reach other machines is unknown."""
    monkeypatch.setattr(heartbeat, "reach", lambda folder: Reach.UNKNOWN)
    monkeypatch.setattr(heartbeat, "STILL_SECONDS", 0.3)
    monkeypatch.setattr(heartbeat, "LOOK_SECONDS", 0.1)
    return tmp_path / "x.owner"


def beat(path: Path, number: int = 1, **changes: object) -> Path:
    """A heartbeat, as another process wrote it."""
    file = path.with_name(f"{path.name}.beat-{number}")
    file.write_text(json.dumps(HOLDER | changes))
    return file


def waits(found: Lease) -> list[str]:
    """What is waited for until the lease is acquired; it is then released."""
    texts: list[str] = []
    found.acquire(texts.append)
    found.release()
    return texts


def test_a_lease_leaves_two_files_however_often_it_is_held(path: Path) -> None:
    for number in (1, 2, 3):
        with held(path):
            assert Watch(path).is_held()
            assert [json.loads(file.read_text())["released"] for file in path.parent.glob("*.beat-*")] == [False]
        assert not Watch(path).is_held()
        assert sorted(file.name for file in path.parent.iterdir()) == ["x.owner", f"x.owner.beat-{number}"]


def test_the_heartbeat_goes_on_in_its_place(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.01)
    with held(path):
        file = path.with_name("x.owner.beat-1")
        inode, size = file.stat().st_ino, file.stat().st_size
        wait_for(lambda: json.loads(file.read_text())["count"] > 5)
        assert (file.stat().st_ino, file.stat().st_size) == (inode, size)


def test_on_one_machine_a_dead_holder_is_followed_at_once(path: Path) -> None:
    """Its lock is free, whatever its heartbeat says."""
    beat(path, machine=heartbeat.machine())
    assert waits(Lease(path)) == []


@pytest.mark.parametrize(
    ("reach", "expected"),
    [
        (Reach.ALL, []),
        (Reach.UNKNOWN, [" (process 7 on far; if it is dead, this continues once its heartbeat has not changed for 0 s)"]),
    ],
)
def test_a_dead_holder_on_another_machine(path: Path, monkeypatch: pytest.MonkeyPatch, reach: Reach, expected: list[str]) -> None:
    """No wait where locks reach all machines, as on NFS; else until its heartbeat has stood still."""
    monkeypatch.setattr(heartbeat, "reach", lambda folder: reach)
    beat(path)
    began = time.monotonic()
    assert waits(Lease(path)) == expected
    assert (time.monotonic() - began >= 0.3) == bool(expected)


def test_a_heartbeat_that_is_being_written_belongs_to_somebody(path: Path) -> None:
    beat(path).write_text("")
    assert waits(Lease(path)) == [""]


def test_a_list_of_the_folder_that_is_out_of_date_gives_no_second_holder(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As NFS may serve it for a minute: what it shows was released, deleted or followed long since."""
    real = heartbeat.numbers
    for shown, exists in ([], 1), ([], 5), ([4], 5), ([5], 5):
        answers = [shown]
        monkeypatch.setattr(heartbeat, "numbers", lambda path, answers=answers: answers.pop() if answers else real(path))
        alive = beat(path, exists)
        if shown == [4]:
            beat(path, 4, released=True)

        class Waits(Exception):
            pass

        def refuse(text: str, waits: type[Exception] = Waits) -> None:
            raise waits

        with pytest.raises(Waits):
            Lease(path).acquire(refuse)
        assert [file for file in path.parent.glob("*.beat-*") if not json.loads(file.read_text())["released"]] == [alive]
        assert not files.is_locked(path), "it does not keep the lock either"
        for file in path.parent.glob("*.beat-*"):
            file.unlink()


def test_time_in_which_nobody_looked_says_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watching process was suspended, or its file server did not answer; then that of the holder did not either."""
    beat(path)
    watch = Watch(path)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert watch.is_held()
    now += 3600
    assert watch.is_held(), "one look after an hour"
    now += 0.15
    assert not watch.is_held()


def test_who_was_followed_releases_nothing(path: Path) -> None:
    first = Lease(path)
    first.acquire(lambda text: None)
    path.with_name("x.owner.beat-1").unlink()
    newer = beat(path, 2)
    first.release()
    assert json.loads(newer.read_text()) == HOLDER
    second = Lease(path)
    second.acquire(lambda text: None)
    beat(path, 3)  # under the same number too
    second.release()
    assert json.loads(newer.with_name("x.owner.beat-3").read_text()) == HOLDER


def test_of_several_machines_one_follows_a_dead_holder(path: Path) -> None:
    """All have watched the same heartbeat for the same time."""
    beat(path)
    hosts = [f"m{number}" for number in range(3)]
    for host in hosts:
        (path.parent / host).mkdir()
    processes = [start(host, path.parent / host, "hold", str(path)) for host in hosts]
    wait_for(path.with_name("x.owner.beat-2").exists)
    time.sleep(1.0)
    for process in processes:
        process.kill()
    outputs = [process.communicate()[0] for process in processes]
    assert sorted("\nhas\n" in output for output in outputs) == [False, False, True], outputs
    assert all(output.startswith("waits  (process 7 on far;") for output in outputs)


def test_held_among_watches_heartbeats_of_other_machines(path: Path) -> None:
    dead, alive, free = (path.with_name(name) for name in ("dead.owner", "alive.owner", "free.owner"))
    beat(dead)
    beat(free, released=True)
    (path.parent / "locks").mkdir()
    process = start("far", path.parent / "locks", "hold", str(alive))
    assert process.stdout is not None and process.stdout.readline() == "has\n"
    texts: list[str] = []
    assert held_among([dead, alive, free], texts.append) == [alive]
    assert texts == ["looking for up to 0 s whether process 7 on far still works here"]
    process.kill()
    process.communicate()


def test_locks_of_one_machine_are_decided_without_watching(path: Path) -> None:
    with held(path):
        assert held_among([path, path.with_name("never")], pytest.fail) == [path]
    assert held_among([path], pytest.fail) == []


def test_a_process_that_dies_holding_it(path: Path) -> None:
    """By the lock alone, on the machine where it ran."""
    code = "import sys, os, pathlib; from alma_pipeline.lease import Lease; "
    code += "Lease(pathlib.Path(sys.argv[1])).acquire(print); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert waits(Lease(path)) == []
    assert path.with_name("x.owner.beat-2").exists()


def test_two_threads_may_release_it(path: Path) -> None:
    """A worker's own and its guard's, when both find that it is to end."""
    for _ in range(20):
        lease = Lease(path)
        lease.acquire(lambda text: None)
        with ThreadPoolExecutor(4) as threads:
            for done in [threads.submit(lease.release) for _ in range(4)]:
                done.result()
    assert not files.is_locked(path)

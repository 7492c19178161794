"""A process that reads and writes JSON lines, and the devices that several of them share."""

import os
import sys

import pytest

from alma_pipeline.errors import PipelineError
from alma_pipeline.ml.json_process import JsonProcess, device_groups
from alma_pipeline.schema import Hardware
from helpers.processes import lives, wait_for

ECHO = "import json, sys\nfor line in sys.stdin: print(json.dumps({'got': json.loads(line)}), flush=True)"
LEADER = """
import os, subprocess, sys
os.setsid()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print('{"child": %d}' % child.pid, flush=True)
sys.stdin.read()
os._exit(3)
"""


def start(code: str, **variables: str) -> JsonProcess:
    return JsonProcess([sys.executable, "-c", code], "the echo", "answering", os.environ | variables)


def test_lines_go_there_and_back() -> None:
    process = start(ECHO)
    process.send([{"a": "é\n"}, {"b": 1}])
    assert [process.receive(), process.receive()] == [{"got": {"a": "é\n"}}, {"got": {"b": 1}}]
    process.close()
    assert process.process.returncode is not None


def test_an_early_end_is_reported_with_the_end_of_the_log_which_is_copied_here(capfd: pytest.CaptureFixture[str]) -> None:
    process = start(
        "import os, sys\nfor n in range(30): print('line', n, file=sys.stderr)\nsys.exit(os.environ['WHY'])", WHY="no card"
    )
    with pytest.raises(PipelineError) as error:
        process.receive()
    process.close()
    head, *tail = str(error.value).splitlines()
    assert head == "the echo ended with exit code 1 while answering; the end of its log:"
    assert tail == [*(f"line {number}" for number in range(11, 30)), "no card"]
    assert "line 0\n" in capfd.readouterr().err


def test_all_that_it_started_ends_with_it() -> None:
    for patience in (0.0, 5.0):  # killed, or ended by itself and leaving a child
        process = start(LEADER)
        child = process.receive()["child"]
        assert lives(child)
        process.close(patience)
        wait_for(lambda: not lives(child), 5)  # noqa: B023 - called at once
        assert (process.process.returncode == 3) == bool(patience)


@pytest.mark.parametrize(
    ("given", "devices", "size", "groups"),
    [
        ("", 4, 1, ["0", "1", "2", "3"]),
        ("4,5,6,7", 4, 2, ["4,5", "6,7"]),
        ("GPU-a,GPU-b,GPU-c", 2, 1, ["GPU-a", "GPU-b"]),
        ("", 3, 2, ["0,1"]),
    ],
)
def test_devices_are_dealt_out_as_this_process_sees_them(
    monkeypatch: pytest.MonkeyPatch, given: str, devices: int, size: int, groups: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    hardware = Hardware(name="test", device="cuda", devices=devices, launcher="torchrun")
    assert device_groups(hardware, size) == [{"CUDA_VISIBLE_DEVICES": group} for group in groups]
    assert device_groups(Hardware(name="test", devices=devices, launcher="torchrun"), size) == [{}]

"""The queue between the pipeline and MLflow: never waits, keeps the order, survives an outage, warns once."""

import logging
import threading
import time
from typing import Any

import pytest

from alma_pipeline.tracking import outbox as module
from alma_pipeline.tracking.outbox import Event, Outbox


class Receiver:
    """Takes events while it is `up`; refuses those that say so; blocks while `gate` is closed."""

    def __init__(self) -> None:
        self.up = True
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.got: list[Any] = []

    def apply(self, event: Event) -> None:
        self.entered.set()
        self.gate.wait(10)
        if not self.up:
            raise ConnectionError("nobody there")
        if event["do"] == "bad":
            raise ValueError("not like this")
        self.got.append(event.get("lines") or event["do"])

    def reachable(self) -> bool:
        return self.up


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_DELAYS", (0.01, 0.02))


def metrics(node: str, *lines: int) -> Event:
    return {"do": "metrics", "node": node, "lines": list(lines)}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_events_arrive_in_order_and_metrics_together() -> None:
    receiver = Receiver()
    receiver.gate.clear()
    outbox = Outbox(lambda: receiver, "it")
    outbox.put({"do": "first"})
    receiver.entered.wait(10)
    for event in ({"do": "a"}, metrics("n", 1), metrics("n", 2), metrics("m", 3), {"do": "b"}, metrics("m", 4)):
        outbox.put(event)
    receiver.gate.set()
    outbox.close(10)
    assert receiver.got == ["first", "a", [1, 2], [3], "b", [4]]
    assert outbox.waiting() == []


def test_putting_never_waits() -> None:
    receiver = Receiver()
    receiver.gate.clear()
    outbox = Outbox(lambda: receiver, "it")
    began = time.monotonic()
    for step in range(1000):
        outbox.put(metrics("n", step))
    assert time.monotonic() - began < 1
    receiver.gate.set()
    outbox.close(10)
    assert [step for lines in receiver.got for step in lines] == list(range(1000))


def test_an_outage_is_waited_out_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    receiver = Receiver()
    receiver.up = False
    outbox = Outbox(lambda: receiver, "it")
    for step in range(5):
        outbox.put({"do": str(step)})
    time.sleep(0.2)
    assert outbox.down
    receiver.up = True
    outbox.close(10)
    assert receiver.got == ["0", "1", "2", "3", "4"]
    assert len(warnings(caplog)) == 1
    assert "it is unavailable (nobody there)" in warnings(caplog)[0]


def test_what_cannot_be_delivered_is_handed_back_in_time() -> None:
    receiver = Receiver()
    receiver.up = False
    outbox = Outbox(lambda: receiver, "it")
    outbox.put({"do": "a"})
    outbox.put({"do": "b"})
    began = time.monotonic()
    outbox.close(5)
    assert time.monotonic() - began < 2
    assert [event["do"] for event in outbox.waiting()] == ["a", "b"]


def test_a_receiver_that_hangs_does_not_hold_up_the_end() -> None:
    receiver = Receiver()
    receiver.gate.clear()
    outbox = Outbox(lambda: receiver, "it")
    outbox.put({"do": "a"})
    outbox.put({"do": "b"})
    began = time.monotonic()
    outbox.close(0.2)
    assert time.monotonic() - began < 2
    kept = outbox.waiting()
    receiver.gate.set()
    time.sleep(0.1)
    assert [event["do"] for event in kept] == ["a", "b"]
    assert receiver.got in ([], ["a"]), "once given up, only the event under way may still arrive"


def test_a_connection_that_fails_at_first(caplog: pytest.LogCaptureFixture) -> None:
    receiver = Receiver()
    tries: list[int] = []

    def connect() -> Receiver:
        tries.append(1)
        if len(tries) < 3:
            raise OSError("database is locked")
        return receiver

    outbox = Outbox(connect, "it")
    outbox.put({"do": "a"})
    assert outbox.wait(lambda: receiver.got == ["a"], 0) is False
    time.sleep(0.3)
    outbox.close(10)
    assert receiver.got == ["a"]
    assert len(warnings(caplog)) == 1


def test_a_refused_event_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    receiver = Receiver()
    outbox = Outbox(lambda: receiver, "it")
    for do in ("a", "bad", "b", "bad", "c"):
        outbox.put({"do": do})
    time.sleep(0.3)
    outbox.close(10)
    assert receiver.got == ["a", "b", "c"]
    assert warnings(caplog) == ["tracking: it refused bad (not like this); the run continues without it"]


def test_too_much_waiting_is_left_to_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 10)
    receiver = Receiver()
    receiver.gate.clear()
    outbox = Outbox(lambda: receiver, "it")
    outbox.put({"do": "begin"})
    receiver.entered.wait(10)
    for step in range(30):
        outbox.put(metrics("n", step))
    outbox.put({"do": "end"})
    assert outbox.gaps == {"n"}
    receiver.gate.set()
    outbox.close(10)
    assert receiver.got[-1] == "end", "only metrics may be left out"
    assert receiver.got[1:-1] == [list(range(9))], "nine beside the event under way"


def test_secrets_stay_out_of_the_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """B42."""
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "canary-77")

    def connect() -> Receiver:
        raise OSError("401 for https://me:canary-77@host")

    outbox = Outbox(connect, "it")
    outbox.put({"do": "a"})
    time.sleep(0.1)
    outbox.close(1)
    assert "401" in caplog.text
    assert "canary-77" not in caplog.text

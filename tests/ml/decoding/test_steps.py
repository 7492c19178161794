"""Recorded decoding steps: equal outputs, and no trust in a recording that repeats itself."""

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from alma_pipeline.ml.decoding import decode, tree
from alma_pipeline.ml.decoding.search import Beams, Sampling
from alma_pipeline.ml.decoding.steps import RECORDINGS, Steps, WrongReplayError, cuda_graph
from helpers.search_model import LIMITS, PROMPTS, SAMPLING, replayed, run

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("settings", [Beams(width=1), Beams(width=5), SAMPLING])
@pytest.mark.parametrize("budget", [1, 700, 100_000])
def test_recorded_steps_change_no_output(model: PreTrainedModel, settings: Beams | Sampling, budget: int) -> None:
    """Spare rows and columns, inputs at fixed addresses: what a CUDA graph is given, on the CPU."""
    limits = replace(LIMITS, decode_tokens=budget, max_new_tokens=30)
    assert run(tree, model, PROMPTS, settings, limits, replayed) == run(tree, model, PROMPTS, settings, limits)


def test_the_cache_is_freed_without_garbage_collection(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between training steps a device has no room for the cache of the last dev translations."""
    caches: list[weakref.ref[tree.TreeCache]] = []

    class Noted(tree.TreeCache):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            caches.append(weakref.ref(self))

    monkeypatch.setattr(tree, "TreeCache", Noted)
    gc.disable()
    try:
        run(tree, model, PROMPTS, Beams(width=2))
        assert len(caches) == 1 and caches[0]() is None
    finally:
        gc.enable()


def test_most_steps_are_replays(model: PreTrainedModel) -> None:
    recorded, replays = [0], [0]

    def capture(call: Callable[[], None]) -> Callable[[], None]:
        def replay() -> None:
            replays[0] += 1
            call()

        recorded[0] += 1
        return replay

    run(tree, model, [[0] * 9] * 20, Beams(width=2), replace(LIMITS, max_new_tokens=60, eos=999), capture)
    assert recorded[0] <= 4 and replays[0] >= 50


class Counter:
    """A step whose logits depend on all its inputs."""

    def __init__(self) -> None:
        self.plain = 0

    def __call__(self, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        self.plain += 1
        return (tokens + 10 * positions)[..., None] + mask[:, 0, :, :3]


def inputs(rows: int, value: int, columns: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    tokens = torch.full((rows, 2), value)
    return tokens, tokens + 1, torch.full((rows, 1, 2, columns), float(value))


def test_a_recording_is_compared_once_on_other_inputs_and_then_trusted() -> None:
    forward = Counter()
    steps = Steps(forward, replayed)
    for value in range(1, 6):
        expected = Counter()(*inputs(3, value))
        assert torch.equal(steps(*inputs(3, value), 4), expected)
    # Two plain calls, and replays at the second step and all later ones; the stub replays by calling.
    assert forward.plain == 2 + 4


def test_a_recording_that_repeats_what_it_recorded_is_found_out() -> None:
    """As a graph does in which a number was fixed that changes from step to step."""

    def stale(call: Callable[[], None]) -> Callable[[], None]:
        call()
        return lambda: None

    steps = Steps(Counter(), stale)
    steps(*inputs(3, 1), 4)
    with pytest.raises(WrongReplayError, match="has an error of"):
        steps(*inputs(3, 2), 4)


def test_a_step_that_cannot_be_recorded_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(call: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing")

    steps, forward = Steps(Counter(), fail), Counter()
    for value in (1, 2, 3):
        assert torch.equal(steps(*inputs(3, value), 4), forward(*inputs(3, value)))
    assert capsys.readouterr().out.count("cannot be recorded as a CUDA graph (operation not permitted") == 1


def test_a_process_in_which_a_recording_failed_records_no_more(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(model), "device", torch.device("cuda"))
    assert decode.capture_for(model, None) is cuda_graph
    monkeypatch.setattr(decode, "UNFINISHED", [object()])
    assert decode.capture_for(model, None) is None


def test_few_recordings_are_kept_and_all_are_dropped_when_the_memory_moves() -> None:
    steps = Steps(Counter(), replayed)
    for columns in range(8, 8 + 2 * RECORDINGS):
        steps(*inputs(3, 1, columns), 4)
    assert len(steps.recordings) == RECORDINGS
    steps.forget()
    assert not steps.recordings


def test_wrong_replays_are_decoded_again_without_recording(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The text is that of plain steps, also where the first prompts were done before the error was found."""
    expected = decode.beam_search(model, PROMPTS, 3, LIMITS)

    def stale(call: Callable[[], None]) -> Callable[[], None]:
        call()
        return lambda: None

    monkeypatch.setattr(decode, "capture_for", lambda *_: stale)
    assert decode.beam_search(model, PROMPTS, 3, LIMITS) == expected
    assert "launched one by one" in capsys.readouterr().out

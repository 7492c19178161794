"""COMET's worker on tiny real checkpoints, against `comet-score` on the same files (B43 to B48)."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alma_pipeline.errors import PipelineError, UserError
from alma_pipeline.ml import json_process
from alma_pipeline.ml.scoring import comet as library
from alma_pipeline.ml.scoring.comet import CometScores, CometSegment, score, worker_error
from alma_pipeline.ml.scoring.segment_cache import CachedScore, SegmentCache, segment_key
from alma_pipeline.schema import Hardware, Neural
from helpers.comet import comet_score, hardware, neural, scored, segments


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory, comet_models: Path) -> tuple[CometScores, Path]:
    """A thousand segments by the model that reads references, and the cache that this left."""
    cache = tmp_path_factory.mktemp("thousand") / "cache.db"
    return scored(neural(comet_models, "regression"), segments(1000), cache), cache


def assert_equal(ours: list[float], rows: list[dict[str, Any]]) -> None:
    """Both compute in half precision, and batch differently: a score differs by a rounding of it at most.

    Batched alike they are equal to the last bit, as `test_comet_score` shows.
    """
    theirs = [100 * row["COMET"] for row in rows]
    assert len(set(theirs)) > 100, "a model that tells segments apart"
    spread = max(theirs) - min(theirs)
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) < 0.01 * spread


def test_scores_and_order_of_a_thousand_segments_equal_comet_score_s(
    tmp_path: Path, comet_models: Path, thousand: tuple[CometScores, Path]
) -> None:
    """B44."""
    ours = thousand[0]
    assert_equal(ours.scores, comet_score(tmp_path, neural(comet_models, "regression"), segments(1000), True))
    assert ours.cut == [False] * 1000 and "reference:yes|precision:fp16|comet:2.2.7" in ours.signature


def test_so_they_do_without_references(tmp_path: Path, comet_models: Path) -> None:
    model, found = neural(comet_models, "referenceless"), segments(300)
    ours = scored(model, found, tmp_path / "cache.db")
    assert_equal(ours.scores, comet_score(tmp_path, model, found, False))
    assert "reference:no" in ours.signature


def test_a_model_that_can_do_without_the_reference_is_told_which(tmp_path: Path, comet_models: Path) -> None:
    """As XCOMET, which is of the same family: with and without are two metrics, that share no cached score.

    B48: joined in one sequence of 64 positions, texts are too long together that would fit each on its own.
    """
    found = [CometSegment("der Hund", "the dog", "the dog!"), CometSegment("a" * 30, "b" * 30, "c" * 30)]
    seen = scored(neural(comet_models, "unified", precision="fp32"), found, tmp_path / "cache.db")
    blind = scored(neural(comet_models, "unified", precision="fp32", reference=False), found, tmp_path / "cache.db")
    assert "reference:yes" in seen.signature and "reference:no" in blind.signature
    assert all(a != b for a, b in zip(seen.scores, blind.scores, strict=True))
    assert seen.cut == [False, True] == blind.cut


def test_what_was_scored_once_is_not_scored_again(comet_models: Path, thousand: tuple[CometScores, Path]) -> None:
    """A repeated segment too; the worker is asked for the model's revision and for nothing else."""
    found, seen = segments(1000), list[tuple[int, int]]()
    again = scored(neural(comet_models, "regression"), [*found, found[3]], thousand[1], lambda *at: seen.append(at))
    assert again.scores == [*thousand[0].scores, thousand[0].scores[3]] and seen == []


def test_line_breaks_and_texts_beyond_the_limit_stay_in_their_segment(
    tmp_path: Path, comet_models: Path, thousand: tuple[CometScores, Path]
) -> None:
    """B45: lines are JSON, so that a break within a text ends nothing. B48: what is longer than the model reads is counted."""
    odd = [
        CometSegment("a\nb", 'c\r\n"d"\u2028e', "f\\g"),
        CometSegment("", "", ""),
        CometSegment("🎈", "\u0000", "x"),
        CometSegment("x" * 80, "y", "z"),
    ]
    plain = segments(1000)[:5]
    seen = list[tuple[int, int]]()
    found = scored(
        neural(comet_models, "regression", precision="fp32"), [*odd, *plain], tmp_path / "a.db", lambda *at: seen.append(at)
    )
    assert found.cut == [False, False, False, True, *[False] * 5] and seen == [(9, 9)]
    spread = max(thousand[0].scores) - min(thousand[0].scores)
    assert found.scores[4:] == pytest.approx(thousand[0].scores[:5], abs=0.01 * spread), "all but the precision is the same"


def test_a_crash_is_clear_and_loses_nothing_that_was_scored(
    tmp_path: Path, comet_models: Path, thousand: tuple[CometScores, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker is killed after its first batch; run again, the scores are an uninterrupted run's to the last bit."""
    metric, found, cache = neural(comet_models, "regression"), segments(1000), SegmentCache(tmp_path / "cache.db")
    started = list[library.CometWorker]()
    monkeypatch.setattr(library, "CometWorker", _remembered(started))

    def kill(done: int, total: int) -> None:
        started[0].process.process.kill()

    with pytest.raises(PipelineError, match=r"worker ended with signal 9 while scoring with .*model.ckpt"):
        score(metric, found, hardware(), cache, kill)
    signature = thousand[0].signature
    kept = len(cache.find(segment_key(signature, *library._parts(item, True)) for item in found))
    assert 0 < kept < 1000
    done = list[int]()
    assert scored(metric, found, tmp_path / "cache.db", lambda at, _: done.append(at)).scores == thousand[0].scores
    assert kept < done[0] <= kept + 16


def _remembered(started: list[library.CometWorker]) -> Callable[..., library.CometWorker]:
    make = library.CometWorker

    def worker(metric: Neural, machine: Hardware, variables: dict[str, str]) -> library.CometWorker:
        started.append(make(metric, machine, variables))
        return started[-1]

    return worker


@pytest.fixture
def two_devices(monkeypatch: pytest.MonkeyPatch) -> list[library.CometWorker]:
    """As on a machine with two devices; the workers that are started."""
    started = list[library.CometWorker]()
    monkeypatch.setattr(library, "CometWorker", _remembered(started))
    monkeypatch.setattr(json_process, "device_groups", lambda machine: [{"DEVICE": "0"}, {"DEVICE": "1"}])
    return started


def test_two_devices_share_the_segments_and_give_the_scores_of_one(
    tmp_path: Path, comet_models: Path, thousand: tuple[CometScores, Path], two_devices: list[library.CometWorker]
) -> None:
    """To the last bit, and each score is in the cache: batches are formed before they are dealt out."""
    done = list[int]()
    found = scored(neural(comet_models, "regression"), segments(1000), tmp_path / "cache.db", lambda at, _: done.append(at))
    assert found == thousand[0] and len(two_devices) == 2
    assert sorted(done) == done and done[-1] == 1000
    keys = [segment_key(found.signature, *library._parts(item, True)) for item in segments(1000)]
    assert SegmentCache(tmp_path / "cache.db").find(keys) == SegmentCache(thousand[1]).find(keys)


def test_with_little_to_score_the_other_devices_start_no_worker(
    tmp_path: Path, comet_models: Path, two_devices: list[library.CometWorker]
) -> None:
    scored(neural(comet_models, "regression"), segments(16), tmp_path / "cache.db")
    assert len(two_devices) == 1


FAILS_ON_ONE = """#!{python}
import json, os, sys, time
print(json.dumps({{"revision": "1", "reference": False, "joint": False, "comet": "0"}}), flush=True)
rows = [json.loads(line) for line in sys.stdin][:-1]
if os.environ["DEVICE"] == "1":
    sys.exit("CUDA error: device 1 is lost")
time.sleep(600)
"""


def test_a_worker_that_fails_ends_the_others_and_the_error_has_the_end_of_its_log(
    tmp_path: Path, two_devices: list[library.CometWorker]
) -> None:
    python = tmp_path / "python"
    python.write_text(FAILS_ON_ONE.format(python=sys.executable))
    python.chmod(0o755)
    found = [CometSegment("s", f"h{number}", None) for number in range(40)]
    with pytest.raises(PipelineError, match=r"exit code 1 while scoring with a/b; the end of its log:\nCUDA error: device 1 is"):
        score(Neural(model="a/b"), found, hardware(str(python)), SegmentCache(tmp_path / "cache.db"), print)
    assert [worker.process.process.poll() for worker in two_devices] == [-signal.SIGKILL, 1]


NOT_A_NUMBER = """#!{python}
import json, sys
print(json.dumps({{"revision": "1", "reference": False, "joint": False, "comet": "0"}}), flush=True)
for row in [json.loads(line) for line in sys.stdin][:-1]:
    print(json.dumps({{"id": row["id"], "score": float("nan") if row["mt"].endswith("3") else 0.5, "cut": False}}), flush=True)
print(json.dumps({{"done": 1}}), flush=True)
"""


def test_a_score_that_is_no_number_is_an_error_and_the_others_are_kept(tmp_path: Path) -> None:
    python, cache = tmp_path / "python", SegmentCache(tmp_path / "cache.db")
    python.write_text(NOT_A_NUMBER.format(python=sys.executable))
    python.chmod(0o755)
    found = [CometSegment("s", f"h{number}", None) for number in range(5)]
    with pytest.raises(PipelineError, match=r"a/b gives scores that are not finite in fp16; use scorers.*precision=fp32"):
        score(Neural(model="a/b"), found, hardware(str(python)), cache, print)
    signature = library.find_model(Neural(model="a/b"), hardware(str(python))).signature
    assert len(cache.find(segment_key(signature, *library._parts(item, False)) for item in found)) == 4


def test_a_python_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    cache = SegmentCache(tmp_path / "cache.db")
    told = r"expected at /no/python but does not exist. Run `make comet`, or set evaluation.comet.python=PATH"
    with pytest.raises(UserError, match=told):
        score(Neural(model="a/b"), segments(1), hardware("/no/python"), cache, print)


def test_a_python_without_comet_and_a_missing_checkpoint_too(tmp_path: Path) -> None:
    """Under this test's own Python, which has no COMET."""
    machine, cache = hardware(sys.executable), SegmentCache(tmp_path / "cache.db")
    with pytest.raises(UserError, match=r"no.ckpt cannot be used: expected a hub repository, or a .ckpt file"):
        score(Neural(model=str(tmp_path / "no.ckpt")), segments(1), machine, cache, print)
    checkpoint = tmp_path / "checkpoints" / "model.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"weights")
    with pytest.raises(UserError, match=r"model.ckpt cannot be used: .*hparams.yaml is missing"):
        score(Neural(model=str(checkpoint)), segments(1), machine, cache, print)
    (tmp_path / "hparams.yaml").write_text("class_identifier: regression_metric")
    with pytest.raises(UserError, match="lacks a package; run `make comet`"):
        score(Neural(model=str(checkpoint)), segments(1), machine, cache, print)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("GatedRepoError", "accept its licence at https://huggingface.co/Unbabel/XCOMET-XXL"),
        ("RepositoryNotFoundError", "HF_TOKEN"),
        ("LocalEntryNotFoundError", "hub is unreachable"),
        ("OutOfMemoryError", "evaluation.comet.batch"),
    ],
)
def test_what_the_hub_and_the_device_refuse_is_told(kind: str, said: str) -> None:
    """B47."""
    error = worker_error(kind, "401", "Unbabel/XCOMET-XXL", "python")
    assert isinstance(error, UserError) and said in str(error) and "401" in str(error)
    assert not isinstance(worker_error("ValueError", "x", "m", "python"), UserError)


def test_the_cache_tells_metrics_and_texts_apart(tmp_path: Path) -> None:
    cache = SegmentCache(tmp_path / "a" / "cache.db")
    one, other = segment_key("m@1", "s", "h", "r"), segment_key("m@2", "s", "h", "r")
    assert (
        len(
            {one, other, segment_key("m@1", "s", "h", None), segment_key("m@1", "sh", "", "r"), segment_key("m@1", "s", "hr", "")}
        )
        == 5
    )
    cache.add({one: CachedScore(0.1 + 0.2, True)})
    cache.add({one: CachedScore(0.9, False)})
    assert SegmentCache(tmp_path / "a" / "cache.db").find([one, other]) == {one: CachedScore(0.1 + 0.2, True)}
    many = {segment_key("m", str(number), "", None): CachedScore(float(number), False) for number in range(1200)}
    cache.add(many)
    assert cache.find(many) == many

"""The `preferences` stage with neural scorers, several checkpoints and other rules, on tiny real models."""

import json
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from alma_pipeline.execution.attempt import clear_leftovers
from alma_pipeline.execution.launch import start_without_server
from alma_pipeline.job import Input, Job
from alma_pipeline.ml.scoring.metrics import sentence_chrf
from alma_pipeline.paths import comet_interpreter
from alma_pipeline.schema import Source
from alma_pipeline.store.store import Store
from helpers.comet import hardware, neural
from helpers.tiny_checkpoint import LANGUAGES, kept_outputs, make_checkpoint, make_corpus, make_job, pairs, read
from stages.preferences.config import Config
from stages.preferences.run import run

BATCH = hardware().comet_batch
SETTINGS: dict[str, Any] = {
    "pairs": Source(reader="candidates"),
    "languages": {code: LANGUAGES[code] for code in ("en", "de")},
    "sources": 4,
    "held_out": 2,
    "candidates": 3,
    "max_new_tokens": 6,
    "min_margin": 0.01,
    "seed": 1,
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Input]:
    """Two checkpoints: the second one's weights differ a little."""
    train = [row for direction in ("en-de", "de-en") for row in pairs(direction, range(1, 3))]
    dev = [row for direction in ("en-de", "de-en") for row in pairs(direction, range(4, 6))]
    corpus = make_corpus(tmp_path_factory.mktemp("corpus") / "pairs", train=train, dev=dev)
    init, also = (make_checkpoint(tmp_path_factory.mktemp(name)) for name in ("init", "also"))
    path = Path(also.path) / "model.safetensors"
    torch.manual_seed(5)
    save_file({name: value + 0.05 * torch.randn_like(value) for name, value in load_file(path).items()}, path, {"format": "pt"})
    return {"init": init, "also_second": also, "corpus": corpus}


@pytest.fixture(scope="module")
def scorers(comet_models: Path) -> dict[str, Any]:
    named = {"quality": neural(comet_models, "referenceless", precision="fp32")}
    return {"score_by": ["chrf", "quality"], "scorers": named}


def prepared(work: Path, inputs: dict[str, Input], **settings: Any) -> Job:
    job = make_job(work, "preferences", inputs, **(SETTINGS | settings))
    return Job(job.name, job.key, job.work, job.config, hardware(), job.inputs)


def rows(job: Job) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read(job.out / "train.jsonl") + read(job.out / "dev.jsonl")
    return found


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, inputs: dict[str, Input], scorers: dict[str, Any]
) -> tuple[Job, dict[str, Any]]:
    job = prepared(tmp_path_factory.mktemp("made") / "store" / "work" / "job", inputs, **scorers)
    return job, run(job)


def test_every_candidate_keeps_the_scores_whose_mean_chose_it(made: tuple[Job, dict[str, Any]]) -> None:
    job, result = made
    assert set(result["scorers"]) == {"chrf", "quality"} and "comet:2.2.7" in result["scorers"]["quality"]
    for row in rows(job):
        origins = Counter(candidate["origin"] for candidate in row["candidates"])
        assert origins == {"sample": 3, "second": 3, "reference": 1}
        reference = next(candidate["text"] for candidate in row["candidates"] if candidate["origin"] == "reference")
        for candidate in row["candidates"]:
            assert candidate["scores"]["chrf"] == sentence_chrf(candidate["text"], reference)
            assert candidate["score"] == sum(candidate["scores"].values()) / 2
        assert row["chosen_score"] == max(candidate["score"] for candidate in row["candidates"])
        assert row["rejected_score"] == min(candidate["score"] for candidate in row["candidates"])


def test_the_counts_add_up(made: tuple[Job, dict[str, Any]]) -> None:
    job, result = made
    counts = result["counts"]
    assert result["sentences"] == 12 and result["samples"] == 12 * 6
    assert len(rows(job)) == counts["train_examples"] + counts["dev_examples"] == 12 - sum(counts["dropped"].values())
    for key in ("chosen_from", "rejected_from"):
        assert sum(counts[key].values()) == len(rows(job)) and set(counts[key]) <= {"sample", "second", "reference"}
    assert counts["chosen_from"].get("reference", 0) == counts["chosen_is_reference"]


def test_a_run_that_failed_goes_on_to_the_same_bits(
    tmp_path: Path, inputs: dict[str, Input], scorers: dict[str, Any], made: tuple[Job, dict[str, Any]]
) -> None:
    """The second checkpoint's folder is gone at first; then the first one's weights are, which are not needed any more."""
    gone = Input("d" * 64, "base", "/gone", {}, base="/gone")
    job = prepared(tmp_path / "store" / "work" / "job", inputs | {"also_second": gone}, **scorers)
    with pytest.raises(Exception, match="gone"):
        run(job)
    assert [path.name for path in job.resume.iterdir()] == ["samples-init.0.jsonl"]
    words = tmp_path / "words"
    AutoTokenizer.from_pretrained(inputs["init"].path).save_pretrained(words)
    again = Job(job.name, job.key, job.work, job.config, job.hardware, inputs | {"init": Input("b" * 64, "base", str(words), {})})
    result = run(again)
    assert rows(again) == rows(made[0])
    assert {**result, "seconds": 0} == {**made[1], "seconds": 0}


def stalling(python: Path) -> str:
    """A script in place of COMET's Python."""
    return f'''#!{sys.executable}
"""COMET's Python, whose worker says no more after its greeting and the first {2 * BATCH} scores; it ends with its parent."""
import os, subprocess, sys, time
worker = subprocess.Popen(["{python}", *sys.argv[1:]], stdout=subprocess.PIPE)
parent = os.getppid()
for _ in range(1 + 2 * {BATCH}):
    sys.stdout.buffer.write(worker.stdout.readline())
    sys.stdout.buffer.flush()
worker.kill()
while os.getppid() == parent:
    time.sleep(0.05)
'''


def test_workers_killed_while_sampling_and_while_scoring_leave_the_same_bytes(
    tmp_path: Path, inputs: dict[str, Input], scorers: dict[str, Any], made: tuple[Job, dict[str, Any]]
) -> None:
    """A real worker, ended by SIGKILL after the first samples of each checkpoint, and again after the first neural scores."""
    store = Store(tmp_path / "store")
    job = prepared(store.work_path("test.preferences", f"{'preferences':k<64}"), inputs, **scorers)
    job = replace(job, hardware=replace(job.hardware, decode_tokens=1))  # one sentence at a time
    for kept in ("samples-init.0.jsonl", "samples-also_second.0.jsonl"):
        assert attempt(store, job, (job.resume / kept).exists) == -signal.SIGKILL
        assert not (Path(job.work) / "result.json").exists() and not list(job.out.iterdir())
    drawn = [line for path in job.resume.iterdir() for line in path.read_text().splitlines()]
    stalls = tmp_path / "python"
    stalls.write_text(stalling(comet_interpreter(None).absolute()))
    stalls.chmod(0o755)
    cache = job.cache / "segment_scores.db"
    stalled = replace(job, hardware=replace(job.hardware, comet_python=str(stalls)))
    assert attempt(store, stalled, lambda: count(cache) > 0) == -signal.SIGKILL
    assert len(kept_outputs(job, "samples-init")) == len(kept_outputs(job, "samples-also_second")) == 12
    assert set(drawn) <= {line for path in job.resume.iterdir() for line in path.read_text().splitlines()}
    known = count(cache)
    assert attempt(store, job, lambda: False) == 0
    assert 0 < known < count(cache)
    result = json.loads((Path(job.work) / "result.json").read_text())
    assert result | {"seconds": 0} == made[1] | {"seconds": 0}
    whole = {path.name: path.read_bytes() for path in made[0].out.iterdir()}
    assert {path.name: path.read_bytes() for path in job.out.iterdir()} == whole
    left = read(job.out / "dropped.jsonl") if "dropped.jsonl" in whole else []
    assert len(rows(job)) + len(left) == result["sentences"] and sum(result["counts"]["dropped"].values()) == len(left)
    assert sum(len(row["candidates"]) for row in [*rows(job), *left]) == result["samples"] + result["sentences"]


def count(cache: Path) -> int:
    """Scores that are kept."""
    if not cache.exists():
        return 0
    with closing(sqlite3.connect(cache, timeout=60)) as base:
        tables = base.execute("select count(*) from sqlite_master").fetchone()[0]
        return int(base.execute("select count(*) from scores").fetchone()[0]) if tables else 0


def attempt(store: Store, job: Job, is_time: Callable[[], bool]) -> int:
    """The exit code of a worker that is killed as soon as it is time, begun as the runner begins it."""
    work = store.begin(job.name, job.key)
    try:
        clear_leftovers(work.path, fresh=False)
        job.write()
        running = start_without_server(job.hardware, work.path, work.token, distributed=False)
        while running.poll() is None and not is_time():
            time.sleep(0.002)
        running.process.kill()
        return running.process.wait()
    finally:
        work.close()


def test_the_reference_rule_chooses_the_reference(tmp_path: Path, inputs: dict[str, Input]) -> None:
    job = prepared(tmp_path / "work", {name: inputs[name] for name in ("init", "corpus")}, rule="reference", min_margin=50.0)
    counts = run(job)["counts"]
    assert counts["chosen_from"] == {"reference": counts["train_examples"] + counts["dev_examples"]}
    assert all(row["chosen"] == row["candidates"][-1]["text"] for row in rows(job))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"score_by": []}, "score_by=nothing: expected one scorer"),
        ({"score_by": ["chrf", "chrf"]}, "score_by=chrf, chrf: expected one scorer or several different ones"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], named: str) -> None:
    assert any(named in text for text in Config(**settings).conflicts())

"""The `corpus` stage on files: every form, cleaned, held out, decontaminated; killed and gone on."""

import itertools
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from alma_pipeline.errors import UserError
from alma_pipeline.job import Input, Job
from alma_pipeline.ml.data import ingest, tokenise
from alma_pipeline.schema import Cleaning, Language
from helpers.text_files import LANGUAGES, TWO, english, german, json_lines, make_base, make_job, nested, pairs_job, rows, source
from stages.corpus.config import Config
from stages.corpus.run import run

SIZE = 400


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Input:
    return make_base(tmp_path_factory.mktemp("base"))


def arrays(job: Job) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(job.out.iterdir())}


def test_pairs(tmp_path: Path, base: Input) -> None:
    job = pairs_job(tmp_path, base, nested(SIZE))
    counts = run(job)["counts"]
    train, dev = rows(job.out / "train.jsonl"), rows(job.out / "dev.jsonl")
    assert counts["directions"] == {name: {"train": SIZE - 10, "dev": 10} for name in ("de-en", "en-de")}
    assert counts["train_examples"] == len(train) == 2 * (SIZE - 10) and counts["dev_examples"] == len(dev) == 20
    assert [row["direction"] for row in train[:4]] == ["de-en", "en-de", "de-en", "en-de"], "directions take turns"
    held = {text for row in dev for text in (row["source"], row["target"])}
    assert len(held) == 20, "both directions hold out the same pairs"
    assert not held & {text for row in train for text in (row["source"], row["target"])}
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    tokens, offsets, prompt = (np.load(job.out / f"train.{part}.npy") for part in ("tokens", "offsets", "prompt"))
    for place, row in itertools.islice(enumerate(train), 0, None, 37):
        ids = tokens[offsets[place] : offsets[place + 1]]
        assert tokenizer.decode(ids[prompt[place] : -1]) == row["target"]
        assert tokenizer.decode(ids[1 : prompt[place]]).endswith("English:" if row["direction"] == "de-en" else "German:")
    assert counts["train_tokens"] == len(tokens) == offsets[-1] and counts["longest"] >= max(np.diff(offsets))


def test_one_direction_and_a_limit(tmp_path: Path, base: Input) -> None:
    job = pairs_job(tmp_path, base, nested(SIZE), directions=["en-de"], train=50)
    assert run(job)["counts"]["directions"] == {"en-de": {"train": 50, "dev": 10}}


def test_cleaning_is_counted_by_step_and_part(tmp_path: Path, base: Input) -> None:
    found = [
        *nested(SIZE),
        *nested(30),
        {"translation": {"de": "", "en": "x"}},
        {"translation": {"de": "zu", "en": "long " * 40}},
    ]
    job = pairs_job(tmp_path, base, found, cleaning=Cleaning(steps=["exact", "ratio"]))
    counts = run(job)["counts"]
    dropped = counts["cleaning"]["de-en"]["dropped"]
    assert dropped["empty"] == dropped["ratio"] == 1
    assert dropped["held_out"] >= 10 and dropped["held_out"] + dropped["exact_duplicate"] == 40, "copies of held-out rows go too"
    assert counts["read"] == 2 * len(found) == 2 * (counts["cleaning"]["de-en"]["kept"] + 42)
    lines = [json.loads(line) for line in (Path(job.work) / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["metrics"]["data/dropped/exact_duplicate"] == 2 * dropped["exact_duplicate"], "in tracking too"


def test_skipped_rows_are_part_of_the_artifact(tmp_path: Path, base: Input) -> None:
    job = pairs_job(tmp_path, base, [*nested(SIZE), "no object"], pairs=source("de.jsonl", on_error="skip"))
    assert run(job)["counts"]["rejected"] == 1
    assert rows(job.out / "rejected.jsonl")[0]["where"].endswith(f"train:{SIZE + 1}")
    with pytest.raises(UserError, match=rf"train:{SIZE + 1}: expected an object.*data\.on_error=skip"):
        run(pairs_job(tmp_path, base, [*nested(SIZE), "no object"], "two"))


def a_test_set(tmp_path: Path, numbers: range) -> Input:
    json_lines(tmp_path / "tests" / "test.jsonl", [{"source": german(n), "target": english(n)} for n in numbers])
    return Input("test", "corpus", str(tmp_path / "tests"), {})


def test_sentences_of_the_test_set_go_and_too_many_stop(tmp_path: Path, base: Input) -> None:
    """Sentences of the test set leave the training text; where more than 5 % would go, it stops and says so."""
    few = {"test": a_test_set(tmp_path, range(15))}
    job = pairs_job(tmp_path, base, nested(SIZE), cleaning=Cleaning(steps=["test"]), inputs=few)
    assert run(job)["counts"]["cleaning"]["de-en"]["dropped"]["test"] == 15
    assert not {german(n) for n in range(15)} & {row["source"] for row in rows(job.out / "train.jsonl")}
    many = {"test": a_test_set(tmp_path, range(25))}
    with pytest.raises(UserError, match=r"de-en: 25 of 400 rows \(6\.2%\) are in the run's test set, more than .*=5%"):
        run(pairs_job(tmp_path, base, nested(SIZE), "two", cleaning=Cleaning(steps=["test"]), inputs=many))


def test_too_many_sentences_of_the_test_set_stop_every_attempt(tmp_path: Path, base: Input) -> None:
    """What was read before the stop is kept, and checked again."""
    many = {"test": a_test_set(tmp_path, range(25))}
    job = pairs_job(tmp_path, base, nested(SIZE), cleaning=Cleaning(steps=["test"]), inputs=many)
    for _ in range(3):
        with pytest.raises(UserError, match=r"de-en: 25 of 400 rows .* are in the run's test set"):
            run(job)


def test_the_test_corpus_is_an_input_only_where_it_matters() -> None:
    inputs = {"base": "base", "test": "test_corpus"}
    assert Config(inputs=inputs).roles() == {"base": "base"}
    assert Config(inputs=inputs, cleaning=Cleaning(steps=["test"])).roles() == inputs


@pytest.mark.parametrize(
    ("codes", "steps", "expected"),
    [
        (("en", "de"), ["near", "test"], {}),
        (("en", "de", "hi"), ["near"], {"marks": 2}),
        (("en", "hi"), ["test"], {"marks": 2}),
        (("en", "hi"), ["script"], {"marks": 2}),
        (("en", "hi"), ["exact", "nfc", "language"], {}),
    ],
)
def test_the_rule_of_marks_counts_where_a_script_has_them(codes: tuple[str, ...], steps: list[str], expected: Any) -> None:
    languages = LANGUAGES | {"hi": Language(name="Hindi", locale="hi", nllb="hin_Deva")}
    config = Config(languages={code: languages[code] for code in codes}, cleaning=Cleaning(steps=steps))
    assert config.rules() == expected


def test_a_test_form(tmp_path: Path) -> None:
    files = {"de.jsonl": json_lines(tmp_path / "x", nested(30))}
    config = Config(form="test", pairs=source(*files), languages=TWO, held_out=20, seed=7)
    job = make_job(tmp_path / "one", config, files)
    assert run(job)["counts"]["directions"] == {"de-en": {"test": 20}, "en-de": {"test": 20}}
    assert rows(job.out / "test.jsonl")[1] == {"id": "en-de:1", "direction": "en-de", "source": english(0), "target": german(0)}


def documents_job(tmp_path: Path, base: Input, name: str = "one", **settings: Any) -> Job:
    german_text = json_lines(tmp_path / "de.jsonl", [{"text": f"{german(n)}\n{german(n + 1)}"} for n in range(SIZE)])
    (tmp_path / "en.txt").write_text("".join(f"{english(n)}\n" for n in range(SIZE // 4)))
    files = {
        "de.jsonl": german_text,
        "en.txt": tmp_path / "en.txt",
        "all.jsonl": json_lines(tmp_path / "all.jsonl", pairs_rows()),
    }
    own = {"form": "documents", "text": source("de.jsonl", "en.txt"), "pairs": source("all.jsonl"), "languages": TWO}
    config = Config(**{**own, "held_out": 5, "seed": 7, "block": 64, **settings})
    return make_job(tmp_path / name, config, files, base=base)


def pairs_rows() -> list[dict[str, str]]:
    return [{"source": german(n), "target": english(n), "direction": "de-en"} for n in range(1000, 1200)]


def test_documents_in_blocks_by_temperature(tmp_path: Path, base: Input) -> None:
    job = documents_job(tmp_path, base, temperature=1.0)
    counts = run(job)["counts"]
    blocks = np.load(job.out / "train.blocks.npy", mmap_mode="r")
    assert blocks.shape == (counts["train_examples"], 64) and counts["train_tokens"] == blocks.size
    drawn = {code: count["train"] for code, count in counts["languages"].items()}
    assert 3 < drawn["de"] / drawn["en"] < 5, "as their sizes are"
    assert counts["dev_examples"] == 10 == len(np.load(job.out / "dev.bytes.npy"))
    even = run(documents_job(tmp_path, base, "two", temperature=1e9))["counts"]["languages"]
    assert 0.8 < even["de"]["train"] / even["en"]["train"] < 1.25


def test_a_token_budget_ends_the_packing(tmp_path: Path, base: Input) -> None:
    whole = run(documents_job(tmp_path, base))["counts"]["train_tokens"]
    some = run(documents_job(tmp_path, base, "two", tokens=10.0))["counts"]["train_tokens"]
    assert 0 < some <= whole


def test_pseudo_mono_joins_pairs_among_documents(tmp_path: Path, base: Input) -> None:
    job = documents_job(tmp_path, base, form="pseudo_mono")
    counts = run(job)["counts"]
    assert set(counts["languages"]) == {"en", "de", "de-en", "en-de"}
    found = [row for row in rows(job.out / "train.jsonl") if "-" in row["language"]]
    assert 0.3 < len(found) / counts["train_documents"] < 0.7
    either = {f"{german(n)} {english(n)}" for n in range(1000, 1200)} | {f"{english(n)} {german(n)}" for n in range(1000, 1200)}
    assert {row["text"] for row in found} <= either
    assert len(np.load(job.out / "dev.bytes.npy")) == counts["dev_examples"] == 15


def test_too_little_to_hold_out_is_said_with_numbers(tmp_path: Path, base: Input) -> None:
    with pytest.raises(UserError, match=r"held_out=10 .*only \d of de-en's 20 rows can be held out"):
        run(pairs_job(tmp_path, base, nested(20)))


@pytest.mark.parametrize("form", ["pairs", "documents"])
def test_a_killed_preparation_goes_on_and_ends_the_same(tmp_path: Path, base: Input, form: str, monkeypatch: Any) -> None:
    """At every point where it saves: what is there after the end is what an undisturbed run leaves."""
    monkeypatch.setattr(ingest, "BATCH", 60)
    monkeypatch.setattr(tokenise, "BATCH", 60)
    monkeypatch.setattr(ingest, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(tokenise, "SAVE_SECONDS", 0.0)
    cleaning = Cleaning(steps=["exact"])

    def job(name: str) -> Job:
        if form == "pairs":
            return pairs_job(tmp_path, base, [*nested(SIZE), *nested(90, 100)], name, cleaning=cleaning)
        return documents_job(tmp_path, base, name, cleaning=cleaning)

    whole = job("whole")
    expected = run(whole)["counts"]
    saves = len((Path(whole.work) / "metrics.jsonl").read_text().splitlines())
    assert saves > 8
    again, attempts = job("again"), 0
    save = ingest.Ingestion.save

    def killed(self: ingest.Ingestion) -> None:
        save(self)
        killed.left -= 1  # type: ignore[attr-defined]
        if not killed.left:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    monkeypatch.setattr(ingest.Ingestion, "save", killed)
    while True:
        killed.left = 3  # type: ignore[attr-defined]
        try:
            counts = run(again)["counts"]
            break
        except KeyboardInterrupt:
            attempts += 1
    assert attempts >= 3
    assert counts == expected
    assert arrays(again) == arrays(whole)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_text(tmp_path: Path, base: Input) -> None:
    """B62's sibling: a process each for 20,000 and 200,000 lines; the latter may take at most 60 MB more."""
    peaks = []
    for count in (20_000, 200_000):
        path = tmp_path / f"{count}.txt"
        path.write_text("".join(f"{english(n)}\n" for n in range(count)))
        started = time.monotonic()
        command = [sys.executable, "-m", "helpers.corpus_memory", str(path), base.path, str(tmp_path / f"work-{count}")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.split()[-1]))
        assert time.monotonic() - started < 300
    assert peaks[1] - peaks[0] < 60, peaks

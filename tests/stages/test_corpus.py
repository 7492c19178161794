"""The `corpus` stage, every form run for real on two languages."""

import hashlib
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from alma_pipeline.errors import UserError
from alma_pipeline.job import Input
from alma_pipeline.ml.data import ingest, tokenise
from alma_pipeline.ml.data.cldr import CldrReader, Phrasebook
from alma_pipeline.schema import Cleaning, Source
from helpers.generated_corpus import DIRECTIONS, LANGUAGES, NAMES, PARTS, TEST, TRAIN, Made, make_base
from helpers.text_files import json_lines


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Input:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def tokenizer(base: Input) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(base.path)


@pytest.fixture(scope="module")
def pairs(base: Input, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("pairs"), {"base": base}, form="pairs", pairs=TRAIN, train=60)


@pytest.fixture(scope="module")
def documents(base: Input, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("documents"), {"base": base}, form="documents", text=TRAIN, train=50, block=64)


@pytest.fixture(scope="module")
def pseudo(base: Input, tmp_path_factory: pytest.TempPathFactory) -> Made:
    work = tmp_path_factory.mktemp("pseudo")
    return Made(work, {"base": base}, form="pseudo_mono", text=TRAIN, pairs=TRAIN, train=50, block=64)


@pytest.fixture(scope="module")
def test_set(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("test"), {}, form="test", pairs=TEST, held_out=30)


def test_pairs_files_and_counts(pairs: Made) -> None:
    assert pairs.files == {f"{split}.{end}" for split in ("train", "dev") for end in ("jsonl", *(f"{x}.npy" for x in PARTS))}
    assert {name: sum(row["direction"] == name for row in pairs.rows("train")) for name in DIRECTIONS} == dict.fromkeys(
        DIRECTIONS, 60
    )
    train, dev = pairs.examples("train"), pairs.examples("dev")
    assert pairs.counts["train_examples"] == len(train) == len(pairs.rows("train")) == 240
    assert pairs.counts["dev_examples"] == len(dev) == len(pairs.rows("dev")) == 80
    assert pairs.counts["train_tokens"] == sum(len(ids) for ids, _ in train)
    assert pairs.counts["train_labels"] == sum(len(ids) - prompt for ids, prompt in train)
    assert pairs.counts["longest"] == max(len(ids) for ids, _ in train + dev)
    assert pairs.counts["directions"] == {name: {"train": 60, "dev": 20} for name in DIRECTIONS}
    assert pairs.counts["dropped"] == {}
    assert {row["direction"] for row in pairs.rows("train")[:4]} == DIRECTIONS, "directions take turns"


@pytest.mark.parametrize("split", ["train", "dev"])
def test_pairs_mask_the_prompt_and_nothing_else(pairs: Made, tokenizer: PreTrainedTokenizerBase, split: str) -> None:
    """B57, B58: exactly one BOS, EOS last and learned, and the row's target decodes from the unmasked part."""
    for row, (ids, prompt) in zip(pairs.rows(split), pairs.examples(split), strict=True):
        source, target = (NAMES[code] for code in row["direction"].split("-"))
        text = f"Translate this from {source} to {target}:\n{source}: {row['source']}\n{target}:"
        assert tokenizer.decode(ids[1:prompt]) == text
        assert tokenizer.decode(ids[prompt:-1]) == row["target"]
        assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id
        assert ids.count(tokenizer.eos_token_id) == 1 and ids[-1] == tokenizer.eos_token_id


def test_x_alma_prompts_differ_in_the_tokens_only(base: Input, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    made = Made(tmp_path, {"base": base}, form="pairs", pairs=TRAIN, train=5, prompt="x_alma")
    for row, (ids, prompt) in zip(made.rows("train"), made.examples("train"), strict=True):
        assert tokenizer.decode(ids[:prompt]).startswith("<s>[INST] Translate this from ")
        assert tokenizer.decode(ids[prompt:]) == f" {row['target']} </s>"


def test_pairs_too_long_are_dropped_and_counted_never_cut(base: Input, pairs: Made, tmp_path: Path) -> None:
    """B48, B51."""
    lengths = [(prompt, len(ids) - prompt) for ids, prompt in pairs.examples("train")]
    limits: dict[str, Any] = {
        "max_source": sorted(prompt for prompt, _ in lengths)[120],
        "max_target": sorted(n for _, n in lengths)[200],
    }
    made = Made(tmp_path / "some", {"base": base}, form="pairs", pairs=TRAIN, train=60, **limits)
    kept = [prompt <= limits["max_source"] and answer <= limits["max_target"] for prompt, answer in lengths]
    assert 0 < sum(kept) < 240
    assert made.rows("train") == [row for row, keep in zip(pairs.rows("train"), kept, strict=True) if keep]
    assert made.counts["train_examples"] == sum(kept)
    assert made.counts["dropped"] == {"too_long": 320 - made.counts["train_examples"] - made.counts["dev_examples"]}
    with pytest.raises(UserError, match=r"all 240 sentence pairs are longer than max_source=3"):
        Made(tmp_path / "none", {"base": base}, form="pairs", pairs=TRAIN, train=60, max_source=3)


def test_documents_files_counts_and_blocks(documents: Made, tokenizer: PreTrainedTokenizerBase) -> None:
    assert documents.files == {"train.jsonl", "dev.jsonl", "train.blocks.npy", "dev.bytes.npy", *(f"dev.{x}.npy" for x in PARTS)}
    blocks = documents.array("train.blocks")
    assert blocks.dtype == np.int32 and blocks.shape == (documents.counts["train_examples"], 64)
    assert documents.counts["train_tokens"] == blocks.size
    assert documents.counts["train_labels"] == blocks.shape[0] * 63
    stream = [f"<s>{row['text']}</s>" for row in documents.rows("train")]
    flat = [token for text in stream for token in tokenizer(text, add_special_tokens=False).input_ids]
    assert blocks.reshape(-1).tolist() == flat[: blocks.size]
    assert len(flat) - blocks.size == documents.counts["remainder_tokens"] < 64
    assert documents.counts["train_documents"] == len(stream) >= 150
    assert documents.counts["repeated"] == len(stream) - len({row["id"] for row in documents.rows("train")})


def test_dev_documents_are_scored_from_bos_to_eos_over_their_bytes(documents: Made, tokenizer: PreTrainedTokenizerBase) -> None:
    rows, examples = documents.rows("dev"), documents.examples("dev")
    assert {code: sum(row["language"] == code for row in rows) for code in NAMES} == dict.fromkeys(NAMES, 20)
    assert documents.counts["dev_examples"] == len(rows) == 60
    assert documents.array("dev.bytes").tolist() == [len(row["text"].encode()) for row in rows]
    for row, (ids, prompt) in zip(rows, examples, strict=True):
        assert prompt == 1 and ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids[1:-1]) == row["text"]


def test_documents_are_drawn_by_probability(base: Input, tmp_path: Path) -> None:
    shares = {"en": 0.6, "de": 0.4}
    made = Made(tmp_path, {"base": base}, form="documents", text=TRAIN, train=150, block=64, probabilities=shares, held_out=5)
    drawn = {code: counts["train"] for code, counts in made.counts["languages"].items()}
    assert set(drawn) == {"en", "de"}, "Czech has no share"
    assert abs(drawn["en"] / sum(drawn.values()) - 0.6) < 0.07
    assert made.counts["repeated"] > 0 and drawn["de"] >= 150


def test_pseudo_mono_joins_pairs_in_either_order_among_documents(pseudo: Made, documents: Made) -> None:
    assert pseudo.files == documents.files
    rows = pseudo.rows("train")
    joined = [row for row in rows if "-" in row["language"]]
    assert 0.4 < len(joined) / len(rows) < 0.6
    english_first = sum(row["language"].startswith("en-") for row in joined)
    assert 0.3 < english_first / len(joined) < 0.7
    text = CldrReader(Phrasebook(LANGUAGES, seed=7), "train")
    aligned = {(pair.source, pair.target) for code in ("de", "cs") for pair in text.pairs(f"{code}-en")}
    both: set[str] = set()
    for one, other in aligned:
        both |= {f"{one} {other}", f"{other} {one}"}
    assert {row["text"] for row in joined} <= both
    dev = pseudo.rows("dev")
    assert sum("-" in row["language"] for row in dev) == 40 and len(dev) == 100
    assert (
        "".join("-" if "-" in row["language"] else row["language"][0] for row in dev) == "e" * 20 + "d" * 20 + "c" * 20 + "-" * 40
    )
    assert pseudo.array("dev.bytes").tolist() == [len(row["text"].encode()) for row in dev]


def test_the_test_form_writes_text_alone(test_set: Made) -> None:
    assert test_set.files == {"test.jsonl"}
    rows = test_set.rows("test")
    assert {tuple(row) for row in rows} == {("id", "direction", "source", "target")}
    assert len({row["id"] for row in rows}) == len(rows) == test_set.counts["test_examples"] == 120
    assert test_set.counts["directions"] == {name: {"test": 30} for name in DIRECTIONS}


def test_nothing_of_test_stands_in_train_or_dev_of_any_form(test_set: Made, pairs: Made, documents: Made, pseudo: Made) -> None:
    tested = {row[side] for row in test_set.rows("test") for side in ("source", "target")}
    for split in ("train", "dev"):
        assert not tested & {row[side] for row in pairs.rows(split) for side in ("source", "target")}
        for made in (documents, pseudo):
            assert not tested & {line for row in made.rows(split) for line in row["text"].split("\n")}
    trained = {row[side] for row in pairs.rows("train") for side in ("source", "target")}
    assert not trained & {row[side] for row in pairs.rows("dev") for side in ("source", "target")}


def test_the_same_settings_give_the_same_bytes_and_another_seed_others(base: Input, pseudo: Made, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"form": "pseudo_mono", "text": TRAIN, "pairs": TRAIN, "train": 50, "block": 64}
    again = Made(tmp_path / "again", {"base": base}, **settings)
    for name in pseudo.files:
        assert (again.out / name).read_bytes() == (pseudo.out / name).read_bytes(), name
    other = Made(tmp_path / "other", {"base": base}, seed=8, **settings)
    assert other.rows("train") != pseudo.rows("train")


def test_generated_text_keeps_its_bytes(pairs: Made, documents: Made, pseudo: Made, test_set: Made) -> None:
    """A key stands for these rows, in this order: what makes others needs a new version of the kind."""
    found = {
        f"{name} {path.name}": hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for name, made in (("pairs", pairs), ("documents", documents), ("pseudo", pseudo), ("test", test_set))
        for path in sorted(made.out.glob("*.jsonl"))
    }
    assert found == {
        "pairs dev.jsonl": "919e8f485518d69e",
        "pairs train.jsonl": "ac66fbc851b5f764",
        "documents dev.jsonl": "953f0ac7d05629c5",
        "documents train.jsonl": "972f175a506140f7",
        "pseudo dev.jsonl": "91a2744c867aa178",
        "pseudo train.jsonl": "236f32b6b1cf8b62",
        "test test.jsonl": "38d1823bb58ef65f",
    }


@pytest.mark.parametrize("form", ["pairs", "pseudo_mono"])
def test_a_killed_preparation_of_generated_text_ends_the_same(
    base: Input, pairs: Made, pseudo: Made, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pairs if form == "pairs" else pseudo
    settings: dict[str, Any] = {"form": form, "text": TRAIN, "pairs": TRAIN, "train": 60 if form == "pairs" else 50, "block": 64}
    for module in (ingest, tokenise):
        monkeypatch.setattr(module, "BATCH", 17)
        monkeypatch.setattr(module, "SAVE_SECONDS", 0.0)
    save, saves = ingest.Ingestion.save, itertools.count(1)

    def killed(self: ingest.Ingestion) -> None:
        save(self)
        if next(saves) % 5 == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(ingest.Ingestion, "save", killed)
    attempts = 0
    while True:
        try:
            again = Made(tmp_path, {"base": base}, **settings)
            break
        except KeyboardInterrupt:
            attempts += 1
    assert attempts >= 3
    assert again.counts == whole.counts
    for name in whole.files:
        assert (again.out / name).read_bytes() == (whole.out / name).read_bytes(), name


def test_generated_text_is_cleaned_as_any_other(base: Input, test_set: Made, tmp_path: Path) -> None:
    """Rows that a step drops are made up for, in training and among the held-out ones."""
    cleaning = Cleaning(steps=["length", "test"], max_characters=25)
    inputs = {"base": base, "test": Input("test", "corpus", str(test_set.out), {})}
    made = Made(tmp_path, inputs, form="pairs", pairs=TRAIN, train=60, cleaning=cleaning)
    assert made.counts["directions"] == {name: {"train": 60, "dev": 20} for name in DIRECTIONS}
    texts = [row[side] for split in ("train", "dev") for row in made.rows(split) for side in ("source", "target")]
    assert max(map(len, texts)) <= 25
    by_part = [counts["dropped"] for counts in made.counts["cleaning"].values()]
    assert made.counts["dropped"]["length"] == sum(counts["length"] for counts in by_part) > 0


def test_generated_pairs_may_be_joined_among_documents_of_files(base: Input, documents: Made, tmp_path: Path) -> None:
    """Each reader holds out in its own way: files one row in eight, generated text its dev split."""
    files = {f"{code}.jsonl": str(json_lines(tmp_path / f"{code}.jsonl", own_documents(code))) for code in NAMES}
    text = Source(reader="files", files={name: name for name in files})
    made = Made(
        tmp_path / "made", {"base": base}, files, form="pseudo_mono", text=text, pairs=TRAIN, train=50, block=64, held_out=5
    )
    assert {row["text"] for row in made.rows("train") if row["language"] == "de"} <= {row["text"] for row in own_documents("de")}
    assert [row["language"] for row in made.rows("dev") if "-" not in row["language"]] == [
        code for code in NAMES for _ in range(5)
    ]
    dev = {pair.source for code in ("de", "cs") for pair in CldrReader(Phrasebook(LANGUAGES, 7), "dev").pairs(f"{code}-en")}
    joined = [row["text"] for row in made.rows("dev") if "-" in row["language"]]
    assert len(joined) == 10 and all(any(source in text for source in dev) for text in joined)


def own_documents(code: str) -> list[dict[str, str]]:
    return [{"text": f"{code} document number {n}"} for n in range(200)]


def test_null_takes_all_there_is(base: Input, tmp_path: Path) -> None:
    two = {code: LANGUAGES[code] for code in ("en", "de")}
    made = Made(tmp_path, {"base": base}, form="pairs", pairs=TRAIN, train=None, held_out=None, languages=two)
    assert made.counts["directions"]["de-en"]["train"] > 5000
    assert made.counts["directions"]["de-en"]["dev"] > 500

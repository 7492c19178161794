"""The `translate_text` kind: one process for all languages, each by its group's adapter."""

from pathlib import Path
from typing import Any

import pytest
import torch

from alma_pipeline.job import Input, Job
from alma_pipeline.ml.data.prompts import Prompter
from alma_pipeline.ml.decoding import decode
from alma_pipeline.ml.decoding.reranking import Reranker, chrf, minimum_bayes_risk
from alma_pipeline.ml.decoding.search import Sampling
from alma_pipeline.ml.models.open import load_for_inference
from alma_pipeline.schema import Hardware
from helpers.tiny_adapter import make_adapter
from helpers.tiny_checkpoint import LANGUAGES, make_checkpoint, make_job, read, write
from stages.translate_text.run import run

ROUTES = {"de": "g1", "zh": "g6"}
SAMPLES: dict[str, Any] = {"candidates": 4, "temperature": 1.2, "top_p": 0.9, "seed": 3}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Input:
    torch.set_num_threads(1)
    return make_checkpoint(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def modules(base: Input, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Input]:
    return {name: make_adapter(base, tmp_path_factory.mktemp(name), seed, 2 * seed) for seed, name in ((1, "g1"), (2, "g6"))}


def translate_text(work: Path, inputs: dict[str, Input], rows: list[tuple[str, str]], **settings: Any) -> list[str]:
    job = make_job(work, "translate_text", inputs, prompt="alma", num_beams=2, max_source=200, max_new_tokens=6, **settings)
    write(work / "sources.jsonl", rows)
    assert run(job) == {"translations": len(rows)}
    return [row["text"] for row in read(job.out / "translations.jsonl")]


def test_a_mixed_file_gives_the_same_as_each_language_alone(tmp_path: Path, modules: dict[str, Input]) -> None:
    rows = [("en-de", "May 3"), ("zh-en", "3月4日"), ("de-en", "4. Mai"), ("en-zh", "June 9"), ("de-en", "9. Juni")]
    mixed = translate_text(tmp_path / "mixed", modules, rows, routes=ROUTES)
    alone: dict[tuple[str, str], str] = {}
    for code, name in ROUTES.items():
        own = [row for row in rows if code in row[0]]
        texts = translate_text(tmp_path / code, {name: modules[name]}, own, routes={code: name})
        alone |= dict(zip(own, texts, strict=True))
    assert mixed == [alone[row] for row in rows]
    swapped = translate_text(tmp_path / "swapped", modules, rows, routes={"de": "g6", "zh": "g1"})
    assert swapped != mixed, "who takes which adapter must matter"


def test_a_translation_is_one_line_whatever_the_model_says(tmp_path: Path, base: Input, monkeypatch: pytest.MonkeyPatch) -> None:
    """B45: else every line after it would stand beside another's source."""
    monkeypatch.setattr(decode, "text", lambda tokenizer, ids: "Das\nHaus\u2028ist klein\n")
    assert translate_text(tmp_path / "one", {"all": base}, [("en-de", "May 3")], languages=LANGUAGES) == ["Das Haus ist klein"]


def test_one_checkpoint_serves_every_language(tmp_path: Path, base: Input) -> None:
    rows = [("en-de", "May 3"), ("zh-en", "3月4日")]
    both = translate_text(tmp_path / "both", {"all": base}, rows, languages=LANGUAGES)
    assert both == [translate_text(tmp_path / str(i), {"all": base}, [row])[0] for i, row in enumerate(rows)]


def test_each_sentence_is_chosen_among_samples_of_its_own_adapter(tmp_path: Path, modules: dict[str, Input], base: Input) -> None:
    """Minimum Bayes risk, against the merged models: a sentence's noise goes by its place, so each draws the whole list."""
    rows = [("en-de", "May 3"), ("zh-en", "3月4日"), ("de-en", "4. Mai"), ("en-zh", "June 9"), ("de-en", "9. Juni")]
    found = translate_text(tmp_path / "mixed", modules, rows, routes=ROUTES, decoding="mbr", **SAMPLES)
    texts = {name: samples(checkpoint, rows) for name, checkpoint in modules.items()}
    own = [texts["g1" if "de" in direction else "g6"][place] for place, (direction, _) in enumerate(rows)]
    places = minimum_bayes_risk(own, chrf)
    assert found == [each[place] for each, place in zip(own, places, strict=True)]
    assert set(places) > {0}, "the case must hold sentences whose first sample is not the best"


def samples(checkpoint: Input, rows: list[tuple[str, str]]) -> list[list[str]]:
    model, tokenizer = load_for_inference(checkpoint, Hardware(name="test", threads=1), "fp32")
    limits = decode.limits(tokenizer, 6, 4000)
    sampling = Sampling(width=SAMPLES["candidates"], temperature=1.2, top_p=0.9, seed=3)
    outputs = decode.sample(model, Prompter(tokenizer, "alma", LANGUAGES).prompts(rows), sampling, limits)
    return [[decode.text(tokenizer, ids) for ids in each] for each in outputs]


def test_only_the_first_process_ranks(tmp_path: Path, base: Input, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others draw their share and have nothing to say."""
    ranked: list[str] = []

    def by_mbr(self: Reranker, sources: list[str], texts: list[list[str]]) -> list[int]:
        ranked.extend(sources)
        return [0 for _ in texts]

    monkeypatch.setattr(Reranker, "by_mbr", by_mbr)
    how: dict[str, Any] = {"prompt": "alma", "max_source": 200, "max_new_tokens": 3, "decoding": "mbr", **SAMPLES}
    for rank, name in ((1, "second"), (0, "first")):
        monkeypatch.setattr(Job, "rank", rank)
        job = make_job(tmp_path / name, "translate_text", {"all": base}, **how)
        write(tmp_path / name / "sources.jsonl", [("en-de", "May 3")])
        assert bool(run(job)) == (rank == 0) == (job.out / "translations.jsonl").exists()
    assert ranked == ["May 3"]

"""The `interpret` kind: one process for all languages, each by its group's adapter."""

from pathlib import Path

import pytest
import torch
from adapter_bed import make_adapter
from decoding_bed import LANGUAGES, make_checkpoint, make_job, read, write

from alma_pipeline.job import Input
from stages.interpret.run import run

ROUTES = {"de": "g1", "zh": "g6"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Input:
    torch.set_num_threads(1)
    return make_checkpoint(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def modules(base: Input, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Input]:
    return {name: make_adapter(base, tmp_path_factory.mktemp(name), seed, 2 * seed) for seed, name in ((1, "g1"), (2, "g6"))}


def interpret(work: Path, inputs: dict[str, Input], rows: list[tuple[str, str]], **settings: object) -> list[str]:
    job = make_job(work, "interpret", inputs, prompt="alma", beams=2, max_source=200, max_new_tokens=6, **settings)
    write(work / "sources.jsonl", rows)
    assert set(run(job)) == {"sources_cut", "outputs_at_limit"}
    return read(job.out / "translations.jsonl")


def test_a_mixed_file_gives_the_same_as_each_language_alone(tmp_path: Path, modules: dict[str, Input]) -> None:
    rows = [("en-de", "May 3"), ("zh-en", "3月4日"), ("de-en", "4. Mai"), ("en-zh", "June 9"), ("de-en", "9. Juni")]
    mixed = interpret(tmp_path / "mixed", modules, rows, routes=ROUTES)
    alone = {}
    for code, name in ROUTES.items():
        own = [row for row in rows if code in row[0]]
        texts = interpret(tmp_path / code, {name: modules[name]}, own, routes={code: name})
        alone |= dict(zip(own, texts, strict=True))
    assert mixed == [alone[row] for row in rows]
    swapped = interpret(tmp_path / "swapped", modules, rows, routes={"de": "g6", "zh": "g1"})
    assert swapped != mixed, "who takes which adapter must matter"


def test_one_checkpoint_serves_every_language(tmp_path: Path, base: Input) -> None:
    rows = [("en-de", "May 3"), ("zh-en", "3月4日")]
    both = interpret(tmp_path / "both", {"all": base}, rows, languages=LANGUAGES)
    assert both == [interpret(tmp_path / str(i), {"all": base}, [row])[0] for i, row in enumerate(rows)]

"""Local text in the plan: found by pattern or under data.root, known by content, never by path."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from alma_pipeline.cli.arguments import parse
from alma_pipeline.config import load
from alma_pipeline.errors import ConfigError
from alma_pipeline.plan.plan import Step, make_plan
from alma_pipeline.schema import Language
from alma_pipeline.schema.kinds import kind_config
from alma_pipeline.store.store import Store
from helpers.text_files import json_lines, nested

PARALLEL = ["stage=parallel", "data=alma", "stages.parallel.inputs.init=base", "evaluation.checkpoints=[parallel]"]

MONO = "stages.parallel.inputs.init=mono"


def steps(tmp_path: Path, *overrides: str) -> dict[str, Step]:
    plan = make_plan(load.load([*PARALLEL, *overrides]), Store(tmp_path / "store"))
    return {step.node.name: step for step in plan.steps}


def alma(root: Path, *codes: str) -> Path:
    """ALMA's folder layout: JSON lines to train on, one array to validate on."""
    for code in codes:
        rows = [{"translation": {code: row["translation"]["de"], "en": row["translation"]["en"]}} for row in nested(20)]
        json_lines(root / f"{code}en" / f"train.{code}-en.json", rows)
        (root / f"{code}en" / f"valid.{code}-en.json").write_text(json.dumps(rows[:3]))
    return root


def pairs(step: Step) -> Any:
    return step.node.config.pairs  # type: ignore[attr-defined]


def test_almas_own_folders_serve_training_and_test(tmp_path: Path) -> None:
    found = steps(tmp_path, f"data.root={alma(tmp_path / 'human', 'de')}", "directions=[de-en]")
    train, test = pairs(found["parallel_corpus"]), pairs(found["test_corpus"])
    assert train.reader == test.reader == "files" and list(train.files) == list(test.files) == ["de.json"]
    assert train.files != test.files and train.repo is None and train.path is None
    places = found["parallel_corpus"].node.files
    assert places[train.files["de.json"]].endswith("deen/train.de-en.json")
    assert found["parallel_corpus"].node.config.directions == ["de-en"]  # type: ignore[attr-defined]
    assert list(found["parallel_corpus"].node.config.languages) == ["en", "de"]  # type: ignore[attr-defined]


def test_a_key_follows_content_and_not_place(tmp_path: Path) -> None:
    """B62: never paths, always digests."""
    root = alma(tmp_path / "human", "de")
    key = steps(tmp_path, f"data.root={root}", "directions=[de-en]")["parallel_corpus"].key
    shutil.copytree(root, tmp_path / "moved")
    assert steps(tmp_path, f"data.root={tmp_path / 'moved'}", "directions=[de-en]")["parallel_corpus"].key == key
    own = ["data.parallel.reader=files", f"data.parallel.path='{root}/{{lang}}en/train.{{lang}}-en.json'", "directions=[de-en]"]
    assert steps(tmp_path, *own)["parallel_corpus"].key == key, "the same file by another way"
    with open(root / "deen" / "train.de-en.json", "a", encoding="utf-8") as file:
        file.write("\n")
    assert steps(tmp_path, f"data.root={root}", "directions=[de-en]")["parallel_corpus"].key != key


def test_copies_of_hub_repositories(tmp_path: Path) -> None:
    root = tmp_path / "copies"
    json_lines(root / "ALMA-Human-Parallel" / "de-en" / "train-00000-of-00002.jsonl", nested(3))
    json_lines(root / "ALMA-Human-Parallel" / "de-en" / "train-00001-of-00002.jsonl", nested(3, 3))
    json_lines(root / "haoranxu" / "WMT22-Test" / "de-en" / "test-0.jsonl", [{"de-en": {"de": "a", "en": "b"}}])
    json_lines(root / "haoranxu" / "WMT22-Test" / "en-de" / "test-0.jsonl", [{"en-de": {"de": "c", "en": "d"}}])
    found = steps(tmp_path, f"data.root={root}", "directions=[de-en,en-de]")
    assert sorted(pairs(found["parallel_corpus"]).files) == ["de-en.0.jsonl", "de-en.1.jsonl", "de.0.jsonl", "de.1.jsonl"]
    assert sorted(pairs(found["test_corpus"]).files) == ["de-en.jsonl", "en-de.jsonl"]


def test_a_copy_that_was_downloaded_in_part_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "ALMA-Human-Parallel" / "de-en"
    json_lines(folder / "train-00001-of-00003.jsonl", nested(3))
    message = r"de-en lacks 2 of 3 files, the first train-00000-of-00003\.jsonl\. Download the rest, or read"
    with pytest.raises(ConfigError, match=message):
        steps(tmp_path, f"data.root={tmp_path}", "directions=[de-en]", f"data.test.path={folder}/x", "data.test.reader=files")


SETS = [
    ("parallel", "haoranxu/X-ALMA-Parallel-Data", "de-en/train-00000-of-00001.parquet", "parallel_corpus", "de-en.parquet"),
    ("pseudo", "Helsinki-NLP/opus-100", "de-en/train-0.parquet", "g1.group_pseudo_corpus", "de-en.parquet"),
    ("test", "haoranxu/FLORES-200", "de-en/test-00000-of-00001.parquet", "test_corpus", "de-en.parquet"),
    ("test", "haoranxu/WMT23-Test", "de-en/de-en-test.parquet", "test_corpus", "de-en.parquet"),
    ("preferences", "haoranxu/ALMA-R-Preference", "de-en/train-0.parquet", "preferences", "de-en.parquet"),
    ("preferences", "haoranxu/X-ALMA-Preference", "data/train-00000-of-00001.parquet", "preferences", "all.parquet"),
    ("mono", "oscar-corpus/OSCAR-2301", "{lang}_meta/{lang}_meta_part_1.jsonl.zst", "mono_corpus", "de.jsonl.zst"),
    ("mono", "uonlp/CulturaX", "{lang}/train-0.parquet", "mono_corpus", "de.parquet"),
]


@pytest.mark.parametrize(("source", "repo", "file", "node", "holds"), SETS, ids=[repo for _, repo, *_ in SETS])
def test_a_copy_of_every_set_in_its_layout(tmp_path: Path, source: str, repo: str, file: str, node: str, holds: str) -> None:
    for code in ("de", "en"):
        json_lines(tmp_path / repo / file.replace("{lang}", code), [code])
    words = ["stage=all", "data=alma", "directions=[de-en]", f"data.root={tmp_path}", f"data.{source}.repo={repo}"]
    step = make_plan(load.load(words), Store(tmp_path / "store"))[node]
    found = step.node.config.text if source == "mono" else pairs(step)  # type: ignore[attr-defined]
    assert found.reader == "files" and holds in found.files
    if "{" in file:
        assert len(found.files) == 2, "English too"


def test_a_pair_of_plain_texts_as_opus_names_them(tmp_path: Path) -> None:
    for side in ("en", "zh"):
        (tmp_path / f"NLLB.en-zh.{side}.gz").write_text("x\n")
    own = ["data.parallel.reader=files", f"data.parallel.path='{tmp_path}/NLLB.{{pair}}.{{side}}.gz'", "directions=[zh-en,en-zh]"]
    found = pairs(steps(tmp_path, *own)["parallel_corpus"])
    assert sorted(found.files) == ["en-zh/en.txt.gz", "en-zh/zh.txt.gz"]


def test_a_pair_of_plain_texts(tmp_path: Path) -> None:
    for side in ("de", "en"):
        (tmp_path / f"train.de-en.{side}").write_text("x\n")
    own = [
        "data.parallel.reader=files",
        f"data.parallel.path='{tmp_path}/train.{{lang}}-en.{{side}}'",
        "directions=[de-en,en-de]",
    ]
    assert sorted(pairs(steps(tmp_path, *own)["parallel_corpus"]).files) == ["de-en/de.txt", "de-en/en.txt"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.root={}/human"], r"no text for is-en, en-is; looked for isen/test\.is-en\.json.*directions=cs-en,en-cs"),
        (["data.root={}/nowhere"], r"data\.root=.*nowhere: no such folder"),
        (["data.parallel.reader=files"], r"stages\.parallel_corpus\.pairs\.path is empty, but reader=files needs it"),
        (["data.parallel.reader=files", "data.parallel.path={}/none.tsv"], r"path=.*none\.tsv has no text for cs-en"),
        (
            ["data.parallel.reader=files", "data.parallel.path={}/human"],
            r"human is a folder; expected files, as in .*/human/\{lang\}-en",
        ),
        (
            ["data.parallel.reader=files", "data.parallel.path={}/one.{side}", "directions=[de-en]"],
            r"one\.de: no file for its other half",
        ),
        (
            ["data.mono.reader=files", "data.mono.path={}/one.txt", "directions=[de-en]", MONO],
            r"mono_corpus\.text\.path=.*one\.txt: the same text would be read as en, de; expected \{lang\} in the path",
        ),
        (
            ["data.mono.reader=files", "data.mono.path={}/one.{side}", "directions=[de-en]", MONO],
            r"one\.\{side\}: \{side\} is for sentence pairs in two files; expected \{lang\} in the path",
        ),
        (
            ["data.preferences.reader=files", "data.preferences.path={}/one.{side}", "stage=cpo"],
            r"preferences\.pairs\.path=.*: \{side\} is for sentence pairs in two files; expected \{direction\} in the path",
        ),
        (["data.parallel.path={}/none.tsv"], r"reader=hub does not read it; set reader=files"),
        (["directions=[xx-en]"], r"'xx' in xx-en is not in the language table"),
        (["directions=[fr-en]"], r"fr-en, but 'fr' is not in data\.languages"),
        (["directions=[de-cs]"], r"'de-cs' is not a direction; expected all, a group such as g5, or a language and English"),
        (["directions=[g7]"], r"no language of g7 is in data\.languages"),
    ],
)
def test_what_is_missing_is_told_in_the_plan(tmp_path: Path, overrides: list[str], message: str) -> None:
    alma(tmp_path / "human", "cs", "de", "ru", "zh")
    for name in ("one.de", "one.txt"):
        (tmp_path / name).write_text("x\n")
    with pytest.raises(ConfigError, match=message):
        steps(tmp_path, *parse([text.replace("{}", str(tmp_path)) for text in overrides]).overrides)


def test_directions_choose_languages_and_all_is_as_before(tmp_path: Path) -> None:
    everything = steps(tmp_path)["parallel_corpus"]
    assert everything.node.config.directions == []  # type: ignore[attr-defined]
    listed = steps(tmp_path, "directions=[" + ",".join(f"{c}-en,en-{c}" for c in ("cs", "de", "is", "ru", "zh")) + "]")
    assert listed["parallel_corpus"].key == everything.key
    group = steps(tmp_path, "directions=g1")["parallel_corpus"].node.config
    assert list(group.languages) == ["en", "de", "is"] and group.directions == []  # type: ignore[attr-defined]


def test_commas_in_directions_are_a_list_unless_it_is_a_sweep() -> None:
    assert parse(["directions=de-en,en-de"]).overrides == ["directions=[de-en,en-de]"]
    assert parse(["-m", "directions=de-en,en-de"]).overrides == ["directions=de-en,en-de"]


def test_patterns_need_no_quotes_of_hydras() -> None:
    assert parse(["data.parallel.path=my/{lang}-en.tsv"]).overrides == ["data.parallel.path='my/{lang}-en.tsv'"]
    assert parse(["data.parallel.path='my/{lang}.tsv'"]).overrides == ["data.parallel.path='my/{lang}.tsv'"]
    loaded = load.load(parse(["data.mono.config={lang}_meta"]).overrides)
    assert loaded.data.mono.config == "{lang}_meta"


def test_columns_are_named_on_the_command_line() -> None:
    data = load.load(["data.parallel.columns={source: src, target: tgt}", "data.test.columns.source=1"]).data
    assert data.parallel.columns == {"source": "src", "target": "tgt"} and data.test.columns == {"source": "1"}


@pytest.mark.parametrize(
    ("kind", "settings", "read"),
    [
        ("corpus", {"form": "documents"}, {"text": ["en", "de", "cs"]}),
        ("corpus", {"form": "documents", "probabilities": {"en": 0.5, "de": 0.5, "cs": 0.0}}, {"text": ["en", "de"]}),
        ("corpus", {"form": "pairs"}, {"pairs": ["de-en", "en-de", "cs-en", "en-cs"]}),
        ("corpus", {"form": "test", "directions": ["de-en"]}, {"pairs": ["de-en"]}),
        ("corpus", {"form": "pseudo_mono", "directions": ["en-cs"]}, {"text": ["en", "de", "cs"], "pairs": ["en-cs"]}),
        ("base", {"source": "random"}, {"text": ["en", "de", "cs"]}),
        ("base", {"source": "hub"}, {}),
        ("preferences", {"directions": ["de-en"]}, {"pairs": ["de-en"]}),
        ("cpo", {}, {}),
    ],
)
def test_a_kind_names_the_text_that_it_reads(kind: str, settings: dict[str, Any], read: dict[str, list[str]]) -> None:
    languages = {code: Language(name=code, locale=code, nllb=code) for code in ("en", "de", "cs")}
    made: Any = kind_config(kind)
    found = made(languages=languages, **settings).text_inputs()
    assert {name: text.parts for name, text in found.items()} == read

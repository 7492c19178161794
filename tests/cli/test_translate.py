"""The verb `translate`, from its command line to its output: a worker of its own, checkpoints in the store."""

import io
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from alma_pipeline.cli import main, translation_job
from alma_pipeline.config import load
from alma_pipeline.execution import one_off
from alma_pipeline.execution.runner import job_input
from alma_pipeline.job import Job
from alma_pipeline.plan.plan import Step, make_plan
from alma_pipeline.store.store import Store, WorkFolder
from helpers.plans import loaded
from helpers.tiny_checkpoint import kept_outputs, make_checkpoint, make_corpus, pairs, read, write
from stages.translate.run import run

SETTINGS = [
    "stage=mono",
    "data.languages=[de,ru,sv,uk]",
    "evaluation.max_new_tokens=4",
    "evaluation.num_beams=2",
    "tracking=none",
]
SAMPLES = [f"stages.translate.{words}" for words in ("candidates=4", "temperature=1.5", "top_p=0.95", "seed=3")]
SCORER = """#!{python}
# In the place of COMET's Python: the same talk, and a score that only the hypothesis decides.
import hashlib, json, sys
given = dict(zip(sys.argv[3::2], sys.argv[4::2]))
assert open(given["--model"]).read() == "weights"
greeting = {{"model": given["--model"], "revision": given["--revision"], "reference": False, "joint": False, "comet": "0"}}
print(json.dumps(greeting), flush=True)
rows = [json.loads(line) for line in sys.stdin][:-1]
for row in rows:
    score = hashlib.sha256(row["mt"].encode()).digest()[0] / 255
    print(json.dumps({{"id": row["id"], "score": score, "cut": False}}), flush=True)
print(json.dumps({{"done": len(rows)}}), flush=True)
"""


def command(root: Path, monkeypatch: pytest.MonkeyPatch, *words: str, given: str = "") -> int:
    monkeypatch.setenv("ALMA_PIPELINE_STORE", str(root))
    monkeypatch.setattr("sys.argv", ["alma-pipeline", "translate", *words])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
    return main.main()


def put(store: Store, step: Step, folder: Path, form: str = "") -> None:
    """A folder as the artifact of a node, without making it; `form`: of a checkpoint."""
    name, key = step.node.name, step.key
    work = store.begin(name, key)
    shutil.copytree(folder, work.path / "out")
    record = {"name": name, "key": key, "kind": step.node.kind, "payload": step.payload, "seconds": 1.0}
    record |= {"result": {} if form else {"counts": {"train_examples": 8}}}
    loading = {"form": form, "base_key": key, "adapter_keys": []} if form else {}
    store.commit(work, record | {"created": "2026-01-01", "checkpoint": loading})
    work.close()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("translating") / "store")
    model = tmp_path_factory.mktemp("model")
    make_checkpoint(model)
    put(store, make_plan(loaded("stage=mono"), store)["mono"], model, form="full")
    put(store, make_plan(loaded("stage=parallel"), store)["parallel"], model, form="full")
    return store


def files(store: Store) -> set[Path]:
    return {path for path in store.root.rglob("*") if path.is_file()}


def by_the_stage(store: Store, work: Path, words: list[str], rows: list[dict[str, str]]) -> Job:
    """The same request's own node on a test corpus of these rows, which it has translated."""
    settings = load.load([*SETTINGS, *words])
    plan = make_plan(settings, store)
    step = plan[f"{settings.targets[0]}.translate"]
    inputs = {role: job_input(store, record) for role, name in step.inputs.items() if (record := plan[name].record)}
    inputs["test"] = make_corpus(work / "corpus", test=rows)
    job = Job(step.node.name, step.key, str(work), step.config, settings.hardware, inputs, step.node.files)
    job.out.mkdir()
    run(job)
    return job


def by_the_verb(
    store: Store,
    work: Path,
    words: list[str],
    rows: list[dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> list[str]:
    """As JSON lines in and out: a hypothesis of a random model may have line breaks."""
    write(work / "rows.jsonl", rows)
    assert command(store.root, monkeypatch, *SETTINGS, *words, str(work / "rows.jsonl")) == 0
    return [json.loads(line)["translation"] for line in capsys.readouterr().out.splitlines()]


def test_lines_in_lines_out(filled: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(filled)
    assert command(filled.root, monkeypatch, *SETTINGS, "direction=de-en", given="3. Mai\n\n4. Juni\n") == 0
    said = capsys.readouterr()
    lines = said.out.split("\n")
    assert len(lines) == 4 and lines[1] == lines[3] == ""
    assert "of 2 translations were cut at 4 tokens" in said.err
    assert files(filled) == before, "it leaves nothing in the store"


@pytest.mark.slow
@pytest.mark.parametrize("decoding", ["mbr", "quality"])
def test_it_chooses_among_samples_as_the_stage_does(
    filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], decoding: str
) -> None:
    """And leaves nothing in the store but scores, in the cache where the stage would find them."""
    (tmp_path / "model.ckpt").write_text("weights")
    (tmp_path / "python").write_text(SCORER.format(python=sys.executable))
    (tmp_path / "python").chmod(0o755)
    words = ["stage=parallel", f"stages.translate.decoding={decoding}", *SAMPLES]
    if decoding == "quality":
        words += ["stages.translate.rank_by=[mine]", f"+scorers.mine={{model: {tmp_path}/model.ckpt}}"]
        words += [f"evaluation.comet.python={tmp_path}/python"]
    rows = pairs("en-de", range(1, 2)) + pairs("de-en", range(2, 3))
    before = files(filled)
    found = by_the_verb(filled, tmp_path, words, rows, monkeypatch, capsys)
    scores = {filled.root / "cache" / "segment_scores.db"} if decoding == "quality" else set()
    assert files(filled) - before == scores
    job = by_the_stage(filled, tmp_path, words, rows)
    assert found == [row["hypothesis"] for row in read(job.out / "hypotheses.jsonl")]
    assert len({*map(str, kept_outputs(job)[0])}) > 1, "there must be a choice"
    other = by_the_verb(filled, tmp_path, [*words, "stages.translate.seed=4"], rows, monkeypatch, capsys)
    assert other != found


@pytest.mark.slow
def test_it_shows_the_examples_that_the_stage_shows(
    filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["stage=parallel", "stages.translate.num_shots=2", "stages.translate.max_source=400"]
    assert command(filled.root, monkeypatch, *SETTINGS, *words, "direction=de-en", given="x") == 2
    assert "num_shots=2 needs pairs of parallel_corpus, which do not exist yet (" in capsys.readouterr().err
    make_corpus(tmp_path / "pairs", train=pairs("de-en", range(5, 6)) + pairs("en-de", range(6, 7)))
    put(filled, make_plan(loaded("stage=parallel"), filled)["parallel_corpus"], tmp_path / "pairs")
    rows = pairs("de-en", range(1, 2)) + pairs("en-de", range(2, 3))
    found = by_the_verb(filled, tmp_path, words, rows, monkeypatch, capsys)
    job = by_the_stage(filled, tmp_path, words, rows)
    assert found == [row["hypothesis"] for row in read(job.out / "hypotheses.jsonl")]
    assert command(filled.root, monkeypatch, *SETTINGS, *words, "stages.translate.num_shots=9", "direction=de-en", given="x") == 2
    assert "num_shots=9, but there are fewer training pairs to show: 4 in de-en" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "given", "said"),
    [
        ([], "x", "standard input, line 1: no direction; give direction=de-en"),
        (["direction=de-ru"], "x", "direction=de-ru: expected English on one side"),
        (["direction=de"], "x", "direction=de: expected English on one side"),
        (["direction=svn-en"], "x", "this checkpoint translates de, ru, sv, uk; did you mean 'sv'"),
        (["direction=de-en", "seed=7"], "x", r"no checkpoint to translate with: mono \(run: stages.mono.seed 42 → 7"),
        (["direction=de-en", "stage=all"], "x", "has the targets cpo, arpo; choose the one"),
        (["direction=de-en", "nothing.txt"], "", r"nothing\.txt: cannot be read"),
        (["direction=de-en", "stages.translate.decoding=quality"], "x", "decoding=quality cannot rank by chrf"),
        (
            ["direction=de-en", "stages.translate.decoding=mbr", "stages.translate.rank_by=[comet-2]"],
            "x",
            "no scorer 'comet-2'; did you mean 'comet-22'",
        ),
        (
            [
                "direction=de-en",
                "stages.translate.decoding=mbr",
                "stages.translate.rank_by=[comet-22]",
                "evaluation.comet.python=/no",
            ],
            "x",
            "COMET runs in its own environment, and its Python was expected at /no",
        ),
        (
            ["direction=de-en", "stages.translate.num_shots=2"],
            "x",
            "num_shots=2 shows pairs of parallel_corpus, which this stage lacks",
        ),
        (
            ["direction=de-en", "stages.translate.num_shots=2", "evaluation.checkpoints=[]"],
            "x",
            "num_shots=2 needs pairs of parallel_corpus, which this stage does not have",
        ),
        (
            ["direction=de-en", "stage=group_adapter", "stages.translate.engine=vllm"],
            "x",
            "engine=vllm: cannot route each sentence to its group's adapter",
        ),
    ],
)
def test_mistakes_are_told_before_anything_starts(
    filled: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], given: str, said: str
) -> None:
    assert command(filled.root, monkeypatch, *SETTINGS, *words, given=given) == 2
    assert re.search(said, capsys.readouterr().err)


def test_nothing_to_translate_starts_nothing(
    filled: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere")
    assert command(filled.root, monkeypatch, *SETTINGS, "direction=de-en", given="\n \n") == 0
    assert capsys.readouterr().out == "\n \n"


def test_a_broken_off_translation_is_continued(
    filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its content: from another file, to another output. A different text or setting is another request."""
    words, (first, second) = [*SETTINGS, "direction=de-en"], (tmp_path / "a.txt", tmp_path / "b.txt")
    for file in (first, second):
        file.write_text("3. Mai\n4. Juni\n")
    assert command(filled.root, monkeypatch, *words, str(first)) == 0
    expected = capsys.readouterr().out
    monkeypatch.setattr(translation_job, "_progress", interrupt)
    assert command(filled.root, monkeypatch, *words, str(first)) == 130
    assert capsys.readouterr().out == ""
    [left] = (filled.root / "aside").iterdir()
    # Another output in the place of the first sentence's shows which sentences are decoded again.
    [kept] = left.rglob("outputs.0.jsonl")
    index, outputs = json.loads(kept.read_text().splitlines()[0])
    kept.write_text(json.dumps([index, [outputs[0][:1]]]) + "\n")
    [result.unlink() for result in left.rglob("result.json")]
    monkeypatch.undo()
    assert command(filled.root, monkeypatch, *words, "evaluation.num_beams=1", str(second)) == 0
    assert [path.name for path in (filled.root / "aside").iterdir()] == [left.name]
    capsys.readouterr()
    assert command(filled.root, monkeypatch, *words, str(second), "--output", str(tmp_path / "out.txt")) == 0
    lines = (tmp_path / "out.txt").read_text(encoding="utf-8").splitlines()
    assert [line == old for line, old in zip(lines, expected.splitlines(), strict=True)].count(True) == 1
    assert not list((filled.root / "aside").iterdir()), "it clears up after success"


def interrupt(lines: object) -> None:
    raise KeyboardInterrupt


def test_two_equal_requests_at_once(filled: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The second works in a folder of its own, and leaves the first's alone."""
    names: list[Path] = []
    begin = one_off._begin

    def watched(aside: Path, name: str, key: str) -> tuple[Path, WorkFolder]:
        folder, work = begin(aside, name, key)
        names.append(folder)
        return folder, work

    monkeypatch.setattr(one_off, "WAIT_SECONDS", 0.2)
    monkeypatch.setattr(one_off, "_begin", watched)
    assert command(filled.root, monkeypatch, *SETTINGS, "direction=de-en", given="3. Mai\n") == 0
    expected = capsys.readouterr().out
    first = Store(names[0]).begin("translate_text", one_off.PLACEHOLDER_KEY)
    (first.path / "mine").touch()
    assert command(filled.root, monkeypatch, *SETTINGS, "direction=de-en", given="3. Mai\n") == 0
    assert capsys.readouterr().out == expected and (first.path / "mine").exists()
    assert len({*names}) == 2 and [path.name for path in (filled.root / "aside").iterdir()] == [names[0].name]
    first.close()
    shutil.rmtree(names[0])


def test_outputs_that_cannot_be_written_are_refused_before_a_model_is_loaded(
    filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere")
    file = tmp_path / "in.txt"
    file.write_text("3. Mai\n")
    (tmp_path / "link.txt").symlink_to(file)
    for name, said in (
        ("", "is a folder; expected a file"),
        ("in.txt/out.txt", "cannot be written: Not a directory"),
        ("in.txt", "in.txt is both read and written; write the translations to another file"),
        ("link.txt", "in.txt is both read and written"),
    ):
        words = [*SETTINGS, "direction=de-en", str(file), "--output", str(tmp_path / name)]
        assert command(filled.root, monkeypatch, *words) == 2
        assert said in capsys.readouterr().err
    monkeypatch.setattr(sys, "__stdout__", None)
    assert command(filled.root, monkeypatch, *SETTINGS, "direction=de-en", str(file)) == 2
    assert "standard output is closed" in capsys.readouterr().err and file.read_text() == "3. Mai\n"


def test_translations_that_cannot_be_written_at_the_end_are_kept(
    filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*SETTINGS, "direction=de-en", "--output"]
    assert command(filled.root, monkeypatch, *words, "/dev/full", given="3. Mai\n") == 2
    assert "No space left on device; give another path with --output FILE; the translations are kept" in capsys.readouterr().err
    monkeypatch.setattr(sys, "executable", "/nowhere")
    assert command(filled.root, monkeypatch, *words, str(tmp_path / "new" / "out.txt"), given="3. Mai\n") == 0
    assert len((tmp_path / "new" / "out.txt").read_text(encoding="utf-8").splitlines()) == 1
    assert not list((filled.root / "aside").iterdir())


def test_translations_are_utf8_whatever_the_terminal(
    filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And JSON lines flag what standard error counts."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    english = "The committee met on Tuesday to discuss the new budget proposal."
    write(tmp_path / "rows.jsonl", [{"source": text, "direction": "de-en"} for text in (f"Ä {'3. Mai ' * 90}", "\n", english)])
    assert command(filled.root, monkeypatch, *SETTINGS, str(tmp_path / "rows.jsonl"), "--output", "-") == 0
    rows = [json.loads(line) for line in written.getvalue().decode("utf-8").splitlines()]
    assert [row["translation_flags"] for row in rows] == [
        ["source_cut", "translation_cut"],
        [],
        ["source_looks_like_en", "translation_cut"],
    ]
    assert rows[0]["source"].startswith("Ä") and rows[1]["translation"] == "\n"
    said = capsys.readouterr().err
    assert f"1 of 2 sources look like English, not German ({tmp_path}/rows.jsonl, line 3)" in said
    assert f"1 of 2 lines were cut at 256 tokens ({tmp_path}/rows.jsonl, line 1); raise stages.translate.max_source" in said
    assert "2 of 2 translations were cut at 4 tokens" in said and "lines 1 and 3); raise stages.translate.max_new_tokens" in said


def test_a_store_that_is_read_only_needs_a_scratch_folder(
    filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "artifacts").symlink_to(filled.root / "artifacts")
    (tmp_path / "store" / "aside").write_text("no folder")  # root may write into every folder
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    before = {path.name for path in (tmp_path / "store").iterdir()}
    assert command(tmp_path / "store", monkeypatch, *SETTINGS, "direction=de-en", given="3. Mai\n") == 0
    said, scratch = capsys.readouterr(), tmp_path / f"alma_pipeline-{os.getuid()}"
    assert len(said.out.splitlines()) == 1 and {path.name for path in (tmp_path / "store").iterdir()} == before
    assert f"the store {tmp_path}/store is read-only, so unfinished work is kept in {scratch}" in said.err
    assert scratch.stat().st_mode & 0o777 == 0o700 and not list((scratch / "aside").iterdir())

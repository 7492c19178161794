"""The verb `translate`, from its command line to its output: a worker of its own, checkpoints in the store."""

import json
import re
import sys
from pathlib import Path

import pytest

from alma_pipeline.config import load
from alma_pipeline.execution.runner import job_input
from alma_pipeline.job import Job
from alma_pipeline.plan.plan import make_plan
from alma_pipeline.store.store import Store
from helpers.plans import loaded
from helpers.tiny_checkpoint import kept_outputs, make_corpus, pairs, read, write
from helpers.translating import SETTINGS, command, put
from stages.translate.run import run

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
    """And leaves nothing in the store but scores and their lease, in the cache where the stage would find them."""
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
    left = {path.relative_to(filled.root).as_posix().partition(".beat-")[0] for path in files(filled) - before}
    scores = "cache/segment_scores.db"
    assert left == ({scores, f"{scores}.lock"} if decoding == "quality" else set())
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

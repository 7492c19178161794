"""The verb `translate`, from its command line to its output: a worker of its own, checkpoints in the store."""

import io
import re
import shutil
from pathlib import Path

import pytest
from decoding_bed import make_checkpoint
from fakes.bed import loaded

from alma_pipeline import cli
from alma_pipeline.plan import Step, make_plan
from alma_pipeline.store import Store

SETTINGS = ["stage=mono", "data.languages=[de,ru,sv,uk]", "evaluation.max_new_tokens=4", "evaluation.beams=2", "tracking=none"]


def command(root: Path, monkeypatch: pytest.MonkeyPatch, *words: str, given: str = "") -> int:
    monkeypatch.setenv("ALMA_PIPELINE_STORE", str(root))
    monkeypatch.setattr("sys.argv", ["alma-pipeline", "translate", *words])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
    return cli.main()


def put_checkpoint(store: Store, step: Step, model: Path) -> None:
    """A full model as the artifact of a node, without training it."""
    name, key = step.node.name, step.key
    work = store.begin(name, key)
    shutil.copytree(model, work.path / "out")
    record = {"name": name, "key": key, "kind": step.node.kind, "payload": step.payload, "result": {}, "seconds": 1.0}
    loading = {"form": "full", "base_key": key, "adapter_keys": []}
    store.commit(work, record | {"created": "2026-01-01", "checkpoint": loading})
    work.close()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("translating") / "store")
    model = tmp_path_factory.mktemp("model")
    make_checkpoint(model)
    put_checkpoint(store, make_plan(loaded("stage=mono"), store)["mono"], model)
    return store


def test_lines_in_lines_out(filled: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path for path in filled.root.rglob("*") if path.is_file()}
    assert command(filled.root, monkeypatch, *SETTINGS, "direction=de-en", given="3. Mai\n\n4. Juni\n") == 0
    said = capsys.readouterr()
    lines = said.out.split("\n")
    assert len(lines) == 4 and lines[1] == lines[3] == ""
    assert "of 2 translations were ended at 4 tokens" in said.err
    assert {path for path in filled.root.rglob("*") if path.is_file()} == before, "it leaves nothing in the store"


@pytest.mark.parametrize(
    ("words", "given", "said"),
    [
        ([], "x", "standard input, line 1: has no direction; give direction=de-en"),
        (["direction=de-ru"], "x", "direction=de-ru: expected English on one side"),
        (["direction=de"], "x", "direction=de: expected English on one side"),
        (["direction=svn-en"], "x", "this checkpoint's languages are de, ru, sv, uk; did you mean 'sv'"),
        (["direction=de-en", "seed=7"], "x", r"no checkpoint to translate with: mono \(run: because stages.mono.seed 42 → 7"),
        (["direction=de-en", "stage=all"], "x", "has the targets cpo, arpo; say which one"),
        (["direction=de-en", "nothing.txt"], "", r"nothing\.txt: cannot be read"),
        (
            ["direction=de-en", "stages.translate.decoding=mbr", "stages.translate.shots=2"],
            "x",
            "stages.translate.decoding=mbr and shots=2: the verb translate searches with beams and shows no examples",
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
    monkeypatch.setattr("alma_pipeline.launch.sys.executable", "/nowhere")
    assert command(filled.root, monkeypatch, *SETTINGS, "direction=de-en", given="\n \n") == 0
    assert capsys.readouterr().out == "\n \n"

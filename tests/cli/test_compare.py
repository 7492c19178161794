"""`compare`: what two sides are, differ in, and score."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from alma_pipeline import instants
from alma_pipeline.cli import compare
from alma_pipeline.errors import UserError
from alma_pipeline.report import sides, significance
from alma_pipeline.report.jobs import ReportJob, plan_jobs
from alma_pipeline.report.scoreboard import build_boards
from alma_pipeline.report.sides import find_side
from alma_pipeline.report.systems import ScoredCheckpoint, systems
from alma_pipeline.store.store import Store
from helpers.finished_store import finish

WORDS = "data.languages=[de,zh] tracking=none"
BETA = f"stage=cpo stages.cpo.beta=0.2 {WORDS}"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A recipe with beta 0.1, and one with 0.2 that shares everything before cpo."""
    store = Store(tmp_path_factory.mktemp("compare") / "store")
    finish(store, "stage=cpo")
    finish(store, "stage=cpo", "stages.cpo.beta=0.2")
    return Store(store.root)


def lines(root: Path, names: list[str], capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    assert compare.compare(root, names) == 0
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_two_requests(two: Store, capsys: pytest.CaptureFixture[str]) -> None:
    found = lines(two.root, [f"stage=cpo {WORDS}", BETA], capsys)
    settings = found.index(["cpo.beta", "0.1", "0.2"])
    scores = next(place for place, line in enumerate(found) if line[:1] == ["chrF++"])
    assert settings < scores, "differences first"
    assert sum(line[:1] == ["en→de"] for line in found) == 3, "three metrics of cpo; parallel is one and the same"
    assert not any("parallel" in line for line in found)


def test_two_checkpoints(two: Store, capsys: pytest.CaptureFixture[str]) -> None:
    found = lines(two.root, ["parallel", "cpo"], capsys)
    assert ["cpo", "–", "cpo"] in found and ["preferences", "–", "preferences"] in found
    row = next(line for line in found if line[:1] == ["en→de"])
    sides = [find_side(two.root, name).systems[0].seeds[0]["en-de"].score("en-de", "chrf++") for name in ("parallel", "cpo")]
    assert [float(row[1]), float(row[2])] == [pytest.approx(score, abs=0.05) for score in sides]
    assert re.fullmatch(r"[▲▼≈][+−]?\d+\.\d", row[3])


def test_the_paired_test_is_chosen_by_a_flag_or_by_a_request(
    two: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(significance, "sacrebleu_p_value", lambda test, *texts: 0.2)
    request = [f"stage=cpo evaluation.significance=randomisation {WORDS}", BETA]
    for names, flag, told in (
        (["parallel", "cpo"], "", "bootstrap resampling with 1000 samples"),
        (["parallel", "cpo"], "randomisation", "approximate randomisation with 10000 trials"),
        (request, "", "approximate randomisation with 10000 trials"),
        (request, "bootstrap", "bootstrap resampling with 1000 samples"),
    ):
        assert compare.compare(two.root, names, flag) == 0
        assert told in " ".join(capsys.readouterr().out.split())


def test_two_keys_of_one_node(two: Store, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = sorted(two.named("cpo"), key=lambda record: record.payload["config"]["beta"])
    found = lines(two.root, [old.key[:12], new.path.name], capsys)
    assert ["cpo.beta", "0.1", "0.2"] in found


def test_what_cannot_be_compared(two: Store) -> None:
    with pytest.raises(UserError, match=r"no artifact 'cpu' in .*did you mean 'cpo'.*MLflow has no run of that name"):
        compare.compare(two.root, ["cpu", "cpo"])
    with pytest.raises(UserError, match=r"stages.cpo.beta=0.7.* has no scores of cpo; evaluate"):
        compare.compare(two.root, [f"stage=cpo {WORDS}", f"stage=cpo stages.cpo.beta=0.7 {WORDS}"])
    with pytest.raises(UserError, match="have the same scores"):
        compare.compare(two.root, ["cpo", "cpo"])
    with pytest.raises(UserError, match=r"^preferences-\w+: not scored in this store"):
        compare.compare(two.root, ["preferences", "cpo"])


def test_variants_of_a_sweep_are_told_apart_by_what_differs(two: Store) -> None:
    found = systems(plan_jobs(["stage=cpo", *WORDS.split(), "stages.cpo.beta=0.1,0.2", "seed=42"], two))
    own = ["cpo (stages.cpo.beta=0.1)", "cpo (stages.cpo.beta=0.2)"]
    assert [system.label for system in found] == ["base", "parallel_scratch", "parallel", *own]


def test_what_some_variants_share_is_named_by_what_they_share_and_compared(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    rates, betas = (f"stages.parallel.learning_rate={rate}" for rate in ("0.001", "0.002")), ("0.3", "0.2")
    first, second = rates
    for rate in (first, second):
        for beta in betas:
            finish(store, "stage=cpo", rate, f"stages.cpo.beta={beta}")
    words = ["stage=cpo", *WORDS.split(), "stages.parallel.learning_rate=1e-3,2e-3", "stages.cpo.beta=0.3,0.2"]
    found = systems(plan_jobs(words, Store(store.root)))
    labels = [system.label for system in found if system.name == "parallel"]
    assert labels == [f"parallel ({first})", f"parallel ({second})"]
    board = build_boards(found, significance.PairedTests(tmp_path / "s", "bootstrap"))[0]
    cells = dict(zip([system.label for system in board.systems], board.rows[0].cells, strict=True))
    own = [cell for label, cell in cells.items() if label.startswith("cpo")]
    assert len(own) == 4 and all(cell and cell.delta is not None for cell in own)


def test_a_sweep_over_seeds_is_one_side(two: Store, capsys: pytest.CaptureFixture[str]) -> None:
    side = find_side(two.root, f"stage=cpo seed=42,43 {WORDS}")
    assert [len(system.seeds) for system in side.systems if system.name == "cpo"] == [1], "seed 43 was never run"


def test_scoring_again_makes_no_seed_of_a_checkpoint(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for more in ((), ("evaluation.metrics=[chrf++,bleu]",), ("stages.translate.num_beams=2",)):
        finish(store, "stage=base", *more)
    assert len(store.named("base.score")) == 3
    [system] = find_side(store.root, "base").systems
    assert len(system.seeds) == 1
    alone = find_side(store.root, store.named("base.score")[-1].key)
    assert [len(system.seeds) for system in alone.systems] == [1]


def test_the_newest_translations_are_those_of_the_last_instant(finished: Store) -> None:
    """Made in Tokyo, and 43 seconds later in Los Angeles, where it was still the day before."""
    record = next(record for record in finished.records() if record.kind == "score")
    made = [
        replace(record, key=text, created=instants.parse(text))
        for text in ("2026-11-28T23:35:43-0800", "2026-11-29T16:35:00+0900")
    ]
    given = [ScoredCheckpoint("cpo", None, "test", "wmt22", record, record) for record in made]
    assert [one.scores.key for one in sides._newest(iter(given))] == ["2026-11-28T23:35:43-0800"]


@pytest.mark.parametrize(
    ("name", "values", "variants", "seeds"),
    [("stages.cpo.beta", ("0.1", "0.2"), ["cpo.beta=0.1", "cpo.beta=0.2"], [1, 1]), ("seed", ("42", "43"), [""], [2])],
)
def test_the_runs_of_a_tracked_sweep_are_seeds_only_where_nothing_else_differs(
    two: Store, tmp_path: Path, name: str, values: tuple[str, str], variants: list[str], seeds: list[int]
) -> None:
    store = Store(tmp_path / "store")
    plans = []
    for value in values:
        plan = finish(store, "stage=cpo", f"{name}={value}")
        plans.append([{"node": step.node.name, "kind": step.node.kind, "key": step.key, "settings": step.payload["config"],
                       "inputs": step.payload["inputs"]} for step in plan.steps])  # fmt: skip
    side = sides._runs(Store(store.root), "a sweep", plans)
    own = [system for system in side.systems if system.name == "cpo"]
    assert ([system.variant for system in own], [len(system.seeds) for system in own]) == (variants, seeds)


def test_a_request_is_read_as_on_the_command_line(two: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def counted(words: list[str], store: Store) -> list[ReportJob]:
        jobs = plan_jobs(words, store)
        asked.append(len(jobs))
        return jobs

    monkeypatch.setattr(sides, "plan_jobs", counted)
    find_side(two.root, f"stage=cpo directions=de-en,en-de {WORDS}")
    assert asked == [1], "two directions of one run, not a sweep over them"
    words = "stage=score data.test.reader=files data.test.path=/nowhere/{lang}-en.tsv evaluation.outputs.a=x"
    with pytest.raises(UserError, match="has no text for"):
        find_side(two.root, f"{words} {WORDS}")


def test_checkpoints_are_compared_on_the_directions_that_both_have(finished: Store, capsys: pytest.CaptureFixture[str]) -> None:
    found = lines(finished.root, ["cpo", "g1.arpo"], capsys)
    start = next(place for place, line in enumerate(found) if line[:1] == ["chrF++"])
    rows = [line[0] for line in found[start + 1 :] if line and re.match(r"\w\w→\w\w$", line[0])]
    assert set(rows) == {"en→xx", "xx→en", "de→en", "en→de"}, "group 1 has no Chinese"


def test_translations_scores_and_given_outputs_are_sides(two: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("good", "bad"):
        (tmp_path / f"{name}.de-en").write_text(f"{name}\n")
    given = [f"evaluation.outputs.{name}='{tmp_path}/{name}.{{direction}}'" for name in ("good", "bad")]
    store = Store(tmp_path / "store")
    finish(store, "stage=score", *given)
    told = [
        [line for line in lines(store.root, names, capsys) if line[:1] == ["de→en"]]
        for names in (["good", "bad"], ["good.outputs", "bad.outputs"], ["good.score", "bad.score"])
    ]
    assert told[0] and told[0] == told[1] == told[2]
    found = lines(two.root, ["parallel.score", "cpo.translate"], capsys)
    checkpoints = lines(two.root, ["parallel", "cpo"], capsys)
    assert [line for line in found if line[:1] == ["en→de"]] == [line for line in checkpoints if line[:1] == ["en→de"]]


def test_scores_on_different_test_sets_are_not_compared(two: Store, tmp_path: Path) -> None:
    """A part of a set and all of it are two sets."""
    store = Store(tmp_path / "store")
    finish(store, "stage=base")
    finish(store, "stage=base", "stages.translate.num_beams=2", "budget.text.test=null")
    told = r"was scored on CLDR, (100 sentences per direction|all sentences), base\.score-\w+ on CLDR, (?!\1).*: score both"
    with pytest.raises(UserError, match=told):
        compare.compare(store.root, [record.key for record in store.named("base.score")])

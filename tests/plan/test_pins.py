"""A branch of a hub data set: asked for at first use, then the commit in every key, whatever the branch does."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import OfflineModeIsEnabled

from alma_pipeline.cli import session
from alma_pipeline.config import load
from alma_pipeline.errors import UserError
from alma_pipeline.plan import pins
from alma_pipeline.plan.plan import Plan, Rerun, make_plan
from alma_pipeline.store.store import Store

ONE, TWO = "1" * 40, "2" * 40
WORDS = ["model=13b", "stage=cpo", "evaluation.checkpoints=[]"]
PREFERENCES = "haoranxu/ALMA-R-Preference"


class Hub:
    """Answers with the commit that every branch has now."""

    def __init__(self, commit: str) -> None:
        self.commit, self.asked = commit, list[tuple[str, str]]()

    def dataset_info(self, repo: str, revision: str, timeout: float) -> SimpleNamespace:
        self.asked.append((repo, revision))
        return SimpleNamespace(sha=self.commit)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(ONE)
    monkeypatch.setattr(HfApi, "dataset_info", lambda api, *words, **more: made.dataset_info(*words, **more))
    return made


def about_to_run(store: Store, *words: str, rerun: Rerun | None = None) -> Plan:
    return session.pinned_plan(load.load([*WORDS, *words]), store, rerun or Rerun())


def revision(plan: Plan, node: str = "preferences") -> str:
    return str(plan[node].node.config.pairs.revision)  # type: ignore[attr-defined]


def test_a_plan_asks_nothing_and_writes_nothing(store: Store, hub: Hub) -> None:
    assert revision(make_plan(load.load(WORDS), store)) == "main"
    assert not hub.asked and not (store.root / pins.FILE).exists()


def test_what_is_about_to_run_has_a_commit_that_stays_when_the_branch_moves(store: Store, hub: Hub) -> None:
    before = make_plan(load.load(WORDS), store)
    plan = about_to_run(store)
    assert hub.asked == [(PREFERENCES, "main")], "only what the work reads: the other nodes are adopted"
    assert revision(plan) == ONE and plan["preferences"].key != before["preferences"].key
    hub.commit = TWO
    assert revision(about_to_run(store)) == ONE and len(hub.asked) == 1
    later = make_plan(load.load(WORDS), Store(store.root))
    assert [step.key for step in later.steps] == [step.key for step in plan.steps], "plan, report and translate agree with run"


def test_another_store_that_asks_later_has_another_key(tmp_path: Path, hub: Hub) -> None:
    plan = about_to_run(Store(tmp_path / "one"))
    hub.commit = TWO
    other = about_to_run(Store(tmp_path / "two"))
    assert (revision(plan), revision(other)) == (ONE, TWO) and plan["preferences"].key != other["preferences"].key


def test_a_commit_is_taken_as_it_is(store: Store, hub: Hub) -> None:
    assert revision(about_to_run(store, f"data.preferences.revision={TWO}")) == TWO and not hub.asked


def test_a_published_checkpoint_is_adopted_whatever_the_branch_is_now(store: Store, hub: Hub) -> None:
    """Which commit its authors trained on is not known."""
    about_to_run(store, "target=train", "upstream=train")
    assert {repo for repo, _ in hub.asked} >= {"haoranxu/ALMA-Human-Parallel", "oscar-corpus/OSCAR-2301"}
    plan = make_plan(load.load(WORDS), store)
    assert [plan[name].verdict for name in ("mono", "parallel", "cpo")] == ["adopt", "adopt", "run"]


def test_what_the_first_of_two_runs_was_told_counts(store: Store, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(load.load(WORDS), store)
    known = pins._known
    monkeypatch.setattr(pins, "_known", lambda path: known(path) | {f"{PREFERENCES}@main": TWO})
    pins.resolve_branches(plan.work, store)
    assert json.loads((store.root / pins.FILE).read_text()) == {f"{PREFERENCES}@main": TWO}


def test_a_hub_that_cannot_be_asked_is_one_paragraph(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """B47: before anything runs, with what to do; nothing is kept."""

    def offline(*words: object, **more: object) -> None:
        raise OfflineModeIsEnabled("Cannot reach the hub: offline mode is enabled.")

    monkeypatch.setattr(HfApi, "dataset_info", offline)
    with pytest.raises(UserError) as caught:
        about_to_run(store)
    for part in (PREFERENCES, "resolve main", "offline mode", f"https://huggingface.co/datasets/{PREFERENCES}", "HF_TOKEN",
                 "HF_HUB_OFFLINE", "data.parallel.revision=COMMIT", "data.root=FOLDER"):  # fmt: skip
        assert part in str(caught.value), part
    assert "\n" not in str(caught.value) and not (store.root / pins.FILE).exists()


def test_a_damaged_file_is_named(store: Store) -> None:
    store.root.mkdir(parents=True, exist_ok=True)
    (store.root / pins.FILE).write_text("{")
    with pytest.raises(UserError, match=r"pins\.json is damaged"):
        make_plan(load.load(WORDS), store)

"""What will happen and why: verdicts and reasons for the real recipe against a store of made-up artifacts."""

import dataclasses
import json
import shutil
import subprocess
import sys

import pytest
from stages.fake.config import Config as Fake

from alma_pipeline.plan.plan import make_plan, to_json
from alma_pipeline.schema import Config
from alma_pipeline.store.store import Store
from helpers.artifacts import fill, put
from helpers.fake_stages.recipes import changed, planned, recipe
from helpers.plans import loaded, real, verdicts, works


def test_everything_is_new_at_first(store: Store, cpo: Config) -> None:
    plan = make_plan(cpo, store)
    assert {(step.verdict, step.reason) for step in plan.steps} == {("run", "new")}
    assert plan["cpo"].estimate is not None
    assert not store.root.exists(), "a plan writes nothing"


def test_everything_is_reused_at_last(made: Store, cpo: Config) -> None:
    plan = make_plan(cpo, made)
    assert set(verdicts(plan).values()) == {"reuse"}
    assert plan.work == [] and plan["cpo"].record is not None


def test_only_what_depends_on_a_change_runs(made: Store) -> None:
    """B64, B65: neither a surprise nor a missed re-run, and the reason names the setting."""
    config = real("stage=cpo", "stages.cpo.beta=0.2")
    plan = make_plan(config, made)
    assert works(plan) == ["cpo", "cpo.translate", "cpo.score"]
    assert plan["cpo"].reason == "stages.cpo.beta 0.1 → 0.2"
    assert plan["cpo.translate"].reason == "inputs changed: checkpoint"
    assert plan["cpo.score"].reason == "inputs changed: hypotheses (cpo.translate)"


def test_a_change_upstream_reaches_what_stands_on_it(made: Store, cpo: Config) -> None:
    before = cpo.stages["parallel"].learning_rate
    plan = make_plan(changed(cpo, "parallel", learning_rate=0.5), made)
    expected = {"parallel", "preferences", "cpo"} | {
        f"{name}.{part}" for name in ("parallel", "cpo") for part in ("translate", "score")
    }
    assert set(works(plan)) == expected
    assert plan["parallel"].reason == f"stages.parallel.learning_rate {before} → 0.5"
    assert plan["cpo"].reason == "inputs changed: init (parallel), preferences"


def test_many_changes_are_counted(made: Store, cpo: Config) -> None:
    plan = make_plan(changed(cpo, "cpo", beta=0.2, steps=7, seed=3, max_grad_norm=0.5, nll_weight=2.0), made)
    assert plan["cpo"].reason.endswith(" and 2 more settings") and plan["cpo"].reason.count("→") == 3


def test_the_reason_is_against_the_nearest_of_several_artifacts(made: Store, cpo: Config) -> None:
    far = changed(cpo, "cpo", beta=0.2, steps=7, max_grad_norm=0.5)
    fill(made, make_plan(far, made), "cpo")
    plan = make_plan(changed(cpo, "cpo", beta=0.3, steps=7, max_grad_norm=0.5), made)
    assert plan["cpo"].reason == "stages.cpo.beta 0.2 → 0.3"


def test_a_setting_that_was_not_there_before(made: Store, cpo: Config) -> None:
    """A new field without an as-before value makes everything again, and the plan does not blame the files."""
    record = make_plan(cpo, made)["cpo"].record
    assert record is not None
    old = json.loads((record.path / "record.json").read_text())
    for key in ("steps", "epochs"):
        del old["payload"]["config"][key]
    put(made, "cpo", "0" * 64, {"payload": old["payload"]})
    shutil.rmtree(record.path)
    reason = make_plan(cpo, made)["cpo"].reason
    steps = cpo.stages["cpo"].steps
    assert reason == f"stages.cpo.steps (absent) → {steps}, stages.cpo.epochs (absent) → null"


def test_a_bumped_version_is_the_reason(made: Store, cpo: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    version = cpo.stages["score"].version
    monkeypatch.setattr(type(cpo.stages["score"]), "version", version + 1)
    plan = make_plan(cpo, made)
    assert set(works(plan)) == {f"{name}.score" for name in ("base", "mono", "parallel", "cpo")}
    assert plan["cpo.score"].reason == f"version of score {version} → {version + 1}"


def test_a_damaged_artifact_is_made_again(made: Store, cpo: Config) -> None:
    record = make_plan(cpo, made)["cpo"].record
    assert record is not None
    (record.path / "text.txt").unlink()
    plan = make_plan(cpo, made)
    assert works(plan) == ["cpo"], "with the same key as before, so that what was made of it still holds"
    assert plan["cpo"].reason == f"its artifact is incomplete: {record.path}/text.txt is missing"


def test_what_nobody_needs_any_more_is_not_made(made: Store, cpo: Config) -> None:
    """Intermediate artifacts may be deleted once what they lead to exists."""
    for name in ("mono_corpus", "parallel_corpus", "preferences"):
        record = make_plan(cpo, made)[name].record
        assert record is not None
        shutil.rmtree(record.path)
    plan = make_plan(cpo, Store(made.root))
    assert plan.work == []
    assert {name for name, verdict in verdicts(plan).items() if verdict == "skip"} == {
        "mono_corpus",
        "parallel_corpus",
        "preferences",
    }
    assert plan["preferences"].estimate is None
    beta = make_plan(changed(cpo, "cpo", beta=0.2), Store(made.root))
    assert works(beta) == ["parallel_corpus", "preferences", "cpo", "cpo.translate", "cpo.score"], "and are made when they are"
    assert beta["mono_corpus"].verdict == "skip"


def test_a_group_override_makes_that_group_again_alone(store: Store) -> None:
    config = real("stage=arpo")
    fill(store, make_plan(config, store))
    plan = make_plan(dataclasses.replace(config, groups={"g3": {"arpo": {"beta": 0.4}}}), store)
    assert works(plan) == ["g3.arpo", "g3.arpo.translate", "g3.arpo.score"]
    assert plan["g3.arpo"].reason == "stages.arpo.beta 0.1 → 0.4"
    shared = make_plan(changed(config, "arpo", beta=0.4), store)
    assert [step.node.name for step in shared.work if step.node.kind == "arpo"] == ["g1.arpo", "g3.arpo"]


def test_another_group_reuses_what_is_shared(store: Store) -> None:
    config = real("stage=arpo")
    fill(store, make_plan(dataclasses.replace(config, group=1), store))
    plan = make_plan(config, store)
    assert {step.node.group for step in plan.work} == {3}


def test_equal_settings_share_one_key_whatever_the_node_is_called(store: Store) -> None:
    config = recipe({"a": Fake(text="x"), "b": Fake(text="x"), "c": Fake(inputs={"one": "a", "two": "b"})})
    plan = planned(config, store)
    assert plan["a"].key == plan["b"].key != plan["c"].key


def test_counts_are_exact_once_the_text_is_prepared(store: Store, cpo: Config) -> None:
    before = make_plan(cpo, store)["parallel"].estimate
    fill(store, make_plan(cpo, store), "base", "parallel_corpus")
    after = make_plan(cpo, store)["parallel"].estimate
    assert before is not None and not before.exact and after is not None and after.exact


def test_plan_as_json(made: Store, cpo: Config) -> None:
    plain = json.loads(json.dumps(to_json(make_plan(changed(cpo, "cpo", beta=0.2), made))))
    steps = {step["node"]: step for step in plain["steps"]}
    assert steps["cpo"]["verdict"] == "run" and steps["cpo"]["settings"]["beta"] == 0.2
    assert steps["cpo"]["inputs"] == {"init": "parallel", "preferences": "preferences"}
    assert steps["mono"]["path"] and steps["mono"]["estimate"] is None and steps["cpo"]["estimate"]


HEAVY = ("torch", "transformers", "peft", "deepspeed", "datasets", "mlflow", "sacrebleu", "pandas")
NOTHING_TO_DO = [
    "-X",
    "importtime",
    "-m",
    "alma_pipeline",
    "run",
    "stage=mono",
    "data.languages=[de,sv,ru,uk]",
    "evaluation.checkpoints=[]",
]


def test_planning_imports_nothing_heavy(store: Store) -> None:
    """Also when everything is reused and no record waits for MLflow."""
    fill(store, make_plan(loaded("stage=mono"), store))
    environment = {"ALMA_PIPELINE_STORE": str(store.root)}
    done = subprocess.run([sys.executable, *NOTHING_TO_DO], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "nothing to do" in done.stdout, done.stdout + done.stderr
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "import time:" in line}
    imported = {name.partition(".")[0] for name in modules}
    assert "alma_pipeline" in imported and not imported & set(HEAVY)

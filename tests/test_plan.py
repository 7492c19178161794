"""What will happen and why: verdicts and reasons for the real recipe against a store of made-up artifacts."""

import dataclasses
import json
import subprocess
import sys
from typing import Any

import pytest
from fakes.bed import Fake, changed, fill, loaded, planned, put, recipe

from alma_pipeline.errors import ConfigError
from alma_pipeline.identity import settings
from alma_pipeline.plan import Forced, Plan, make_plan, to_json
from alma_pipeline.recipe import build
from alma_pipeline.schema import Config, Hardware
from alma_pipeline.store import Store

CHECKPOINTS = ["base", "mono", "parallel", "cpo", "group_parallel", "arpo"]


def works(plan: Plan) -> list[str]:
    return [step.node.name for step in plan.work]


def verdicts(plan: Plan) -> dict[str, str]:
    return {step.node.name: step.verdict for step in plan.steps}


def real(*overrides: str) -> Config:
    """The real configuration with these checkpoints evaluated, whatever the evaluation option has."""
    config = loaded(*overrides)
    changes: dict[str, Any] = {"controls": {}, "checkpoints": CHECKPOINTS}
    return dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, **changes))


@pytest.fixture
def cpo() -> Config:
    return real("stage=cpo")


@pytest.fixture
def made(store: Store, cpo: Config) -> Store:
    """A store that holds everything `stage=cpo` needs."""
    fill(store, make_plan(cpo, store))
    return store


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
    assert plan["cpo"].reason == "because stages.cpo.beta 0.1 → 0.2"
    assert plan["cpo.translate"].reason == "because its checkpoint (cpo) is another"
    assert plan["cpo.score"].reason == "because its hypotheses (cpo.translate) is another"


def test_a_change_upstream_reaches_what_stands_on_it(made: Store, cpo: Config) -> None:
    before = cpo.stages["parallel"].learning_rate
    plan = make_plan(changed(cpo, "parallel", learning_rate=0.5), made)
    expected = {"parallel", "preferences", "cpo"} | {
        f"{name}.{part}" for name in ("parallel", "cpo") for part in ("translate", "score")
    }
    assert set(works(plan)) == expected
    assert plan["parallel"].reason == f"because stages.parallel.learning_rate {before} → 0.5"
    assert plan["cpo"].reason == "because its init (parallel) is another, its preferences (preferences) is another"


def test_many_changes_are_counted(made: Store, cpo: Config) -> None:
    plan = make_plan(changed(cpo, "cpo", beta=0.2, steps=7, seed=3, clip=0.5, nll_weight=2.0), made)
    assert plan["cpo"].reason.endswith(", 2 more") and plan["cpo"].reason.count("→") == 3


def test_the_reason_is_against_the_nearest_of_several_artifacts(made: Store, cpo: Config) -> None:
    far = changed(cpo, "cpo", beta=0.2, steps=7, clip=0.5)
    fill(made, make_plan(far, made), "cpo")
    plan = make_plan(changed(cpo, "cpo", beta=0.3, steps=7, clip=0.5), made)
    assert plan["cpo"].reason == "because stages.cpo.beta 0.2 → 0.3"


def test_a_setting_that_was_not_there_before(made: Store, cpo: Config) -> None:
    """A new field without an as-before value makes everything again, and the plan does not blame the files."""
    record = make_plan(cpo, made)["cpo"].record
    assert record is not None
    old = json.loads((record.path / "record.json").read_text())
    for key in ("steps", "epochs"):
        del old["payload"]["config"][key]
    put(made, "cpo", "0" * 64, {"payload": old["payload"]})
    (record.path / "record.json").unlink()
    reason = make_plan(cpo, made)["cpo"].reason
    steps = cpo.stages["cpo"].steps
    assert reason == f"because stages.cpo.steps (absent) → {steps}, stages.cpo.epochs (absent) → None"


def test_a_bumped_version_is_the_reason(made: Store, cpo: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(cpo.stages["score"]), "version", 2)
    plan = make_plan(cpo, made)
    assert set(works(plan)) == {f"{name}.score" for name in ("base", "mono", "parallel", "cpo")}
    assert plan["cpo.score"].reason == "because version of score 1 → 2"


def test_a_damaged_artifact_is_made_again(made: Store, cpo: Config) -> None:
    record = make_plan(cpo, made)["cpo"].record
    assert record is not None
    (record.path / "text.txt").unlink()
    plan = make_plan(cpo, made)
    assert works(plan) == ["cpo"], "with the same key as before, so that what was made of it still holds"
    assert plan["cpo"].reason == "its earlier artifact is not whole"


def test_what_nobody_needs_any_more_is_not_made(made: Store, cpo: Config) -> None:
    """Intermediate artifacts may be deleted once what they lead to exists."""
    for name in ("mono_corpus", "parallel_corpus", "preferences"):
        record = make_plan(cpo, made)[name].record
        assert record is not None
        (record.path / "record.json").unlink()
    plan = make_plan(cpo, Store(made.root))
    assert plan.work == []
    assert {name for name, verdict in verdicts(plan).items() if verdict == "unneeded"} == {
        "mono_corpus",
        "parallel_corpus",
        "preferences",
    }
    assert plan["preferences"].estimate is None
    beta = make_plan(changed(cpo, "cpo", beta=0.2), Store(made.root))
    assert works(beta) == ["parallel_corpus", "preferences", "cpo", "cpo.translate", "cpo.score"], "and are made when they are"
    assert beta["mono_corpus"].verdict == "unneeded"


def test_a_group_override_makes_that_group_again_alone(store: Store) -> None:
    config = real("stage=arpo")
    fill(store, make_plan(config, store))
    plan = make_plan(dataclasses.replace(config, groups={"g3": {"arpo": {"beta": 0.4}}}), store)
    assert works(plan) == ["g3.arpo", "g3.arpo.translate", "g3.arpo.score"]
    assert plan["g3.arpo"].reason == "because stages.arpo.beta 0.1 → 0.4"
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


@pytest.mark.parametrize(
    ("forced", "again"),
    [
        (Forced(force=("mono",)), ["mono"]),
        (Forced(force=("cpo", "mono.score")), ["cpo", "mono.score"]),
        (Forced(since=("preferences",)), ["preferences", "cpo", "cpo.translate", "cpo.score"]),
        (
            Forced(since=("parallel",)),
            ["parallel", "parallel.translate", "parallel.score", "preferences", "cpo", "cpo.translate", "cpo.score"],
        ),
        (Forced(since=("preferences",), only=("cpo",)), ["cpo"]),
        (Forced(only=("cpo",)), []),
        (Forced(force=("cpo",), only=("cpo", "cpo.score")), ["cpo"]),
    ],
)
def test_force_from_only(made: Store, cpo: Config, forced: Forced, again: list[str]) -> None:
    plan = make_plan(cpo, made, forced)
    assert set(works(plan)) == set(again)
    reasons = {step.reason for step in plan.work}
    assert reasons <= {"--force", "--from preferences", "--from parallel"}
    assert all(step.fresh for step in plan.work)
    assert [step.key for step in plan.steps] == [step.key for step in make_plan(cpo, made).steps], "the keys stay"


def test_only_leaves_the_rest_unmade(store: Store, cpo: Config) -> None:
    plan = make_plan(cpo, store, Forced(only=("base",)))
    assert works(plan) == ["base"] and set(verdicts(plan).values()) == {"run", "unneeded"}


@pytest.mark.parametrize(
    ("forced", "said"),
    [
        (Forced(force=("moon",)), "--force moon: no such node in this plan; did you mean 'mono'?"),
        (Forced(since=("arpo",)), "--from arpo: no such node in this plan; "),
        (Forced(only=("cpo.sore",)), r"--only cpo.sore: .*did you mean 'cpo.score'"),
    ],
)
def test_wrong_names(store: Store, cpo: Config, forced: Forced, said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
        make_plan(cpo, store, forced)


def test_all_wrong_names_at_once(store: Store, cpo: Config) -> None:
    with pytest.raises(ConfigError) as caught:
        make_plan(cpo, store, Forced(("a",), ("b",), ("c",)))
    assert len(caught.value.problems) == 3


def left_off(store: Store, name: str, key: str, step: int, **topology: Any) -> None:
    folder = store.work_path(name, key) / "resume" / f"step-{step}"
    folder.mkdir(parents=True)
    text = json.dumps({"step": step, "topology": {"processes": 1, "zero_stage": 0, "precision": "fp32"} | topology})
    (folder / "manifest.json").write_text(text)


def test_an_unfinished_node_is_resumed(made: Store, cpo: Config) -> None:
    config = changed(cpo, "cpo", beta=0.2)
    left_off(made, "cpo", make_plan(config, made)["cpo"].key, 1200)
    step = make_plan(config, made)["cpo"]
    assert (step.verdict, step.reason, step.works) == ("resume", "from step 1,200", True)


@pytest.mark.parametrize("forced", [Forced(force=("cpo",)), Forced(since=("cpo",)), Forced(since=("preferences",))])
def test_asked_for_again_nothing_is_resumed(made: Store, cpo: Config, forced: Forced) -> None:
    """--force is the way out when a resume point cannot be used."""
    config = changed(cpo, "cpo", beta=0.2)
    left_off(made, "cpo", make_plan(config, made)["cpo"].key, 7)
    step = make_plan(config, made, forced)["cpo"]
    assert (step.verdict, step.fresh) == ("run", True)
    after = make_plan(config, made, forced)["cpo.score"]
    assert after.reason == ("because its hypotheses (cpo.translate) is another" if forced.force else step.reason)


@pytest.mark.parametrize(
    ("topology", "said"),
    [
        ({"processes": 8}, "cpo can go on from step 7 only .*found processes 8, now 1.*--force cpo"),
        ({"zero_stage": 3}, "found zero_stage 3, now 0"),
        ({"processes": 2, "zero_stage": 2}, "found processes 2, now 1, zero_stage 2, now 0"),
    ],
)
def test_another_topology_stops_in_the_plan(made: Store, cpo: Config, topology: dict[str, int], said: str) -> None:
    """B1, B3: with the ways out, before anything is started."""
    config = changed(cpo, "cpo", beta=0.2)
    left_off(made, "cpo", make_plan(config, made)["cpo"].key, 7, **topology)
    with pytest.raises(ConfigError, match=said):
        make_plan(config, made)
    assert make_plan(config, made, Forced(force=("cpo",)))["cpo"].verdict == "run"
    as_then = Hardware(
        name="then", launcher="torchrun", devices=topology.get("processes", 1), zero_stage=topology.get("zero_stage", 0)
    )
    assert make_plan(dataclasses.replace(config, hardware=as_then), made)["cpo"].verdict == "resume"
    elsewhere = make_plan(config, made, Forced(only=("mono",)))
    assert elsewhere["cpo"].verdict == "unneeded", "nobody asked for it"


def test_a_finished_node_is_not_resumed(made: Store, cpo: Config) -> None:
    left_off(made, "cpo", make_plan(cpo, made)["cpo"].key, 7, processes=8)
    assert make_plan(cpo, made)["cpo"].verdict == "reuse"


def released(config: Config, *names: str, **changes: Any) -> Config:
    """With a published checkpoint for these nodes, stated with the settings that `config` has."""
    from alma_pipeline.schema import Released

    stated = {node.name: settings(node.config) for node in build(config)}
    entries = {
        name: Released(
            repo=f"someone/{name}", revision="0123456789abcdef", languages=config.data.languages, config=stated, **changes
        )
        for name in names
    }
    return dataclasses.replace(config, model=dataclasses.replace(config.model, released=entries))


def test_a_published_checkpoint_of_equal_settings_is_adopted(store: Store, cpo: Config) -> None:
    """B64: and what leads to it is not made."""
    plan = make_plan(released(cpo, "mono", "parallel"), store)
    assert (plan["parallel"].verdict, plan["parallel"].reason) == ("adopt", "someone/parallel@0123456789ab")
    assert (plan["cpo"].verdict, plan["mono_corpus"].verdict) == ("run", "unneeded")
    assert plan["parallel"].estimate is None
    assert plan["parallel"].payload["kind"] == "released"
    assert plan["parallel"].requested_key not in ("", plan["parallel"].key)


def test_lineage_never_claims_training_that_did_not_happen(store: Store, cpo: Config) -> None:
    ours, theirs = make_plan(cpo, store), make_plan(released(cpo, "parallel"), store)
    assert theirs["cpo"].payload["inputs"]["init"] == theirs["parallel"].key != ours["parallel"].key
    assert theirs["parallel"].requested_key == ours["parallel"].key
    assert theirs["cpo"].key != ours["cpo"].key


def test_an_adopted_checkpoint_is_reused(store: Store, cpo: Config) -> None:
    config = released(cpo, "parallel")
    fill(store, make_plan(config, store), "parallel")
    step = make_plan(config, store)["parallel"]
    assert (step.verdict, step.reason) == ("reuse", "someone/parallel@0123456789ab")


@pytest.mark.parametrize(
    ("node", "change", "adopted"),
    [
        ("parallel", {"learning_rate": 0.5}, ["mono"]),
        ("parallel_corpus", {"max_source": 7}, ["mono"]),
        ("mono_corpus", {"block": 64}, []),
        ("base", {"seed": 7}, ["mono", "parallel"]),
    ],
)
def test_why_it_is_not_adopted(store: Store, cpo: Config, node: str, change: dict[str, Any], adopted: list[str]) -> None:
    """A release stands on its settings and on those before it; a model option's base is the release's own."""
    [(key, new)] = change.items()
    config = changed(released(cpo, "mono", "parallel"), node, **change)
    plan = make_plan(config, store)
    why = f"because stages.{node}.{key} {getattr(cpo.stages[node], key)} → {new} (released: someone/{{}})"
    for name in ("mono", "parallel"):
        step = plan[name]
        taken = step.released is not None
        assert taken == (name in adopted)
        assert taken or step.reason == why.format(name)


def test_an_adopted_parent_answers_for_what_led_to_it(store: Store, cpo: Config) -> None:
    """The settings behind `mono` were compared for `mono`; a release of `parallel` need not state them."""
    config = released(cpo, "mono", "parallel")
    entry = config.model.released["parallel"]
    stated = {name: value for name, value in entry.config.items() if name in ("parallel", "parallel_corpus")}
    entries = config.model.released | {"parallel": dataclasses.replace(entry, config=stated)}
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, released=entries))
    assert make_plan(config, store)["parallel"].verdict == "adopt"
    alone = dataclasses.replace(config.model, released={"parallel": entries["parallel"]})
    step = make_plan(dataclasses.replace(config, model=alone), store)["parallel"]
    assert step.reason == "because someone/parallel states no settings for mono"


def test_null_in_a_setting_is_the_same_as_not_stating_it(store: Store, cpo: Config) -> None:
    config = released(cpo, "parallel")
    entry = config.model.released["parallel"]
    stated = {name: {key: value for key, value in values.items() if value is not None} for name, values in entry.config.items()}
    entries = {"parallel": dataclasses.replace(entry, config=stated)}
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, released=entries))
    assert make_plan(config, store)["parallel"].verdict == "adopt"


def test_another_seed_is_served_another_language_is_not(store: Store, cpo: Config) -> None:
    config = released(cpo, "parallel")
    stages = {name: dataclasses.replace(node, seed=7) if hasattr(node, "seed") else node for name, node in config.stages.items()}
    assert make_plan(dataclasses.replace(config, stages=stages), store)["parallel"].verdict == "adopt"
    more = dataclasses.replace(config, data=dataclasses.replace(config.data, languages=[*config.data.languages, "fi"]))
    step = make_plan(more, store)["parallel"]
    assert (step.verdict, step.reason) == ("run", "because someone/parallel was not trained on fi")


def test_upstream_and_target_decide(store: Store, cpo: Config) -> None:
    config = released(cpo, "parallel", "cpo")
    assert make_plan(config, store)["cpo"].reason == "target=train (released: someone/cpo)"
    assert make_plan(dataclasses.replace(config, target="adopt"), store)["cpo"].verdict == "adopt"
    plan = make_plan(dataclasses.replace(config, upstream="train"), store)
    assert plan["parallel"].reason == "upstream=train (released: someone/parallel)"


def test_a_forced_node_is_trained_and_not_adopted(store: Store, cpo: Config) -> None:
    config = released(cpo, "parallel")
    plan = make_plan(config, store, Forced(force=("parallel",)))
    assert (plan["parallel"].verdict, plan["parallel"].reason) == ("run", "--force")
    assert make_plan(config, store, Forced(since=("mono",)))["parallel"].reason == "--from mono"


def test_from_adopted_to_trained_is_said_so(store: Store, cpo: Config) -> None:
    fill(store, make_plan(released(cpo, "parallel"), store), "parallel")
    assert make_plan(cpo, store)["parallel"].reason == "because its earlier artifact is of kind released, now parallel"


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
    """Also when everything is reused: an invocation with nothing to do imports no tracking either."""
    fill(store, make_plan(loaded("stage=mono"), store))
    environment = {"ALMA_PIPELINE_STORE": str(store.root)}
    done = subprocess.run([sys.executable, *NOTHING_TO_DO], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "nothing to do" in done.stdout, done.stdout + done.stderr
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if "import time:" in line}
    assert "alma_pipeline" in imported and not imported & set(HEAVY)

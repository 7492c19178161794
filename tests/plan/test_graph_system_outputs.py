"""Other systems' outputs in the plan: as nodes beside the recipe's, as candidates of its preferences, known by content."""

from pathlib import Path

import pytest

from alma_pipeline.cli.arguments import parse
from alma_pipeline.config import load
from alma_pipeline.errors import ConfigError
from alma_pipeline.plan.plan import Plan, make_plan
from alma_pipeline.report.systems import without_group
from alma_pipeline.store.store import Store

TWO = ["data.languages=[de,nl]"]


def planned(tmp_path: Path, *overrides: str) -> Plan:
    return make_plan(load.load(parse([*TWO, *overrides]).overrides), Store(tmp_path / "store"))


def given(folder: Path, *directions: str, text: str = "x\n") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for direction in directions:
        (folder / f"test-{direction}").write_text(text)
    return f"{folder}/test-{{direction}}"


def test_a_table_of_released_outputs_needs_no_model(tmp_path: Path) -> None:
    one, other = given(tmp_path / "one", "de-en", "en-nl"), given(tmp_path / "other", "de-en")
    plan = planned(tmp_path, "stage=score", f"evaluation.outputs.ALMA-13B-R={one}", f"evaluation.outputs.gpt4={other}")
    names = [step.node.name for step in plan.steps]
    assert names == ["test_corpus", "ALMA-13B-R.outputs", "ALMA-13B-R.score", "gpt4.outputs", "gpt4.score"]
    assert all(step.verdict == "run" for step in plan.steps)
    source = plan["ALMA-13B-R.outputs"].node.config.system_outputs["ALMA-13B-R"]  # type: ignore[attr-defined]
    assert sorted(source.files) == ["de-en.txt", "en-nl.txt"] and source.path is None
    assert plan["gpt4.score"].node.inputs == {"hypotheses": "gpt4.outputs"}


def test_the_names_of_real_systems_hold_dots(tmp_path: Path) -> None:
    """On the command line and in YAML, where a value may also refer to another setting; the report keeps them apart."""
    pattern = given(tmp_path / "out", "de-en")
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    text = "# @package _global_\nevaluation:\n  outputs:\n    Llama-3.1-8B: ${data.root}/test-{direction}\n"
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(text)
    plan = planned(
        tmp_path, "stage=score", f"evaluation.outputs.gpt-4.1={pattern}", f"hydra.searchpath=[{tmp_path}/conf]",
        "experiment=mine", f"data.root={tmp_path}/out",
    )  # fmt: skip
    names = [step.node.name for step in plan.steps]
    assert names == ["test_corpus", "Llama-3.1-8B.outputs", "Llama-3.1-8B.score", "gpt-4.1.outputs", "gpt-4.1.score"]
    plain = planned(tmp_path, "stage=score", f"evaluation.outputs.other={pattern}")
    assert plain["other.outputs"].node.config.directions == plan["gpt-4.1.outputs"].node.config.directions  # type: ignore[attr-defined]
    assert [without_group(name) for name in ("gpt-4.1", "Llama-3.1-8B", "g5.arpo", "cpo")] == [
        "gpt-4.1",
        "Llama-3.1-8B",
        "arpo",
        "cpo",
    ]


def test_one_file_serves_the_only_direction(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("x\n")
    plan = planned(tmp_path, "stage=score", f"evaluation.outputs.gpt4={tmp_path}/one.txt", "directions=de-en")
    assert list(plan["gpt4.outputs"].node.config.system_outputs["gpt4"].files) == ["all.txt"]  # type: ignore[attr-defined]


def test_they_stand_beside_the_recipe_s_own_checkpoints_on_one_test_set(tmp_path: Path) -> None:
    plan = planned(tmp_path, "stage=parallel", f"evaluation.outputs.gpt4={given(tmp_path / 'gpt4', 'de-en')}")
    assert plan["gpt4.outputs"].node.inputs["test"] == plan["parallel.translate"].node.inputs["test"]
    assert [step.node.name for step in plan.steps].count("test_corpus") == 1


def test_a_key_follows_content_and_not_place(tmp_path: Path) -> None:
    def keys(folder: str, text: str = "x\n") -> list[str]:
        pattern = given(tmp_path / folder, "de-en", text=text)
        evaluated = planned(tmp_path, "stage=score", f"evaluation.outputs.gpt4={pattern}")
        chosen = planned(tmp_path, "stage=cpo", f"stages.preferences.outputs.gpt4={pattern}")
        return [evaluated["gpt4.score"].key, chosen["preferences"].key, chosen["cpo"].key]

    first = keys("here")
    assert keys("there") == first
    assert not set(keys("there", "y\n")) & set(first)
    assert not set(first) & {step.key for step in planned(tmp_path, "stage=cpo").steps}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["evaluation.outputs.gpt4={}/none.{direction}"], r"evaluation\.outputs\.gpt4=.*has no text for de-en, en-de"),
        (["evaluation.outputs.gpt4={}/x.{direction}.{side}"], r"expected {direction} in the path"),
        (
            ["evaluation.outputs.gpt4={}/one.txt"],
            r"plain lines do not show which of de-en, en-de, nl-en, en-nl they belong to; expected",
        ),
        (["evaluation.outputs.gpt4={}/one"], r"plain lines do not show which"),
        (["evaluation.outputs.cpo={}/x.{direction}"], r"evaluation\.outputs\.cpo: expected a name .* that no node has"),
        (["evaluation.outputs.g1.cpo={}/x.{direction}"], r"evaluation\.outputs\.g1\.cpo: expected a name .* that no node has"),
        (["evaluation.outputs={a/b: x}"], r"evaluation\.outputs\.a/b: expected a name of letters"),
        (["stages.preferences.outputs.gpt4={}/none.{direction}"], r"stages\.preferences\.outputs\.gpt4=.*has no text"),
    ],
)
def test_what_is_missing_is_told_in_the_plan(tmp_path: Path, overrides: list[str], message: str) -> None:
    for name in ("one.txt", "one"):
        (tmp_path / name).write_text("x\n")
    with pytest.raises(ConfigError, match=message):
        planned(tmp_path, "stage=cpo", *(text.replace("{}", str(tmp_path)) for text in overrides))


def test_a_model_as_it_is_can_be_evaluated(tmp_path: Path) -> None:
    names = [step.node.name for step in planned(tmp_path, "stage=base").steps]
    assert names == ["base", "test_corpus", "base.translate", "base.score"]

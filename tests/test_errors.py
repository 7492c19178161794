"""Suggestions for wrong names, and the names that settings used to have."""

import dataclasses
from pathlib import Path

import pytest

from alma_pipeline.config import load
from alma_pipeline.errors import RENAMED, ConfigError, suggestion
from alma_pipeline.schema import Cleaning, Evaluation, Hardware
from alma_pipeline.schema.kinds import kind_config, kinds


def test_the_nearest_name_or_all_of_them() -> None:
    assert suggestion("bta", ["beta", "gamma"]) == "did you mean 'beta'?"
    assert suggestion("x", ["gamma", "beta"]) == "known: beta, gamma"


def test_names_that_are_listed_anyway_are_listed_once() -> None:
    for override, options in (("stage=zzz", "(options: all, "), ("stages.cpo.select_by=x", "expected one of dev_loss, ")):
        with pytest.raises(ConfigError) as error:
            load.load([override])
        assert options in str(error.value) and "known" not in str(error.value)


def test_an_old_name_is_answered_with_the_new_one_where_that_is_known() -> None:
    assert suggestion("clip", ["max_grad_norm", "clap"]) == "it is now called 'max_grad_norm'"
    assert suggestion("clip", ["clap"]) == "did you mean 'clap'?"


def test_every_new_name_is_a_setting_or_a_value_and_its_old_one_is_gone_there() -> None:
    schemas = [*(kind_config(kind) for kind in kinds()), Hardware, Evaluation, Cleaning]
    lists = [{item.name for item in dataclasses.fields(schema)} for schema in schemas]
    lists += [set(item.metadata.get("choices", ())) for schema in schemas for item in dataclasses.fields(schema)]
    for old, new in RENAMED.items():
        assert any(new in names for names in lists), new
        assert not any({old, new} <= names for names in lists), old


@pytest.mark.parametrize(
    ("override", "answer"),
    [
        ("stages.cpo.clip=0.5", "stages.cpo.clip=0.5: no key 'clip' in stages.cpo; it is now called 'max_grad_norm'"),
        ("budget.cpo.global_batch=8", "no key 'global_batch' in budget.cpo; it is now called 'global_batch_size'"),
        ("stages.preferences.mean_of=[chrf]", "no key 'mean_of' in stages.preferences; it is now called 'score_by'"),
        ("stages.translate.engine=own", "stages.translate.engine=own: expected one of native, vllm; it is now called 'native'"),
        ("hardware.row_tokens=512", "no key 'row_tokens' in hardware; it is now called 'micro_batch_tokens'"),
        ("model.base_weights=nf4", "no key 'base_weights' in model; it is now called 'quantization'"),
    ],
)
def test_an_old_name_on_the_command_line_is_an_error_that_names_the_new_one(override: str, answer: str) -> None:
    with pytest.raises(ConfigError) as error:
        load.load(["stage=cpo", override])
    assert any(text.endswith(answer) for text in error.value.problems), error.value.problems


def test_an_old_name_in_a_file_is_one_too(tmp_path: Path) -> None:
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "mine.yaml").write_text("# @package _global_\nstages:\n  cpo: {choose_by: last}\n")
    with pytest.raises(ConfigError, match=r"choose_by: no such key; it is now called 'select_by'"):
        load.load([f"hydra.searchpath=[file://{tmp_path}]", "stage=cpo", "experiment=mine"])

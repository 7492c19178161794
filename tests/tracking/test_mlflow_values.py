"""Values in MLflow's form: no name it refuses, nothing cut without a trace."""

import math
import posixpath
import re

import pytest

from alma_pipeline.tracking import mlflow_values
from helpers.tracking import SCORES, line


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("train/loss", "train/loss"),
        ("eval/de-en/chrf++", "eval/de-en/chrf_pp"),
        ("a=b,c", "a_b_c"),
        ("größe", "gr__e"),
        ("//a//./../b/", "a/b"),
        ("", "unnamed"),
        ("..", "unnamed"),
    ],
)
def test_names(raw: str, expected: str) -> None:
    assert mlflow_values.mlflow_name(raw) == expected


@pytest.mark.parametrize("raw", ["x" * 300, "/a/../b", "50% of it?", "tab\tend", "a" * 249 + "/b"])
def test_any_name_is_one_mlflow_takes(raw: str) -> None:
    made = mlflow_values.mlflow_name(raw)
    assert re.fullmatch(r"[\w\-. :/]{1,250}", made, flags=re.ASCII)
    assert posixpath.normpath(made) == made


def test_long_names_stay_different() -> None:
    assert mlflow_values.mlflow_name("x" * 300 + "1") != mlflow_values.mlflow_name("x" * 300 + "2")


def test_parameters_are_dotted_and_read_as_typed() -> None:
    settings = {"lora": {"rank": 16, "targets": ["q", "v"]}, "rate": 2e-5, "on": True, "none": None, "word": "a b", "open": "???"}
    texts, long = mlflow_values.param_texts(settings)
    expected = {"lora.rank": "16", "lora.targets": '["q", "v"]', "rate": "2e-05", "on": "true", "none": "null", "word": "a b"}
    assert texts == expected
    assert long == {}


def test_a_long_parameter_is_a_digest_that_compares() -> None:
    """B32, B33: at most 500 characters, never cut silently; equal values have equal digests."""
    whole = "x" * 501
    texts, long = mlflow_values.param_texts({"prompt": whole, "fits": "y" * 500})
    assert texts["prompt"].startswith("sha256:") and "501 characters" in texts["prompt"]
    assert texts["fits"] == "y" * 500
    assert long == {"prompt": whole}
    assert mlflow_values.param_texts({"prompt": whole})[0] == {"prompt": texts["prompt"]}
    assert mlflow_values.param_texts({"prompt": whole[:-1] + "z"})[0] != {"prompt": texts["prompt"]}


def test_a_long_tag_says_so() -> None:
    assert mlflow_values.tag_value("a" * 500) == "a" * 500
    assert len(mlflow_values.tag_value("a" * 501)) <= 500
    assert "sha256:" in mlflow_values.tag_value("a" * 501)


def test_numbers_of_a_result() -> None:
    result = {"steps": 3, "checkpoint": {"form": "full"}, "before": {"dev/loss": 2.5, "bad": math.nan}, "ok": True, "none": None}
    assert mlflow_values.finite_metrics(result, "result") == {"result/steps": 3.0, "result/before/dev/loss": 2.5}


def test_points_keep_step_time_and_divergence() -> None:
    text = line(3, math.nan) | {"metrics": {"train/loss": math.nan, "note": "text", "flag": True, "n": 2}}
    (name, value, time, step), other = mlflow_values.metric_points([text])
    assert (name, time, step) == ("train/loss", 1_700_000_003_000, 3)
    assert math.isnan(value)
    assert other[:2] == ("n", 2.0)


def test_scores_of_the_target_and_of_checkpoints_on_the_way() -> None:
    assert mlflow_values.score_metrics(SCORES) == {
        "eval/de-en/chrf_pp": 70.5,
        "eval/de-en/bleu": 40.0,
        "eval/en-de/chrf_pp": 60.5,
        "eval/en-de/bleu": 30.0,
        "eval/avg/en-xx/chrf_pp": 60.5,
        "eval/avg/xx-en/chrf_pp": 70.5,
    }
    final = mlflow_values.final_scores({"base": SCORES, "cpo": SCORES}, "cpo")
    assert final == mlflow_values.score_metrics(SCORES) | {
        "eval/base/avg/en-xx/chrf_pp": 60.5,
        "eval/base/avg/xx-en/chrf_pp": 70.5,
    }


def test_signatures_are_written_once_where_shared() -> None:
    assert mlflow_values.signature_tags(SCORES) == {"alma.signature.chrf_pp": "nrefs:1|nw:2", "alma.signature.bleu": "tok:13a"}
    different = {"signatures": {"bleu": {"en-de": "tok:13a", "en-zh": "tok:zh"}}}
    assert mlflow_values.signature_tags(different) == {
        "alma.signature.bleu.en-de": "tok:13a",
        "alma.signature.bleu.en-zh": "tok:zh",
    }

"""Files and settings that mean something else than they seem to are named; entries of tables take every setting."""

import codecs
from pathlib import Path

import pytest

from alma_pipeline.config import load
from alma_pipeline.config.compose import with_search_path
from alma_pipeline.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {languages: [da, no]}", r"^data\.languages=.*'False'.*: found a truth value .* in quotes: 'no' is Norwegian"),
        ("directions: [no-en, no]", r"^directions=.*False.*: found a truth value .* in quotes: 'no' is Norwegian"),
        ("data: {probabilities: {no: 0.5}}", r"data\.probabilities: found the key False, a truth value .* 'no' is Norwegian"),
        ("evaluation: {outputs: {on: x.txt}}", r"evaluation\.outputs: found the key True, a truth value .* 'no' is Norwegian"),
        ("languages: {no: {group: 2}}", r"languages: found the key False, a truth value .* 'no' is Norwegian"),
        ("tracking: {experiment: off}", r"^tracking\.experiment=False: found a truth value"),
        ("tracking: {experiment: ''}", r"^tracking: experiment is empty; expected the name of an experiment in MLflow"),
    ],
)
def test_an_unquoted_no_names_norwegian_and_the_quotes(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}\n")
    with pytest.raises(ConfigError, match=message):
        load.load(with_search_path(["experiment=mine"], [str(tmp_path)]))


def test_a_byte_order_mark_is_named(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    file = tmp_path / "experiment" / "mine.yaml"
    file.write_bytes(codecs.BOM_UTF8 + b"# @package _global_\nseed: 7\n")
    with pytest.raises(ConfigError) as caught:
        load.load(with_search_path(["experiment=mine"], [str(tmp_path)]))
    assert caught.value.problems == [f"{file} starts with a byte-order mark; save it as UTF-8 without one"]


def test_entries_of_tables_take_every_setting_without_a_plus() -> None:
    config = load.load(
        ["scorers.comet-22.precision=fp32", "data.probabilities={de: 0.5, nl: 0.5}", "languages.th.tokenizer=char"]
    )
    assert (config.scorers["comet-22"].precision, config.data.probabilities) == ("fp32", {"de": 0.5, "nl": 0.5})
    assert config.languages["th"].tokenizer == "char"
    with pytest.raises(ConfigError, match=r"scorers\.comet-22\.precison: no such key; did you mean 'precision'\?"):
        load.load(["scorers.comet-22.precison=fp32"])
    with pytest.raises(ConfigError, match=r"^data\.probabilities: 'dee' is not in the language table; did you mean 'de'\?$"):
        load.load(["data.probabilities={dee: 0.5}"])

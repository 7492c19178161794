"""`--help`: every verb, flag and group of options, at any width, in no time."""

import re

import pytest

from alma_pipeline.cli import main
from alma_pipeline.cli.arguments import parse
from alma_pipeline.cli.help import GROUPS
from alma_pipeline.cli.verbs import command_line
from alma_pipeline.config.groups import BUILDING_BLOCKS, option_groups
from alma_pipeline.paths import CONF

TOP, VERBS = command_line()


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as caught:
        parse(list(words))
    assert not caught.value.code
    return capsys.readouterr().out


def test_every_group_of_options_has_a_phrase_and_every_phrase_a_group() -> None:
    folders = {path.name for path in CONF.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert set(option_groups(CONF)) == set(GROUPS) == folders - set(BUILDING_BLOCKS)
    assert all(GROUPS.values())


def test_the_whole_help_lists_verbs_options_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "--help")
    for verb in VERBS:
        assert re.search(rf"^  {verb} +\w", text, re.MULTILINE), verb
    for group, options in option_groups(CONF).items():
        assert re.search(rf"^  {group} +{re.escape(GROUPS[group][:20])}", text, re.MULTILINE), group
        for option in options:
            assert re.search(rf"(^ +|\| ){option}\*?( \||$)", text, re.MULTILINE), (group, option)
    for default in ("tiny*", "cldr*", "cpu*", "all*", "comet*"):
        assert default in text


@pytest.mark.parametrize("verb", VERBS)
def test_a_verbs_help_lists_its_flags_and_whether_it_takes_settings(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, verb, "--help")
    assert text.startswith(f"usage: alma-pipeline {verb}")
    for flag in VERBS[verb]._option_string_actions:
        assert re.search(rf"^  (-\w+, )?{flag}[ ,\n]", text, re.MULTILINE), flag
    takes_settings = verb in ("run", "plan", "data", "report", "adopt", "translate")
    assert ("[GROUP=OPTION] [KEY=VALUE]" in text, "settings:" in text, "tiny*" in text) == (takes_settings,) * 3
    assert printed(capsys, "-h", verb) == text


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_help_fits_the_terminal(columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for words in (["--help"], *([verb, "--help"] for verb in VERBS)):
        for line in printed(capsys, *words).splitlines():
            assert len(line) <= columns or line.startswith("usage"), line


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert re.fullmatch(r"alma-pipeline \d+\.\d+\.\d+\n", printed(capsys, "plan", "--version"))


def test_a_flag_takes_the_same_number_of_words_with_each_verb() -> None:
    """A word can be told from a flag's value before the verb is known."""
    takes: dict[str, set[object]] = {}
    for parser in (TOP, *VERBS.values()):
        for name, action in parser._option_string_actions.items():
            takes.setdefault(name, set()).add(action.nargs)
    assert {name: found for name, found in takes.items() if len(found) > 1} == {}


def test_hydra_prints_the_configuration_with_settings_given_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["+scorers.mine={model: a/b}", "--cfg", "job", "plan", "-p", "scorers.mine", "--resolve"]
    monkeypatch.setattr("sys.argv", ["alma-pipeline"])
    assert main._main(words) == 0
    assert "model: a/b" in capsys.readouterr().out

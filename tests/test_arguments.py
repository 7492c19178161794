"""The command line taken apart: verbs, flags, what they take, and what is left for Hydra."""

import pytest

from alma_pipeline.cli.arguments import Command, parse
from alma_pipeline.errors import UserError


def flags(*words: str) -> dict[str, list[str]]:
    return parse(list(words)).flags


def test_nothing_is_a_run() -> None:
    assert parse([]) == Command("run", {}, [], [])


def test_a_verb_flags_and_settings_in_any_order() -> None:
    expected = Command("plan", {"--only": ["cpo"], "--json": []}, [], ["stage=cpo", "+x=1", "~y"])
    assert parse(["plan", "--only", "cpo", "stage=cpo", "--json", "+x=1", "~y"]) == expected
    assert parse(["stage=cpo", "--json", "+x=1", "--only=cpo", "~y", "plan"]) == expected


def test_flags_that_name_nodes_may_be_repeated() -> None:
    found = flags("--force", "mono", "--force=cpo", "--from", "parallel", "--only", "mono", "--only", "cpo")
    assert found == {"--force": ["mono", "cpo"], "--from": ["parallel"], "--only": ["mono", "cpo"]}


def test_flags_with_two_values_with_none_and_with_one_that_may_be_left_out() -> None:
    assert flags("plan", "--diff", "a1", "b2") == {"--diff": ["a1", "b2"]}
    assert flags("doctor", "--verify") == {"--verify": []}
    assert flags("--info") == {"--info": ["all"]}
    assert flags("--info", "defaults") == {"--info": ["defaults"]}
    assert flags("--info", "stage=cpo") == {"--info": ["all"]}


def test_hydra_gets_its_own_flags_under_their_long_names() -> None:
    command = parse(["-m", "seed=1,2,3", "stage=cpo"])
    assert command.hydra_words() == ["--multirun", "seed=1,2,3", "stage=cpo"]
    assert parse(["-c", "job", "-p", "stages.cpo", "--only", "x"]).hydra_words() == ["--cfg", "job", "--package", "stages.cpo"]


def test_names_are_for_verbs_that_show() -> None:
    assert parse(["show", "cpo", "3f00"]).names == ["cpo", "3f00"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plna"], r"'plna' is no verb.*did you mean 'plan'\?"),
        (["run", "mono"], "'mono' is no setting; expected GROUP=OPTION or KEY=VALUE"),
        (["--forse", "mono"], r"--forse: no such flag; did you mean '--force'\?"),
        (["--stage=cpo"], "a setting has no dashes: stage=cpo"),
        (["--seed.x"], "a setting has no dashes: seed.x=VALUE"),
        (["-x"], "-x: no such flag; known: -m"),
        (["--force"], "--force: expected NODE after it, found nothing"),
        (["--force", "--only", "x"], "--force: expected NODE after it, found --only"),
        (["--force="], "--force: expected NODE after it"),
        (["plan", "--diff", "a1"], "--diff: expected A B after it, found a1"),
        (["plan", "--json=yes"], "--json: expected no value after it, found yes"),
        (["--cfg", "jbo"], r"--cfg jbo: expected one of job, hydra, all; did you mean 'job'\?"),
        (["--json"], "--json goes with plan and translate, found the verb run"),
        (["show", "--force", "x"], "--force goes with run and plan and data, found the verb show"),
        (["doctor", "stage=cpo"], "doctor takes no settings, found stage=cpo"),
        (["--cfg", "job", "--info"], "--cfg and --info do not go together"),
        (["--resolve"], "--resolve goes with --cfg, as in `--cfg job --resolve`"),
        (["--config-name", "x"], "--config-name is not taken"),
    ],
)
def test_what_is_wrong_is_named(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse(words)


def test_a_brace_in_a_value_is_text() -> None:
    """Hydra takes it for the beginning of a mapping."""
    assert parse(["data.mono.path=web/{lang}/*.txt"]).overrides == ["data.mono.path='web/{lang}/*.txt'"]
    assert parse(["a={b: 1}", "c='{d}'", "e=${f}"]).overrides == ["a={b: 1}", "c='{d}'", "e=${f}"]

"""The command line parsed: verbs, flags, what they take, and what is left for Hydra."""

from typing import Any

import pytest

from alma_pipeline.cli.arguments import parse
from alma_pipeline.errors import UserError


def given(*words: str) -> dict[str, Any]:
    """What a command line sets; flags that were left out are not in it."""
    return {name: value for name, value in vars(parse(list(words))).items() if value not in (None, False, [])}


def test_nothing_is_a_run() -> None:
    assert given() == {"verb": "run"}


def test_a_verb_flags_and_settings_in_any_order() -> None:
    expected = {"verb": "plan", "only": ["cpo"], "json": True, "overrides": ["stage=cpo", "+x=1", "~y"]}
    assert given("plan", "--only", "cpo", "stage=cpo", "--json", "+x=1", "~y") == expected
    assert given("stage=cpo", "--json", "+x=1", "--only=cpo", "~y", "plan") == expected


def test_a_flags_value_is_no_verb() -> None:
    assert given("--only", "translate", "plan") == {"verb": "plan", "only": ["translate"]}
    found = given("--only", "data", "stage=cpo", "data", "--only", "x")
    assert found == {"verb": "data", "only": ["data", "x"], "overrides": ["stage=cpo"]}


def test_settings_hold_anything() -> None:
    texts = ["a=-1", "stages.cpo.beta=-1e-3", "b=x y", "c='it''s'", 'd="q"', "h=--i", "j=-k", "+l=", "~m", "n=[-1,2]"]
    assert given(*texts) == {"verb": "run", "overrides": texts}


def test_names_hold_an_equals_sign_only_where_settings_are_not_taken() -> None:
    assert given("compare", "stage=cpo seed=1", "cpo") == {"verb": "compare", "one": "stage=cpo seed=1", "other": "cpo"}
    assert given("stage=cpo", "compare", "x=1")["other"] == "x=1"
    adopted = {"verb": "adopt", "node": "mono", "source": "./here", "overrides": ["model=7b"], "adapter": True}
    assert given("adopt", "model=7b", "mono", "--adapter", "./here") == adopted


def test_flags_that_name_nodes_may_be_repeated() -> None:
    found = given("--force", "mono", "--force=cpo", "--from", "parallel", "--only", "mono", "--only", "cpo")
    assert found == {"verb": "run", "force": ["mono", "cpo"], "from_": ["parallel"], "only": ["mono", "cpo"]}


def test_flags_with_two_values_with_none_and_with_one_that_may_be_left_out() -> None:
    assert parse(["plan", "--diff", "a1", "b2"]).diff == ["a1", "b2"]
    assert parse(["doctor", "--verify"]).verify is True
    assert parse(["--info"]).info == "all"
    assert parse(["--info", "defaults"]).info == "defaults"
    assert given("-i", "stage=cpo") == {"verb": "run", "info": "all", "overrides": ["stage=cpo"]}


def test_flags_of_hydra_have_short_names() -> None:
    expected = {"verb": "run", "cfg": "job", "package": "stages.cpo", "resolve": True, "config_dir": ["a", "b"]}
    assert given("-c", "job", "-p", "stages.cpo", "--resolve", "-cd", "a", "--config-dir=b") == expected
    assert given("-m", "seed=1,2,3") == {"verb": "run", "multirun": True, "overrides": ["seed=1,2,3"]}


def test_names_and_files() -> None:
    assert parse(["show", "3f00"]).artifact == "3f00"
    assert parse(["translate", "a.txt", "direction=de-en", "-", "--json"]).files == ["a.txt", "-"]
    assert parse(["gc", "--keep", "cpo", "--delete", "--keep=mono"]).keep == ["cpo", "mono"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plna"], r"unknown command 'plna'; did you mean 'plan'\? Settings are written GROUP=OPTION or KEY=VALUE"),
        (["zzz"], r"unknown command 'zzz'; known: adopt, .*translate\. Settings are written"),
        (["help"], r"unknown command 'help'; did you mean '--help'\?"),
        (["run", "mono"], "unexpected word 'mono'; settings are written GROUP=OPTION or KEY=VALUE"),
        (["--forse", "mono"], r"unknown flag --forse; did you mean '--force'\?"),
        (["--stage=cpo"], "settings have no dashes: stage=cpo"),
        (["--seed.x"], "settings have no dashes: seed.x=VALUE"),
        (["-x"], "unknown flag -x; known: .*--version, -c, -cd, -h"),
        (["--forc", "mono"], r"unknown flag --forc; did you mean '--force'\?"),
        (["-s"], "unknown flag -s; "),
        (["-cjob"], "unknown flag -cjob; "),
        (["--"], "unknown flag --; "),
        (["--force"], "--force: expected NODE, found nothing"),
        (["--force", "--only", "x"], "--force: expected NODE, found nothing"),
        (["--force", "stage=mono"], "--force: expected NODE, found nothing"),
        (["--info", "plugin"], r"--info: expected one of all, config, .*, found 'plugin'; did you mean 'plugins'\?"),
        (["--force="], "--force: expected NODE, found nothing"),
        (["plan", "--diff", "a1"], r"--diff: expected NAME\|KEY NAME\|KEY, found a1"),
        (["plan", "--json=yes"], "--json: expected no value, found yes"),
        (["--cfg"], r"--cfg: expected job\|hydra\|all, found nothing"),
        (["--cfg", "jbo"], r"--cfg: expected one of job, hydra, all, found 'jbo'; did you mean 'job'?"),
        (["report", "--format", "pdf"], "--format: expected one of html, markdown, latex, found 'pdf'"),
        (["--json"], "run has no flag --json; it belongs to plan, translate"),
        (["show", "--force", "x"], "show has no flag --force; it belongs to run, plan, data"),
        (["doctor", "stage=cpo"], "doctor takes no settings, found stage=cpo"),
        (["show", "cpo", "stage=cpo"], "show takes no settings, found stage=cpo"),
        (["show"], r"arguments are required: NAME\|KEY; usage: alma-pipeline show"),
        (["show", "a", "b"], "unexpected word 'b'; usage: alma-pipeline show"),
        (["adopt", "mono", "model=7b"], r"arguments are required: FOLDER\|OWNER/NAME\[@REVISION\]; usage: alma-pipeline adopt"),
        (["compare", "a"], "arguments are required: B; usage: alma-pipeline compare A B"),
        (["--cfg", "job", "--info"], "--info: not allowed with argument -c/--cfg"),
        (["--resolve"], "--resolve needs --cfg, as in `--cfg job --resolve`"),
        (["--package", "x"], "--package needs --cfg, as in `--cfg job --package stages.cpo`"),
        (["--config-name", "x"], "--config-name is not supported"),
    ],
)
def test_what_is_wrong_is_named(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse(words)
    assert "\n" not in str(caught.value)


def test_a_path_of_the_home_folder_or_with_any_letter_is_text() -> None:
    """Hydra takes neither character without quotes."""
    for path in ("~/texts", "/tmp/Übung", "日本", "~/日 本=1", "a~b"):
        assert parse([f"data.root={path}"]).overrides == [f"data.root='{path}'"]
    for text in ("data.root='~/x'", "~seed", "+a=b"):
        assert parse([text]).overrides == [text]


def test_a_brace_in_a_value_is_text() -> None:
    """Hydra takes it for the beginning of a mapping."""
    assert parse(["data.mono.path=web/{lang}/*.txt"]).overrides == ["data.mono.path='web/{lang}/*.txt'"]
    assert parse(["data.mono.path=~/{lang}/ü.txt"]).overrides == ["data.mono.path='~/{lang}/ü.txt'"]
    assert parse(["a={b: 1}", "c='{d}'", "e=${f}"]).overrides == ["a={b: 1}", "c='{d}'", "e=${f}"]

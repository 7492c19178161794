"""`plan --why NODE`: the whole difference from the nearest earlier artifact, and what becomes of the inputs."""

import pytest

from alma_pipeline.cli import plan as verb
from alma_pipeline.cli import why
from alma_pipeline.cli.arguments import parse
from alma_pipeline.console import LiteralConsole
from alma_pipeline.errors import UserError
from alma_pipeline.plan.plan import Plan, Rerun, make_plan
from alma_pipeline.schema import Config
from alma_pipeline.store.store import Store
from helpers.fake_stages.recipes import changed
from helpers.plans import released


def said(capsys: pytest.CaptureFixture[str], plan: Plan, *names: str) -> list[str]:
    why.explain(LiteralConsole(), plan, names)
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_every_setting_and_every_input_with_its_own_reason(made: Store, cpo: Config, capsys: pytest.CaptureFixture[str]) -> None:
    config = changed(changed(cpo, "parallel", learning_rate=0.5), "cpo", beta=0.2, seed=7, max_grad_norm=0.5, nll_weight=2.0)
    plan = make_plan(config, made)
    lines = said(capsys, plan, "cpo")
    assert lines[0] == f"cpo: run: {plan['cpo'].reason}"
    earlier = make_plan(cpo, made)["cpo"].record
    assert earlier is not None and lines[1] == f"nearest earlier artifact: {earlier.path}"
    table = {line.split()[0]: line.split()[1:] for line in lines if line.startswith("stages.cpo.")}
    assert table == {
        "stages.cpo.beta": ["0.1", "0.2"],
        "stages.cpo.seed": ["42", "7"],
        "stages.cpo.max_grad_norm": ["1.0", "0.5"],
        "stages.cpo.nll_weight": ["1.0", "2.0"],
    }
    assert sum(line.startswith("input ") for line in lines) == 2
    assert lines[-4:] == [
        "inputs",
        f"  init (parallel): run: {plan['parallel'].reason}",
        "  preferences (preferences): run: inputs changed: init (parallel)",
        "",
    ]


def test_verdicts_that_need_no_comparison(made: Store, cpo: Config, capsys: pytest.CaptureFixture[str]) -> None:
    record = make_plan(cpo, made)["mono"].record
    assert record is not None
    lines = said(capsys, make_plan(cpo, made), "mono")
    assert lines[:3] == ["mono: reuse", "An artifact with exactly these settings and inputs exists.", str(record.path)]
    lines = said(capsys, make_plan(released(cpo, "parallel"), made), "parallel")
    assert lines[:2] == [
        "parallel: adopt: someone/parallel@0123456789ab",
        "A checkpoint trained elsewhere serves in place of training.",
    ]


def test_what_has_no_earlier_artifact_and_what_equals_it(
    store: Store, made: Store, cpo: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = Store(store.root / "empty")
    skipped = make_plan(cpo, empty, Rerun(only=("base",)))
    lines = said(capsys, skipped, "base", "mono_corpus")
    assert lines[:2] == ["base: run: new", "The store has no earlier artifact of this node."]
    assert "mono_corpus: skip: not needed: everything built from it exists or was not requested" in lines
    lines = said(capsys, make_plan(cpo, made, Rerun(force=("cpo",))), "cpo")
    assert lines[0] == "cpo: run: --force" and lines[2] == "no difference in settings, version or inputs"


def test_an_unknown_node(made: Store, cpo: Config) -> None:
    with pytest.raises(UserError, match="--why cop: no such node in this plan; did you mean 'cpo'"):
        why.explain(LiteralConsole(), make_plan(cpo, made), ["cpo", "cop"])


def test_the_flag(made: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ALMA_PIPELINE_STORE", str(made.root))
    words = ["plan", "stage=cpo", "data.languages=[de,sv,ru,uk]", "stages.cpo.beta=0.2", "--why", "cpo"]
    assert verb.main(parse(words)) == 0
    assert capsys.readouterr().out.startswith("cpo: run: stages.cpo.beta 0.1 → 0.2\n")
    with pytest.raises(UserError, match="--why and --json do not go together"):
        verb.main(parse([*words, "--json"]))

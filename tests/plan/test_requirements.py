"""What the work of a plan needs and does not have is an error of the plan; what exists needs nothing."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from alma_pipeline.errors import ConfigError
from alma_pipeline.plan import requirements
from alma_pipeline.plan.plan import Rerun, make_plan
from alma_pipeline.schema import Config
from alma_pipeline.store.store import Store
from helpers.artifacts import fill
from helpers.fake_stages.recipes import changed


def check(config: Config, store: Store, rerun: Rerun | None = None) -> None:
    requirements.check(make_plan(config, store, rerun), config.hardware)


def with_hardware(config: Config, **settings: Any) -> Config:
    return dataclasses.replace(config, hardware=dataclasses.replace(config.hardware, **settings))


def test_16_bits_need_zero_before_a_worker_says_so(store: Store, cpo: Config) -> None:
    half = changed(cpo, "cpo", precision="bf16")
    with pytest.raises(ConfigError, match=r"^stages\.cpo\.precision=bf16 keeps .* hardware\.zero_stage=0; set hardware\.zero_st"):
        check(half, store)
    check(with_hardware(half, zero_stage=1), store)
    fill(store, make_plan(half, store))
    check(half, store)  # made on other hardware


@pytest.mark.parametrize(
    ("node", "settings", "hardware", "message"),
    [
        (
            "cpo",
            {"adapter": "new", "quantization": "nf4"},
            {"zero_stage": 3},
            r"stages\.cpo\.quantization=nf4 cannot be used with hardware\.zero_stage=3",
        ),
        (
            "mono_corpus",
            {"block": 200},
            {"micro_batch_tokens": 150},
            r"tokens=150, but mono reads blocks of 200 tokens",
        ),
        ("base", {"source": "hub", "repo": "me/model"}, {}, r"model\.source=hub needs .* a commit; found me/model and null"),
        ("base", {"source": "wheel"}, {}, r"model\.source=wheel needs .* a package and its version; found null and null"),
    ],
)
def test_what_a_worker_would_refuse_is_refused(
    store: Store, cpo: Config, node: str, settings: dict[str, Any], hardware: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check(with_hardware(changed(cpo, node, **settings), **hardware), store)


def test_only_needs_its_inputs(store: Store, cpo: Config) -> None:
    with pytest.raises(ConfigError) as caught:
        check(cpo, store, Rerun(only=("mono", "cpo")))
    assert caught.value.problems == [
        "--only mono: needs base and mono_corpus, not made yet; add --only base --only mono_corpus, or leave --only out",
        "--only cpo: needs parallel and preferences, not made yet; add --only parallel --only preferences, or leave --only out",
    ]
    check(cpo, store, Rerun(only=("base", "mono_corpus", "mono")))


def test_only_of_a_node_whose_inputs_exist(made: Store, cpo: Config) -> None:
    check(changed(cpo, "cpo", beta=0.2), made, Rerun(only=("cpo",)))


def test_spbleu_needs_sentencepiece_and_its_model(
    store: Store, cpo: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = changed(cpo, "score", metrics=["chrf++", "spbleu"])
    monkeypatch.setenv("SACREBLEU", str(tmp_path))
    installed: list[str] = []
    monkeypatch.setattr(requirements, "find_spec", lambda name: name in installed or None)
    with pytest.raises(
        ConfigError, match=r"^evaluation\.metrics: spbleu needs the package sentencepiece, which is not installed"
    ):
        check(config, store)
    installed.append("sentencepiece")
    file = tmp_path / "models" / "flores200sacrebleuspm"
    with pytest.raises(ConfigError) as caught:
        check(config, store)
    assert caught.value.problems == [
        f"evaluation.metrics: spbleu needs {file}, which is missing; download it once: "
        "python -c 'from sacrebleu import BLEU; BLEU(tokenize=\"flores200\")', or remove spbleu"
    ]
    file.parent.mkdir()
    file.touch()
    check(config, store)

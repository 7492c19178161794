"""The researched options: the language table and the published recipes' numbers, as the plan meets them."""

import re
from collections import Counter
from pathlib import Path

import pytest
from babel import Locale
from sacrebleu.metrics.bleu import BLEU

from alma_pipeline import config
from alma_pipeline.plan import make_plan
from alma_pipeline.schema import Config
from alma_pipeline.store import Store

GROUPS = "da nl de is no sv af | ca ro gl it pt es | bg mk sr uk ru | id ms th vi mg fr | hu el cs pl lt lv | ka zh ja ko fi et"
GROUPS += " | gu hi mr ne ur | az kk ky tr uz ar he fa"


@pytest.fixture(scope="module")
def default() -> Config:
    return config.load([])


def test_the_groups_are_those_of_x_alma(default: Config) -> None:
    """GROUP2LANG of the published code; English is in none."""
    found = [[code for code, language in default.languages.items() if language.group == group] for group in range(1, 9)]
    assert found == [group.split() for group in GROUPS.split(" | ")]
    assert [code for code, language in default.languages.items() if language.group is None] == ["en"]


def test_every_locale_is_in_cldr_and_writes_the_script_of_its_code(default: Config) -> None:
    for code, language in default.languages.items():
        script = Locale.parse(language.locale).script
        assert script is None or language.nllb.endswith(script), code
    assert len({language.nllb for language in default.languages.values()}) == 50
    assert all(re.fullmatch(r"[a-z]{3}_[A-Z][a-z]{3}", language.nllb) for language in default.languages.values())


def test_every_bleu_tokenizer_is_one_of_sacrebleu_and_suits_its_language(default: Config) -> None:
    """B49: zh, ja-mecab and ko-mecab by the target language, 13a for the others."""
    assert {language.tokenizer for language in default.languages.values()} <= set(BLEU.TOKENIZERS)
    assert Counter(language.tokenizer for language in default.languages.values())["13a"] == 47
    assert [default.languages[code].tokenizer for code in ("zh", "ja", "ko")] == ["zh", "ja-mecab", "ko-mecab"]


def test_shares_of_almas_documents_are_the_scripts() -> None:
    shares = config.load(["data=alma"]).data.probabilities
    assert shares == {"en": 0.17, "ru": 0.22, "cs": 0.14, "zh": 0.19, "is": 0.08, "de": 0.2}
    assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("overrides", "node", "steps"),
    [
        (["model=7b", "stage=mono"], "mono", 152_588),  # 20B tokens in batches of 256 x 512
        (["model=13b", "stage=mono"], "mono", 91_553),  # 12B
        (["model=x_alma", "stage=mono"], "mono", 152_588),
        (["model=x_alma", "stage=group_adapter", "group=6"], "g6.group_adapter", 76_294),  # 10B
        (["model=x_alma", "stage=group_adapter", "group=6"], "g6.group_pseudo_mono", 9_537),  # 1.25B
        (["model=7b", "stage=parallel"], "parallel", 459),  # 117,400 examples in batches of 256
    ],
)
def test_steps_of_the_published_recipes(overrides: list[str], node: str, steps: int, tmp_path: Path) -> None:
    estimate = make_plan(config.load(overrides), Store(tmp_path))[node].estimate
    assert estimate is not None and estimate.steps == steps


@pytest.mark.parametrize(
    ("overrides", "node", "fits"),
    [
        (["model=7b", "stage=mono", "hardware=gpu8"], "mono", True),
        (["model=13b", "stage=mono", "hardware=gpu8"], "mono", True),
        (["model=13b", "stage=mono", "hardware=gpu8", "hardware.zero_stage=1"], "mono", False),
        (["model=13b", "stage=mono", "hardware=gpu8", "hardware.devices=1", "hardware.launcher=local"], "mono", False),
        (["model=7b", "stage=mono", "hardware=gpu1"], "mono", False),
        (["model=7b", "stage=parallel", "hardware=gpu1"], "parallel", True),
        (["model=x_alma", "stage=arpo", "group=6", "hardware=gpu8"], "g6.arpo", True),
        (["model=tiny", "stage=mono"], "mono", True),
    ],
)
def test_what_fits_where(overrides: list[str], node: str, fits: bool, tmp_path: Path) -> None:
    estimate = make_plan(config.load([*overrides, "target=train"]), Store(tmp_path))[node].estimate
    assert estimate is not None and estimate.fits == fits, estimate.memory_parts


def test_the_command_line_wins_over_what_a_model_picks() -> None:
    picked = config.load(["model=13b"])
    assert (picked.data.name, picked.hardware.name, picked.budget.name) == ("alma", "gpu8", "paper_13b")
    told = config.load(["experiment=alma_13b", "model=7b", "hardware=cpu2", "budget=demo", "budget.mono.steps=3"])
    assert (told.model.name, told.data.name, told.hardware.name, told.budget.name) == ("7b", "alma", "cpu2", "demo")
    assert told.budget.mono.steps == 3 and told.target == "adopt"

"""The researched options: the language table and the published recipes' numbers, as the plan meets them."""

import hashlib
import re
from collections import Counter
from pathlib import Path

import pytest
from babel import Locale
from sacrebleu.metrics.bleu import BLEU

from alma_pipeline.config import load
from alma_pipeline.errors import ConfigError
from alma_pipeline.plan import graph, requirements
from alma_pipeline.plan.plan import make_plan
from alma_pipeline.schema import Config
from alma_pipeline.store.identity import key_settings
from alma_pipeline.store.store import Store

GROUPS = "da nl de is no sv af | ca ro gl it pt es | bg mk sr uk ru | id ms th vi mg fr | hu el cs pl lt lv | ka zh ja ko fi et"
GROUPS += " | gu hi mr ne ur | az kk ky tr uz ar he fa"
DECODED = "stages.translate.quantization=nf4"


@pytest.fixture(scope="module")
def default() -> Config:
    return load.load([])


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
    shares = load.load(["data=alma"]).data.probabilities
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
    estimate = make_plan(load.load(overrides), Store(tmp_path))[node].estimate
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
    estimate = make_plan(load.load([*overrides, "target=train"]), Store(tmp_path))[node].estimate
    assert estimate is not None
    assert estimate.fits == fits, estimate.memory_parts


def test_the_command_line_wins_over_what_a_model_picks() -> None:
    picked = load.load(["model=13b"])
    assert (picked.data.name, picked.hardware.name, picked.budget.name) == ("alma", "gpu8", "paper_13b")
    told = load.load(["experiment=alma_13b", "model=7b", "hardware=cpu2", "budget=demo", "budget.mono.steps=3"])
    assert (told.model.name, told.data.name, told.hardware.name, told.budget.name) == ("7b", "alma", "cpu2", "demo")
    assert told.budget.mono.steps == 3 and told.target == "adopt"


@pytest.mark.parametrize("line", ["+languages.xx={nam: Klingon}", "+scorers.mine={modl: a/b}"])
def test_a_mistyped_line_of_a_table_is_told_with_what_it_lacks(line: str) -> None:
    key = line[1:].partition("=")[0]
    with pytest.raises(ConfigError, match=rf"(?s){key}\.(nam|modl): no such key.*{key}\.(name|model): missing"):
        load.load([line])


def test_scorers_are_named_by_nodes_and_enter_their_keys() -> None:
    picked = load.load(["stage=cpo", "model=13b", "evaluation=paper_comet"])
    nodes = {node.name: node.config for node in graph.build(picked)}
    assert list(nodes["cpo.score"].scorers) == ["comet-22", "kiwi-22"]  # type: ignore[attr-defined]
    assert nodes["cpo.score"].scorers["comet-22"].model == "Unbabel/wmt22-comet-da"  # type: ignore[attr-defined]
    unchanged = load.load(["stage=cpo", "model=13b", "evaluation.comet.batch=64", "evaluation.comet.python=/x"])
    plain = load.load(["stage=cpo", "model=13b"])
    assert [key_settings(node.config) for node in graph.build(unchanged)] == [
        key_settings(node.config) for node in graph.build(plain)
    ]
    assert unchanged.hardware.comet_batch == 64 and unchanged.hardware.comet_python == "/x"
    near = load.load(["stage=cpo", "evaluation.comet.python=venv/bin/python"]).hardware
    assert near.comet_python == str(Path.cwd() / "venv/bin/python"), "a worker stands elsewhere"


def test_a_scorer_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    for words, told in (
        (["evaluation.comet.models=[comet22]"], "no scorer 'comet22'; did you mean 'comet-22'"),
        (["evaluation.comet.models=[mine]", f"+scorers.mine={{model: {tmp_path}/no.ckpt}}"], "no.ckpt: no such file"),
    ):
        with pytest.raises(ConfigError, match=told):
            graph.build(load.load(words))


def test_a_checkpoint_of_one_s_own_is_known_by_its_content(tmp_path: Path) -> None:
    found = []
    for text in ("one", "two"):
        (tmp_path / "model.ckpt").write_text(text)
        words = ["evaluation.comet.models=[mine]", f"+scorers.mine={{model: {tmp_path}/model.ckpt}}"]
        node = next(node for node in graph.build(load.load(words)) if node.kind == "score")
        found.append(node.config.scorers["mine"].revision)  # type: ignore[attr-defined]
    assert found[0] == f"sha256:{hashlib.sha256(b'one').hexdigest()}" and found[0] != found[1]


def test_a_checkpoint_of_one_s_own_is_read_by_the_first_plan_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALMA_PIPELINE_STORE", str(tmp_path))
    (tmp_path / "model.ckpt").write_text("one")
    config = load.load(["evaluation.comet.models=[mine]", f"+scorers.mine={{model: {tmp_path}/model.ckpt}}"])
    graph.build(config)
    known = tmp_path / "digests.json"
    known.write_text(known.read_text().replace(hashlib.sha256(b"one").hexdigest(), "0" * 64))
    node = next(node for node in graph.build(config) if node.kind == "score")
    assert node.config.scorers["mine"].revision == f"sha256:{'0' * 64}"  # type: ignore[attr-defined]


def test_a_checkpoint_that_was_moved_is_the_same_scorer(tmp_path: Path) -> None:
    """B62: never paths."""
    keys = []
    for folder in ("here", "there"):
        path = tmp_path / folder / "model.ckpt"
        path.parent.mkdir()
        path.write_text("one")
        words = ["stage=base", "evaluation.comet.models=[mine]", f"+scorers.mine={{model: {path}}}"]
        step = make_plan(load.load(words), Store(tmp_path / "store"))["base.score"]
        assert step.node.files == {step.node.config.scorers["mine"].revision: str(path)}  # type: ignore[attr-defined]
        keys.append(step.key)
    assert keys[0] == keys[1]


def test_a_test_option_takes_the_place_of_the_data_option_s() -> None:
    picked = load.load(["model=13b", "test=wmt23"])
    assert (picked.data.name, picked.data.test.repo) == ("alma", "haoranxu/WMT23-Test")
    assert load.load(["model=13b"]).data.test.repo == "haoranxu/WMT22-Test"


def test_one_word_fits_the_13b_recipe_into_24_gb(tmp_path: Path) -> None:
    """From the adopted `mono` to the last score; candidates from one's own samples included."""
    asked = ["model=13b", "stage=cpo", "hardware=gpu1", "data.preferences.reader=candidates", "model.quantization=nf4"]
    plan = make_plan(load.load(asked), Store(tmp_path))
    assert plan["mono"].verdict == "adopt"
    estimates = {step.node.name: step.estimate for step in plan.work if step.estimate}
    assert {"parallel", "parallel.translate", "preferences", "cpo", "cpo.translate"} <= set(estimates)
    assert [name for name, estimate in estimates.items() if not estimate.fits] == []
    group = ["model=x_alma", "stage=arpo", "group=1", "hardware=gpu1", "model.quantization=nf4"]
    routed = make_plan(load.load(group), Store(tmp_path))["g1.arpo.translate"].estimate
    decoded = estimates["cpo.translate"]
    assert routed and decoded and 3.9e9 < routed.memory_parts["weights"] - decoded.memory_parts["weights"] < 4.1e9
    exact = make_plan(load.load([*asked, "stages.translate.quantization=none"]), Store(tmp_path))
    assert exact["cpo"].key == plan["cpo"].key and exact["cpo.translate"].key != plan["cpo.translate"].key


def test_the_plan_says_that_4_bits_fit_where_16_do_not(tmp_path: Path) -> None:
    """One 24 GB card and 13B: QLoRA, arXiv 2305.14314."""
    asked = ["model=13b", "stage=parallel", "hardware=gpu1"]
    estimate = make_plan(load.load(asked), Store(tmp_path))["parallel"].estimate
    assert estimate is not None and not estimate.fits and 7e9 < estimate.nf4_bytes < 24e9
    small = make_plan(load.load([*asked, "model.quantization=nf4"]), Store(tmp_path))["parallel"].estimate
    assert small is not None and small.fits and small.memory_bytes == estimate.nf4_bytes
    decoding = make_plan(load.load(asked), Store(tmp_path))["parallel.translate"].estimate
    assert decoding is not None and not decoding.fits and 8e9 < decoding.nf4_bytes < 24e9
    unchanged = make_plan(load.load([*asked, "model.quantization=none"]), Store(tmp_path))["parallel"].key
    assert make_plan(load.load(asked), Store(tmp_path))["parallel"].key == unchanged


def test_4_bits_need_their_package_in_training_and_in_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One message for all nodes that want it, before anything runs."""
    for asked in (["stage=cpo", "model=13b", "hardware=gpu1", "model.quantization=nf4"], ["stage=base", DECODED]):
        config = load.load(asked)
        plan = make_plan(config, Store(tmp_path))
        with monkeypatch.context() as without:
            without.setattr(requirements, "find_spec", lambda name: None)
            with pytest.raises(ConfigError) as caught:
                requirements.check(plan, config.hardware)
        assert caught.value.problems == [
            "quantization=nf4 needs the package bitsandbytes, which is not installed: pip install 'alma_pipeline[4bit]'; or set "
            "model.quantization=none"
        ]
        requirements.check(plan, config.hardware)


def test_vllm_takes_no_4_bits() -> None:
    with pytest.raises(ConfigError, match=r"stages\.translate: quantization=nf4 needs engine=native, found vllm"):
        load.load(["stage=base", DECODED, "stages.translate.engine=vllm"])

"""sacrebleu's metrics against the `sacrebleu` command on the same files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from sacrebleu.metrics import CHRF, TER

from alma_pipeline.errors import UserError
from alma_pipeline.ml.scoring import sacrebleu_metrics
from alma_pipeline.schema.metrics import UNSPACED

SENTENCES = {
    "13a": ("The committee meets on Tuesday, 5 May.", "The committee met on Tuesday 5 May!"),
    "zh": ("委员会将于5月5日星期二开会。", "委员会在5月5日周二开会。"),
    "ja-mecab": ("委員会は5月5日火曜日に開かれます。", "委員会は5月5日の火曜に開催されます。"),
    "ko-mecab": ("위원회는 5월 5일 화요일에 열립니다.", "위원회는 5월 5일 화요일에 개최됩니다."),
}


def texts(tokenizer: str) -> tuple[list[str], list[str]]:
    """References and hypotheses: different, equal, half, and empty ones."""
    reference, hypothesis = SENTENCES[tokenizer]
    return [reference] * 4, [hypothesis, reference, hypothesis[: len(hypothesis) // 2], ""]


def command(folder: Path, tokenizer: str, references: list[str], hypotheses: list[str]) -> dict[str, tuple[float, str]]:
    """Score and signature by metric, as the command prints them with ten digits."""
    for name, lines in (("references", references), ("hypotheses", hypotheses)):
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    words = ["-m", "bleu", "chrf", "ter", "--chrf-word-order", "2", "--tokenize", tokenizer, "-w", "10"]
    words += ["--ter-normalized", "--ter-asian-support"] if tokenizer in UNSPACED else []
    line = [sys.executable, "-m", "sacrebleu", str(folder / "references"), "-i", str(folder / "hypotheses"), *words]
    found = json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout)
    names = {"BLEU": "bleu", "chrF2++": "chrf++", "TER": "ter"}
    return {names[item["name"]]: (item["score"], item["signature"]) for item in found}


@pytest.mark.parametrize("name", ["bleu", "chrf++", "ter"])
def test_counted_in_portions_it_is_the_same(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    references, hypotheses = texts("13a")
    whole = sacrebleu_metrics.measure(name, "13a", hypotheses, references)
    monkeypatch.setattr(sacrebleu_metrics, "SEGMENT_BATCH", 3)  # of four: one whole portion and a rest
    assert sacrebleu_metrics.measure(name, "13a", hypotheses, references) == whole


@pytest.mark.parametrize("tokenizer", SENTENCES)
def test_equals_the_command_to_the_last_digit(tmp_path: Path, tokenizer: str) -> None:
    """B49: tokenizers by target language, Chinese, Japanese and Korean too."""
    references, hypotheses = texts(tokenizer)
    for name, (score, signature) in command(tmp_path, tokenizer, references, hypotheses).items():
        found = sacrebleu_metrics.measure(name, tokenizer, hypotheses, references)
        assert round(found.score, 10) == score and score > 0
        assert found.signature == signature


def test_segments_are_sacrebleu_s_sentence_scores() -> None:
    references, hypotheses = texts("13a")
    for name, metric in (("chrf++", CHRF(word_order=2)), ("ter", TER())):
        found = sacrebleu_metrics.measure(name, "13a", hypotheses, references).segments
        pairs = zip(hypotheses, references, strict=True)
        assert found == [metric.sentence_score(hypothesis, [reference]).score for hypothesis, reference in pairs]
        assert found is not None and len(set(found)) > 2
    assert sacrebleu_metrics.measure("bleu", "13a", hypotheses, references).segments is None


def test_ter_takes_unspaced_sentences_apart_and_says_so() -> None:
    references, hypotheses = texts("zh")
    apart = sacrebleu_metrics.measure("ter", "zh", hypotheses, references)
    whole = sacrebleu_metrics.measure("ter", "13a", hypotheses, references)
    assert "asian:yes" in apart.signature and "asian:no" in whole.signature
    assert apart.score < whole.score


def test_an_unknown_metric_and_no_text_are_errors() -> None:
    with pytest.raises(ValueError, match="expected one of"):
        sacrebleu_metrics.metric("meteor", "13a")
    with pytest.raises(ValueError, match="no translations"):
        sacrebleu_metrics.measure("bleu", "13a", [], [])


def test_spbleu_without_its_pieces_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that cannot be imported stands for a package that is not installed."""
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(
        UserError, match=r"spbleu needs the package sentencepiece .*\. Install .* or remove spbleu from evaluation"
    ):
        sacrebleu_metrics.metric("spbleu", "13a")

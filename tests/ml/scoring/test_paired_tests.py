"""Paired tests against the `sacrebleu` command, and against cases whose answer is known."""

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from alma_pipeline.ml.scoring.paired_tests import compare_corpora, compare_segments

WORDS = ["the", "of", "a", "in", "to", "and", "is", "was", "for", "on", "that", "by", "with", "as", "it", "from", "at", "his"]


JAPANESE = ["私", "たち", "は", "明日", "の", "朝", "東京", "へ", "行き", "ます", "雨", "が", "降る", "本", "を", "読む"]


def systems(count: int = 60, words: list[str] = WORDS, space: str = " ") -> tuple[list[str], list[str], list[str]]:
    """References, a baseline that changes a fifth of the words, and a system that changes a little less."""
    random.seed(3)
    references = [random.choices(words, k=random.randint(5, 14)) for _ in range(count)]

    def noisy(rate: float) -> list[str]:
        return [space.join(random.choice(words) if random.random() < rate else word for word in line) for line in references]

    return [space.join(line) for line in references], noisy(0.2), noisy(0.17)


@pytest.mark.parametrize("tokenizer", ["13a", "ja-mecab"])
@pytest.mark.parametrize(("test", "flag"), [("bs", "--paired-bs"), ("ar", "--paired-ar")])
def test_p_values_equal_the_command_s(tmp_path: Path, test: str, flag: str, tokenizer: str) -> None:
    """Of Japanese TER takes the characters apart."""
    japanese = tokenizer == "ja-mecab"
    references, baseline, system = systems(words=JAPANESE, space="") if japanese else systems()
    for name, lines in (("references", references), ("baseline", baseline), ("system", system)):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    words = ["-m", "bleu", "chrf", "ter", "--chrf-word-order", "2", "--tokenize", tokenizer]
    words += ["--ter-normalized", "--ter-asian-support"] if japanese else []
    words += [flag, f"{flag}-n", "200", "-w", "8", "-f", "text"]
    done = subprocess.run(
        [sys.executable, "-m", "sacrebleu", "references", "-i", "baseline", "system", *words],
        cwd=tmp_path,
        env=os.environ | {"SACREBLEU_SEED": "7", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    scores = re.search(r"│ +system │ +([\d.]+) .*?│ +([\d.]+) .*?│ +([\d.]+) ", done.stdout)
    p_values = re.findall(r"\(p = ([\d.]+)\)", done.stdout)
    assert scores and len(p_values) == 3 and "0" < p_values[0] < "0.9"
    ours = compare_corpora(test, ["bleu", "chrf++", "ter"], tokenizer, references, baseline, system, samples=200, seed=7)
    for found, score, p_value in zip(ours.values(), scores.groups(), p_values, strict=True):
        assert f"{found.score:.8f}" == score and f"{found.p_value:.4f}" == p_value, "200 samples: four digits tell all"
        assert found.signature in done.stdout and f"{test}:200|seed:7" in found.signature
    assert "SACREBLEU_SEED" not in os.environ


def test_equal_systems_tie_and_a_far_better_one_does_not() -> None:
    references, baseline, _ = systems()
    same = compare_corpora("ar", ["chrf++"], "13a", references, baseline, baseline, samples=100)["chrf++"]
    better = compare_corpora("ar", ["chrf++"], "13a", references, baseline, references, samples=100)["chrf++"]
    assert same.p_value == 1 / 101, "sacrebleu counts the shuffles that differ by more, and there are none"
    assert same.tie
    assert not better.tie


def test_segments_are_tested_as_comet_compare_does() -> None:
    random.seed(1)
    baseline = [random.uniform(60, 90) for _ in range(200)]
    system = [value + random.gauss(0.5, 1) for value in baseline]
    found = compare_segments(baseline, system)
    assert found.p_value == pytest.approx(stats.ttest_rel(system, baseline).pvalue) and not found.tie
    assert found.score - found.baseline == pytest.approx(np.mean(system) - np.mean(baseline))
    assert found.wins > 0.95 and found.wins + found.losses + found.ties == pytest.approx(1)
    assert compare_segments(baseline, system) == found and compare_segments(system, baseline).losses > 0.95


def test_segments_that_are_equal_tie() -> None:
    found = compare_segments([80.0, 90.0], [80.0, 90.0])
    assert (found.p_value, found.ties, found.tie) == (1.0, 1.0, True)


def test_unequal_numbers_are_an_error() -> None:
    with pytest.raises(ValueError, match="2 references, 2 and 1 hypotheses"):
        compare_corpora("bs", ["bleu"], "13a", ["a", "b"], ["a", "b"], ["a"])
    with pytest.raises(ValueError, match="expected bs or ar"):
        compare_corpora("bootstrap", ["bleu"], "13a", ["a"], ["a"], ["a"])
    with pytest.raises(ValueError, match="equally many"):
        compare_segments([1.0], [1.0, 2.0])

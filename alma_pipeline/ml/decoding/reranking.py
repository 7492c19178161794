"""Which of several sampled translations is taken: minimum Bayes risk, or a score of quality.

Texts in, places out. A scorer is a plain function of two lists of equal length: hypotheses and what each is held
against, a reference for minimum Bayes risk, the source for quality estimation. Higher is better.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from sacrebleu.metrics import CHRF

Scorer = Callable[[Sequence[str], Sequence[str]], list[float]]
"""hypotheses, references (or sources) -> one score each."""


def chrf(hypotheses: Sequence[str], references: Sequence[str]) -> list[float]:
    """Sentence chrF (character 6-grams, beta 2; Popović 2015), 0 to 100."""
    metric = CHRF()
    return [
        metric.sentence_score(hypothesis, [reference]).score for hypothesis, reference in zip(hypotheses, references, strict=True)
    ]


def minimum_bayes_risk(candidates: Sequence[Sequence[str]], score: Scorer) -> list[int]:
    """Of each source's candidates, the place of the one that is on average most like all of them.

    Kumar and Byrne 2004; with samples as hypotheses and as pseudo-references alike, Eikema and Aziz 2020
    (arXiv 2005.10283). A text that was sampled twice counts twice as a reference; of equals the first is taken. The
    scorer is called once, with every ordered pair of different texts of a source.
    """
    counted = [Counter(texts) for texts in candidates]
    pairs = [(hypothesis, reference) for texts in counted for hypothesis in texts for reference in texts]
    scores = iter(score([pair[0] for pair in pairs], [pair[1] for pair in pairs]))
    chosen = []
    for texts, found in zip(counted, candidates, strict=True):
        gains = {hypothesis: sum(next(scores) * count for count in texts.values()) for hypothesis in texts}
        chosen.append(_best([gains[text] for text in found]))
    return chosen


def pair_sources(candidates: Sequence[Sequence[str]], sources: Sequence[str]) -> list[str]:
    """The source of each pair that `minimum_bayes_risk` hands to its scorer, for one that wants to see it too."""
    return [source for texts, source in zip(candidates, sources, strict=True) for _ in range(len(set(texts)) ** 2)]


def best_quality(candidates: Sequence[Sequence[str]], sources: Sequence[str], score: Scorer) -> list[int]:
    """Of each source's candidates, the place of the one with the highest score against the source; of equals the first.

    Quality-aware decoding by reranking (Fernandes et al. 2022, arXiv 2205.00978). Each different text is scored once.
    """
    counted = [dict.fromkeys(texts) for texts in candidates]
    pairs = [(text, source) for texts, source in zip(counted, sources, strict=True) for text in texts]
    scores = iter(score([pair[0] for pair in pairs], [pair[1] for pair in pairs]))
    chosen = []
    for texts, found in zip(counted, candidates, strict=True):
        quality = {text: next(scores) for text in texts}
        chosen.append(_best([quality[text] for text in found]))
    return chosen


def _best(scores: Sequence[float]) -> int:
    if not scores:
        raise ValueError("found a source without candidates; expected at least one of each")
    return max(range(len(scores)), key=lambda place: scores[place])

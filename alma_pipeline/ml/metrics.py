"""Scores of translations by sacrebleu, and the rates that unmask a good score: exact, empty and copied hypotheses.

Strings in, numbers out. Scores and rates run from 0 to 100. Neural metrics are not here: they have a process of
their own.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from sacrebleu.metrics import BLEU, CHRF

from alma_pipeline.ml.prompts import one_line

WORD_ORDER = 2
"""Of chrF++ (Popović 2017)."""


@dataclass(frozen=True)
class Translation:
    """One sentence, its reference and what a model made of it."""

    direction: str
    source: str
    reference: str
    hypothesis: str


@dataclass(frozen=True)
class Scores:
    """Of one direction's translations."""

    chrf: float
    bleu: float
    exact: float
    """% of hypotheses equal to the reference."""
    empty: float
    """% of empty hypotheses."""
    copy: float | None
    """% of hypotheses equal to the source, of the sentences whose reference is not; None: there are none (B46)."""
    length_ratio: float | None
    """Characters of all hypotheses over those of all references; None: the references are empty."""
    sentences: int
    newlines: int
    """Hypotheses in which line breaks became spaces, so that no tool takes one for two (B45)."""
    chrf_signature: str
    bleu_signature: str

    def plain(self) -> dict[str, float | int | None]:
        """The numbers, under the names they are reported by."""
        values = asdict(self)
        names = ("bleu", "exact", "empty", "copy", "length_ratio", "sentences")
        return {"chrf++": values["chrf"]} | {name: values[name] for name in names}


def score(translations: Sequence[Translation], tokenizer: str) -> Scores:
    """Scores of one direction. `tokenizer`: sacrebleu's tokenizer for the target language, used by BLEU (B49).

    Raises ValueError where there is nothing to score.
    """
    if not translations:
        raise ValueError("found no translations to score; expected at least one")
    lines = [one_line(item.hypothesis) for item in translations]
    hypotheses = [line for line, _ in lines]
    references = [item.reference for item in translations]
    chrf, bleu = CHRF(word_order=WORD_ORDER), BLEU(tokenize=tokenizer)
    copyable = [
        hypothesis == item.source
        for hypothesis, item in zip(hypotheses, translations, strict=True)
        if item.source != item.reference
    ]
    characters = sum(map(len, references))
    return Scores(
        chrf=chrf.corpus_score(hypotheses, [references]).score,
        bleu=bleu.corpus_score(hypotheses, [references]).score,
        exact=_percent(hypothesis == reference for hypothesis, reference in zip(hypotheses, references, strict=True)),
        empty=_percent(not hypothesis for hypothesis in hypotheses),
        copy=_percent(copyable) if copyable else None,
        length_ratio=sum(map(len, hypotheses)) / characters if characters else None,
        sentences=len(hypotheses),
        newlines=sum(broken for _, broken in lines),
        chrf_signature=str(chrf.get_signature()),
        bleu_signature=str(bleu.get_signature()),
    )


def averages(scores: Mapping[str, Scores]) -> dict[str, dict[str, float | int | None]]:
    """Means over the directions out of English, into it, and all; `sentences` is a sum.

    BLEU of different signatures is not one scale: such a mean is None (B49). A part without directions is left out.
    """
    parts = {
        "en-xx": [value for direction, value in scores.items() if direction.startswith("en-")],
        "xx-en": [value for direction, value in scores.items() if direction.endswith("-en")],
        "all": list(scores.values()),
    }
    return {name: _average(values) for name, values in parts.items() if values}


def sentence_chrf(hypothesis: str, reference: str) -> float:
    """chrF of one sentence (character 6-grams, beta 2), 100 where the two are equal but for white space."""
    return float(CHRF().sentence_score(hypothesis, [reference]).score)


def _average(scores: Sequence[Scores]) -> dict[str, float | int | None]:
    result: dict[str, float | int | None] = {}
    for name in scores[0].plain():
        values = [value for item in scores if (value := item.plain()[name]) is not None]
        result[name] = sum(values) / len(values) if values else None
    result["sentences"] = sum(item.sentences for item in scores)
    if len({item.bleu_signature for item in scores}) > 1:
        result["bleu"] = None
    return result


def _percent(hits: Iterable[bool]) -> float:
    found = list(hits)
    return 100 * sum(found) / len(found)

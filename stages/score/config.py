"""Settings of `score`, which scores hypotheses by direction; and the format of its results.

The result, also written to `scores.json`:

    directions   direction to its numbers: every metric's corpus score under its name (neural ones times 100), then the guards
                 exact, empty, copy, repetition, truncated, off_target (% of the hypotheses for which it is known; null: for
                 none), length_ratio, sentences
    averages     en-xx, xx-en and all: the same numbers as means over directions; null if signatures differ or a direction
                 lacks the metric
    signatures   metric to direction to signature; its keys are the metrics, and all other keys in `directions` are guards
    lower_is_better   the metrics for which lower is better
    languages    direction to the number of hypotheses identified as each language; `?`: not identified
    unscored     metric to direction to the reason why it is not scored there; such a direction lacks the metric
    cut          neural metric to direction to the number of segments that were truncated to the model's input length
    newlines     number of hypotheses in which line breaks were replaced by spaces

`segments.jsonl` has one line per hypothesis, in the order of the translate node: id, direction, source, reference,
hypothesis (line breaks as spaces), scores (metric to number; BLEU has none for a sentence) and flags (the guards as true, false
or null; and the identified language).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from alma_pipeline.errors import suggestion
from alma_pipeline.schema import WithLanguages, WithScorers
from alma_pipeline.schema.metrics import MAIN, METRICS, bleu_tokenizer, not_scored


@dataclass(frozen=True, kw_only=True)
class Config(WithLanguages, WithScorers):
    """Which metrics are computed. `languages` also names the BLEU tokenizer of each target language."""

    version: ClassVar[int] = 2
    """2: TER, more guards, and segments.jsonl."""
    kind: str = "score"
    metrics: list[str] = field(default_factory=lambda: ["chrf++", "bleu", "ter"])
    """sacrebleu's, by their names in `schema.metrics`; spbleu needs sentencepiece and a download."""
    comet: list[str] = field(default_factory=list, metadata={"as_before": []})
    """Neural metrics: names in the scorer table."""

    def scorer_names(self) -> list[str]:
        return self.comet

    def rules(self) -> dict[str, int]:
        """unspaced_scripts, 2: BLEU is never 13a in scripts without spaces, and TER is left out where it counts no words."""
        bleu = [language for language in self.languages.values() if bleu_tokenizer(language) != language.tokenizer]
        ter = [language for language in self.languages.values() if not_scored("ter", language)]
        changed = (bleu and "bleu" in self.metrics) or (ter and "ter" in self.metrics)
        return {"unspaced_scripts": 2} if changed else {}

    def conflicts(self) -> Iterator[str]:
        for name in self.metrics:
            if name not in METRICS:
                yield f"metrics: no metric '{name}'; {suggestion(name, list(METRICS))}"
        if MAIN not in self.metrics:
            yield f"metrics lacks {MAIN}, which tables and averages need; add it"
        for key, names in (("metrics", self.metrics), ("comet", self.comet)):
            if len(set(names)) < len(names):
                yield f"{key}: {', '.join(names)} contains a name twice"

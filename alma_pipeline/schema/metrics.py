"""sacrebleu's metrics, one entry each: settings, scoring, reports, model cards and paper tables all read this table.

It names sacrebleu's classes and options but does not import sacrebleu, so that the parent process can read it. To add a metric,
add an entry.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from alma_pipeline.schema.data import Language

MAIN = "chrf++"
"""The metric that tables and averages compare by; always scored."""
UNSPACED = frozenset({"zh", "ja-mecab"})
"""BLEU tokenizers of languages without spaces, whose sentences TER would take for one word; it splits them into characters."""
DEFAULT_TOKENIZER = "13a"
"""Splits at spaces and punctuation."""
UNSPACED_SCRIPTS = {
    **{"Hans": "zh", "Hant": "zh", "Jpan": "ja-mecab"},
    **dict.fromkeys(("Thai", "Laoo", "Khmr", "Mymr", "Lana", "Talu", "Tale", "Tibt", "Bali", "Java"), "char"),
}
"""Scripts without spaces between words (UAX #14: class SA, and Tibetan, Balinese and Javanese script) to their BLEU tokenizer.
`char`, every character a word, where sacrebleu has none of the language's own. Javanese in Latin script has spaces."""
FLAGS = {"BLEU": "--", "CHRF": "--chrf-", "TER": "--ter-"}
"""Prefix of a class's options on the `sacrebleu` command line."""

Options = dict[str, str | int | bool]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One of sacrebleu's metrics with fixed options."""

    name: str
    """In settings, keys, results and records."""
    label: str
    """As papers write it."""
    type: Literal["BLEU", "CHRF", "TER"]
    """The class in `sacrebleu.metrics`."""
    options: Callable[[str], Options]
    """The class's keyword arguments, given the BLEU tokenizer of the target language."""
    lower_is_better: bool = False
    segments: bool = True
    """Whether the score of one sentence is meaningful: BLEU's is zero if no four consecutive words match."""
    needs: str = ""
    """What sacrebleu needs in order to compute it; {models} is the folder of sacrebleu's downloaded models."""

    def command(self, tokenizer: str) -> str:
        """The options of the `sacrebleu` command that computes it, without files: `-m ter --ter-normalized`."""
        words = [f"-m {self.type.lower()}"]
        for option, value in self.options(tokenizer).items():
            flag = f"{FLAGS[self.type]}{option.replace('_', '-')}"
            words += [flag] if value is True else [] if value is False else [f"{flag} {value}"]
        return " ".join(words)


def _ter(tokenizer: str) -> Options:
    unspaced = tokenizer in UNSPACED
    return {"normalized": unspaced, "asian_support": unspaced}


def script_of(language: Language) -> str:
    """The script in the language's NLLB code: `Thai` of `tha_Thai`."""
    return language.nllb.rpartition("_")[2]


def bleu_tokenizer(language: Language) -> str:
    """sacrebleu's tokenizer for BLEU: the language's own, but never 13a in a script without spaces, where it finds no words."""
    if language.tokenizer != DEFAULT_TOKENIZER:
        return language.tokenizer
    return UNSPACED_SCRIPTS.get(script_of(language), DEFAULT_TOKENIZER)


def not_scored(metric: str, language: Language) -> str:
    """Why a metric has no meaning for translations into a language; empty if it has one."""
    if metric == "ter" and script_of(language) in UNSPACED_SCRIPTS and bleu_tokenizer(language) not in UNSPACED:
        return f"{language.name} is written without spaces, and TER has no words to count there"
    return ""


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(name=MAIN, label="chrF++", type="CHRF", options=lambda _: {"word_order": 2}),  # Popović 2017
        Metric(name="bleu", label="BLEU", type="BLEU", options=lambda tokenizer: {"tokenize": tokenizer}, segments=False),
        Metric(name="ter", label="TER", type="TER", options=_ter, lower_is_better=True),
        Metric(  # over the pieces of FLORES-200's SentencePiece model (NLLB, arXiv 2207.04672)
            name="spbleu",
            label="spBLEU",
            type="BLEU",
            options=lambda _: {"tokenize": "flores200"},
            segments=False,
            needs="the package sentencepiece and FLORES-200's SentencePiece model, which sacrebleu downloads at first use "
            "from https://tinyurl.com/flores200sacrebleuspm to {models}/flores200sacrebleuspm",
        ),
    )
}
"""Name to metric, in the order of messages."""


def metric_label(name: str) -> str:
    """The metric's name as papers write it; neural metrics keep their names."""
    return METRICS[name].label if name in METRICS else name


def tokenizer(signature: str) -> str:
    """The BLEU tokenizer that reproduces a signature through `Metric.options`; for TER, one that it treats the same way."""
    parts = signature_parts(signature)
    return "zh" if parts.get("asian") == "yes" else parts.get("tok", DEFAULT_TOKENIZER)


def signature_parts(signature: str) -> dict[str, str]:
    """`nrefs:1|tok:13a` as a mapping; parts without a colon are left out."""
    return dict(part.split(":", 1) for part in signature.split("|") if ":" in part)

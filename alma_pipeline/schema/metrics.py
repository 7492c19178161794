"""sacrebleu's metrics, an entry each: settings, scores, reports, model cards and papers take what they know of one from here.

Names sacrebleu's classes and options and imports nothing of it, so that the parent process can read the table.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

MAIN = "chrf++"
"""By which tables and averages compare; always scored."""
UNSPACED = frozenset({"zh", "ja-mecab"})
"""BLEU tokenizers of languages that TER would take a whole sentence of as one word; it splits their characters."""
FLAGS = {"BLEU": "--", "CHRF": "--chrf-", "TER": "--ter-"}
"""How an option of a class begins on the `sacrebleu` command line."""

Options = dict[str, str | int | bool]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One of sacrebleu's metrics with fixed options; its signature is what sacrebleu prints for these options."""

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
    """Whether the score of one sentence is meaningful: BLEU's is zero where no four words in a row match."""
    needs: str = ""
    """What sacrebleu cannot compute it without; {models} is the folder where it keeps downloaded models."""

    def command(self, tokenizer: str) -> str:
        """The words of the `sacrebleu` command that compute it, without the files: `-m ter --ter-normalized`."""
        words = [f"-m {self.type.lower()}"]
        for option, value in self.options(tokenizer).items():
            flag = f"{FLAGS[self.type]}{option.replace('_', '-')}"
            words += [flag] if value is True else [] if value is False else [f"{flag} {value}"]
        return " ".join(words)


def _ter(tokenizer: str) -> Options:
    unspaced = tokenizer in UNSPACED
    return {"normalized": unspaced, "asian_support": unspaced}


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
"""By name, in the order in which messages list them."""


def metric_label(name: str) -> str:
    """A metric as papers write it; a neural metric by its own name."""
    return METRICS[name].label if name in METRICS else name


def tokenizer(signature: str) -> str:
    """The BLEU tokenizer a signature was computed with, as `Metric.options` takes it; of TER, one that it treats alike."""
    parts = signature_parts(signature)
    return "zh" if parts.get("asian") == "yes" else parts.get("tok", "13a")


def signature_parts(signature: str) -> dict[str, str]:
    """`nrefs:1|tok:13a` as a mapping; what has no colon is left out."""
    return dict(part.split(":", 1) for part in signature.split("|") if ":" in part)

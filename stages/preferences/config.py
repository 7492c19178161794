"""Settings of `preferences`: (source, chosen, rejected) triples, built from checkpoints or read from a release.

Inputs: candidates are sampled from `init` and from every checkpoint whose role starts with `also_`, as in `also_base: base`; the
rest of the role's name is recorded as their origin. `outputs` adds other systems' translations, whose rows have `source` and
`hypothesis`; there the system's name is the origin.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from omegaconf import II

from alma_pipeline.schema import Decoding, Source, TextInput, WithScorers, WithSystems
from alma_pipeline.schema.fields import LARGEST, number


@dataclass(frozen=True, kw_only=True)
class Config(WithSystems, WithScorers, Decoding):
    """How candidates are sampled, how they are scored, and which two of them make a triple."""

    kind: str = "preferences"
    pairs: Source = field(default_factory=lambda: Source(reader="candidates"))
    sources: int = number(100, at_least=1)
    """Training sources per direction."""
    held_out: int = number(25, at_least=1)
    """Held-out sources per direction, none of them a training source."""
    candidates: int = number(4, at_least=1, at_most=10_000)
    """Samples per source; the reference is added to them."""
    temperature: float = number(1.0, at_least=1e-6)
    top_p: float = number(0.95, above=0, at_most=1)
    score_by: list[str] = field(default_factory=lambda: ["chrf"])
    """Scorers whose mean orders the candidates: chrf (sacrebleu's sentence chrF against the reference), and names in the scorer
    table. ALMA-R used [kiwi-xxl, xcomet-xxl-free] (arXiv 2401.08417, sec. 3.1)."""
    rule: str = field(
        default="best_worst", metadata={"as_before": "best_worst", "choices": ("best_worst", "margin", "reference")}
    )
    """Which two are chosen and rejected. best_worst: those with the highest and lowest score; margin: the best, and the best of
    those at least `min_margin` worse; reference, as in X-ALMA: the reference, and the worst of the others."""
    min_margin: float = number(5.0, at_least=0)
    """Smallest difference between the scores of chosen and rejected, in points (our choice)."""
    released_scorer: str = field(
        default="kiwi_xcomet", metadata={"as_before": "kiwi_xcomet", "choices": ("kiwi_xcomet", "xcomet", "kiwi")}
    )
    """Which score in ALMA-R-Preference ranks its three translations (runs/cpo_ft.sh: kiwi_xcomet)."""
    seed: int = number(II("seed"), at_least=0, at_most=LARGEST)

    @property
    def distributed(self) -> bool:
        """One process reads released triples."""
        return super().distributed and self.pairs.reader == "candidates"

    def roles(self) -> dict[str, str]:
        """Released triples are read without any checkpoint of ours."""
        return self.inputs if self.pairs.reader == "candidates" else {}

    def text_inputs(self) -> dict[str, TextInput]:
        return {"pairs": TextInput(self.pairs, self.chosen_directions(), reversible=False)}

    def scorer_names(self) -> list[str]:
        """Names in the scorer table; chrF needs no model."""
        return [name for name in self.score_by if name != "chrf"]

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if not self.score_by or len(set(self.score_by)) < len(self.score_by):
            yield f"score_by={', '.join(self.score_by) or 'nothing'}: expected one scorer or several different ones"
        taken = {"sample", "reference", *(role.removeprefix("also_") for role in self.inputs if role.startswith("also_"))}
        for name in self.outputs:
            if name in taken or not name.isprintable() or not name.strip():
                yield f"outputs: '{name}' cannot name a system; expected a printable name other than {', '.join(sorted(taken))}"
        if self.pairs.reader == "cldr":
            yield "pairs.reader=cldr has no preferences; use candidates, hub or files"

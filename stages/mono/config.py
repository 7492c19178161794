"""Settings of `mono`: all weights on mixed monolingual text (ALMA stage 1, X-ALMA step 1)."""

from collections.abc import Iterator
from dataclasses import dataclass

from alma_pipeline.schema import Training
from alma_pipeline.schema.fields import choice


@dataclass(frozen=True, kw_only=True)
class Config(Training):
    kind: str = "mono"
    documents: str = choice("joined", "apart", as_before="joined")
    """joined: attention runs across the documents of a block, as in the published code; apart: each sees itself only."""

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if self.choose_by == "dev_score":
            yield "choose_by=dev_score needs translations, and monolingual text has none; expected dev_loss or last"

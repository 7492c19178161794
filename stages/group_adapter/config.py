"""Settings of `group_adapter`: one LoRA per language group on a frozen base (X-ALMA steps 2 and 3)."""

from collections.abc import Iterator
from dataclasses import dataclass

from alma_pipeline.schema import Training
from alma_pipeline.schema.fields import choice


@dataclass(frozen=True, kw_only=True)
class Config(Training):
    kind: str = "group_adapter"
    documents: str = choice("joined", "apart", as_before="joined")
    """joined: attention runs across the documents of a block, as in the published code; apart: each sees itself only."""
    per_group: bool = True
    adapter: str = "new"

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if self.adapter == "none":
            yield "adapter=none would train the shared base; expected new or continue"
        if self.choose_by == "dev_score":
            yield "choose_by=dev_score needs translations, and blocks of text have none; expected dev_loss or last"

"""Settings of `group_adapter`: one LoRA per language group on a frozen base (X-ALMA steps 2 and 3)."""

from collections.abc import Iterator
from dataclasses import dataclass

from alma_pipeline.schema import BlockTraining


@dataclass(frozen=True, kw_only=True)
class Config(BlockTraining):
    """Blocks of one group's text; always a LoRA, fresh or the parent's."""

    kind: str = "group_adapter"
    per_group: bool = True
    adapter: str = "new"

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if self.adapter == "none":
            yield "adapter=none would train the base that all groups share; use new or continue"

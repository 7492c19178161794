"""Settings that `mono` and `group_adapter` share: training on packed blocks of monolingual text."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from alma_pipeline.schema.training import Training


@dataclass(frozen=True, kw_only=True)
class BlockTraining(Training):
    """Settings of every kind that trains on blocks of text, with a loss on every token."""

    cross_document_attention: bool = field(default=True, metadata={"as_before": True})
    """Whether attention crosses the documents of a block, as in the published code; false: a document attends only to itself."""

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if self.select_by == "dev_score":
            yield "select_by=dev_score needs translations, and blocks of text have none; use dev_loss or last"

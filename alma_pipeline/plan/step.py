"""A node and what becomes of it: the plan's unit, which the runner carries out."""

from dataclasses import dataclass, field
from typing import Any

from alma_pipeline.plan.estimate import Estimate
from alma_pipeline.plan.node import Node
from alma_pipeline.schema import NodeConfig, Released, Training
from alma_pipeline.schema.kinds import kind_config
from alma_pipeline.store.record import Record


@dataclass(frozen=True)
class Forced:
    """What the command line wants made again."""

    force: tuple[str, ...] = ()
    since: tuple[str, ...] = ()
    only: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """A node and what becomes of it."""

    node: Node
    key: str
    """Of the artifact that serves the node: an adopted one's own key."""
    payload: dict[str, Any]
    verdict: str
    """reuse | adopt | resume | run | unneeded"""
    reason: str
    record: Record | None
    estimate: Estimate | None
    released: Released | None = None
    requested_key: str = ""
    """Of an adopted node: the key it would have if it were trained here."""
    fresh: bool = False
    """Asked for again: what an unfinished attempt left does not count."""
    stands_on: dict[str, str] = field(default_factory=dict)
    """Of an adopted adapter: `init`, the node of the full model under it."""

    @property
    def works(self) -> bool:
        """Whether something has to be done for it."""
        return self.verdict in ("adopt", "resume", "run")

    @property
    def inputs(self) -> dict[str, str]:
        """Role to the node whose artifact its work reads."""
        return self.stands_on if self.verdict == "adopt" else self.node.inputs

    @property
    def config(self) -> NodeConfig:
        """What its worker is told: the node's own settings, or where the published checkpoint is."""
        if self.verdict != "adopt":
            return self.node.config
        assert self.released is not None  # training it under a published checkpoint's key would be a lie
        released: Any = kind_config("released")
        entry, own = self.released, self.node.config
        adapter = own.adapter if isinstance(own, Training) and own.adapter != "none" else "new"
        config: NodeConfig = released(
            repo=entry.repo, revision=entry.revision, form=entry.form, trained_on=entry.trained_on,
            adapter=adapter,
        )  # fmt: skip
        return config

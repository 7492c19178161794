"""One planned step: a node, its verdict, and why."""

import dataclasses
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from alma_pipeline.plan.estimates.node_estimate import Estimate
from alma_pipeline.plan.node import Node
from alma_pipeline.schema import Hardware, NodeConfig, Released, Training
from alma_pipeline.schema.kinds import kind_config
from alma_pipeline.store.record import Record


class Cause(Enum):
    """Why a step has its verdict; its `reason` is the same in words, with names and values."""

    COMPLETE = "complete"
    """Its artifact exists."""
    ADOPTED = "adopted"
    """A published or a local checkpoint serves in place of training."""
    UNFINISHED = "unfinished"
    """An interrupted attempt left a resume point."""
    NEW = "new"
    """No artifact of this node exists, or none of this model or data."""
    SETTINGS_CHANGED = "settings_changed"
    INPUTS_CHANGED = "inputs_changed"
    VERSION_CHANGED = "version_changed"
    """The code of the node's kind changed, or the node has another kind now."""
    INCOMPLETE = "incomplete"
    """Files of its artifact are missing or truncated."""
    NOT_ADOPTED = "not_adopted"
    """A published checkpoint exists, but cannot replace the node."""
    FORCED = "forced"
    FROM = "from"
    """Named by --from, or built from such a node."""
    ROUND_STOPPED = "round_stopped"
    """An earlier round of preferences lowered the dev score."""
    NOT_NEEDED = "not_needed"


@dataclass(frozen=True)
class Rerun:
    """Which nodes the command line selects: --force, --from and --only."""

    force: tuple[str, ...] = ()
    from_: tuple[str, ...] = ()
    only: tuple[str, ...] = ()

    def unknown(self, known: Collection[str]) -> Iterator[tuple[str, str]]:
        """(`--force`, node) of every node that a flag names and that is not in `known`."""
        for flag, names in (("--force", self.force), ("--from", self.from_), ("--only", self.only)):
            yield from ((flag, name) for name in names if name not in known)


@dataclass(frozen=True)
class Step:
    """One planned step: a node, its verdict, and why."""

    node: Node
    key: str
    """Of the artifact that serves the node; an adopted checkpoint has a key of its own."""
    payload: dict[str, Any]
    verdict: str
    """reuse | adopt | resume | run | skip"""
    cause: Cause
    reason: str
    """The cause in words; empty if the verdict says it all."""
    record: Record | None
    estimate: Estimate | None = None
    released: Released | None = None
    requested_key: str = ""
    """Of an adopted node: the key it would have if it were trained here."""
    fresh: bool = False
    """Rerun on request: what an unfinished attempt left is ignored."""
    stands_on: dict[str, str] = field(default_factory=dict)
    """Of an adopted adapter: `init`, the node of the full model it belongs to."""
    named_base: str = ""
    """Of an adopted adapter: the folder that it names as its base, if it is here."""
    earlier: Record | None = None
    """The nearest earlier artifact of this node, which `reason` compares with."""

    @property
    def works(self) -> bool:
        """Whether there is something to do."""
        return self.verdict in ("adopt", "resume", "run")

    @property
    def inputs(self) -> dict[str, str]:
        """Role to the node whose artifact the step reads."""
        return self.stands_on if self.verdict == "adopt" else self.node.inputs

    def settled(self, hardware: Hardware) -> Hardware:
        """The hardware that the worker gets: what is null to be decided is as the estimate has it."""
        if self.estimate is None or hardware.gradient_checkpointing is not None:
            return hardware
        return dataclasses.replace(hardware, gradient_checkpointing=self.estimate.gradient_checkpointing)

    @property
    def config(self) -> NodeConfig:
        """The settings that the worker gets: the node's own, or where the published checkpoint is."""
        if self.verdict != "adopt":
            return self.node.config
        assert self.released is not None  # or the node would be trained under a published checkpoint's key
        released: Any = kind_config("released")
        entry, own = self.released, self.node.config
        adapter = own.adapter if isinstance(own, Training) and own.adapter != "none" else "new"
        config: NodeConfig = released(
            repo=entry.repo, revision=entry.revision, form=entry.form, trained_on=entry.trained_on,
            adapter=adapter, named_base=self.named_base,
        )  # fmt: skip
        return config

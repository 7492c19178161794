"""COMET: which models score, and how they are run. A model decides a score; where and in what batches it runs does not."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from alma_pipeline.schema.fields import choice, number


@dataclass(frozen=True, kw_only=True)
class Neural:
    """A line of the table of scorers."""

    model: str = MISSING
    """A repository of the hub, or a .ckpt file in a folder checkpoints/ below its hparams.yaml."""
    revision: str = "main"
    """Of the repository; its commit stands in the signature. For a file the plan puts its SHA-256 here."""
    reference: bool = True
    """Whether the model is given the reference, where it can do without one."""
    precision: str = choice("fp16", "bf16", "fp32")
    """comet-score computes in half precision whatever it runs on (unbabel-comet 2.2.7)."""


@dataclass(frozen=True, kw_only=True)
class Comet:
    """Neural metrics of the evaluation."""

    models: list[str] = field(default_factory=list)
    """Names in the table of scorers."""
    python: str | None = None
    """Of an environment with unbabel-comet; null: the one that `make comet` made."""
    batch: int = number(16, at_least=1)
    """Segments at once; 16 is comet-score's."""

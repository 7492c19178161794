"""COMET models and how they run. The model and its precision determine a score; interpreter and batch size do not."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from alma_pipeline.schema.fields import choice, number


@dataclass(frozen=True, kw_only=True)
class Neural:
    """An entry of the scorer table."""

    model: str = MISSING
    """A hub repository, or a .ckpt file in a folder checkpoints/ next to hparams.yaml."""
    revision: str = "main"
    """Of the repository; the signature contains its commit. For a file the plan sets this to the SHA-256."""
    reference: bool = True
    """Whether a model that can score without a reference is given one."""
    precision: str = choice("fp16", "bf16", "fp32")
    """comet-score computes in half precision on every device (unbabel-comet 2.2.7)."""


@dataclass(frozen=True, kw_only=True)
class Comet:
    """Neural metrics of the evaluation, and how COMET runs."""

    models: list[str] = field(default_factory=list)
    """Names in the scorer table."""
    python: str | None = None
    """Python interpreter of an environment with unbabel-comet; null: the one that `make comet` creates."""
    batch: int = number(16, at_least=1, at_most=2**20)
    """Segments per batch; comet-score uses 16."""

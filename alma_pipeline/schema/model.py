"""A model: its shape, its source, how stages adapt it, and its published checkpoints."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from alma_pipeline.schema.fields import choice, number
from alma_pipeline.schema.training import Lora

PRECISION_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Shape of a decoder-only transformer, as in its published config.json."""

    model_type: str = "llama"
    hidden_size: int = number(MISSING, at_least=1, at_most=2**20)
    intermediate_size: int = number(MISSING, at_least=1, at_most=2**22)
    layers: int = number(MISSING, at_least=1, at_most=10_000)
    heads: int = number(MISSING, at_least=1, at_most=2**16)
    kv_heads: int = number(MISSING, at_least=1, at_most=2**16)
    vocab_size: int = number(MISSING, at_least=1, at_most=2**24)
    max_positions: int = number(4096, at_least=1, at_most=2**24)
    tied_embeddings: bool = False


@dataclass(frozen=True, kw_only=True)
class Released:
    """A published checkpoint, and the settings it was trained with that change the result."""

    repo: str = MISSING
    revision: str = MISSING
    form: str = choice("full", "adapter")
    languages: list[str] = field(default_factory=list)
    """The languages it was trained on; it can replace a node that needs no others."""
    config: dict[str, Any] = field(default_factory=dict)
    """Node name to settings, for this node and every node before it up to the next published one. The checkpoint is adopted if
    all are equal to ours; languages and seeds are not compared."""
    trained_on: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Model:
    """A base model and how the stages train on it."""

    name: str = MISSING
    source: str = choice("random", "hub", "wheel")
    repo: str | None = None
    revision: str | None = None
    architecture: Architecture = field(default_factory=Architecture)
    prompt: str = choice("alma", "x_alma")
    precision: str = choice("fp32", "bf16", "fp16")
    adapter: str = choice("none", "new")
    """What `parallel` trains on this model. none: all weights; new: a fresh LoRA."""
    cpo_adapter: str = choice("none", "new", "continue", "merge_then_new")
    """What `cpo` trains after that; see `Training.adapter`."""
    lora: Lora = field(default_factory=Lora)
    group_lora: Lora = field(default_factory=Lora)
    quantization: str = choice("none", "nf4")
    """Format of the frozen weights under every adapter, in training, and of a checkpoint's full model in decoding."""
    released: dict[str, Any] = field(default_factory=dict)
    """Node name (`g5.arpo` for one group) to `Released`, the checkpoint published for it."""

    def conflicts(self) -> Iterator[str]:
        shape = self.architecture
        if self.source != "random":
            return
        if shape.model_type != "llama":
            yield f"source=random builds models of model_type llama only, found architecture.model_type={shape.model_type}"
        whole = shape.heads > 0 and shape.kv_heads > 0  # the fields' own limits report the rest
        if whole and (shape.hidden_size % shape.heads or shape.heads % shape.kv_heads):
            yield (
                f"architecture.hidden_size={shape.hidden_size} must be a multiple of heads={shape.heads}, and heads of "
                f"kv_heads={shape.kv_heads}"
            )

"""A model: its shape, where it comes from, how it is adapted, and what was published of it."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from alma_pipeline.schema.fields import choice, number
from alma_pipeline.schema.training import Lora

PRECISION_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Shape of a decoder-only transformer, as its published config.json states it."""

    model_type: str = "llama"
    hidden_size: int = number(MISSING, at_least=1)
    intermediate_size: int = number(MISSING, at_least=1)
    layers: int = number(MISSING, at_least=1)
    heads: int = number(MISSING, at_least=1)
    kv_heads: int = number(MISSING, at_least=1)
    vocab_size: int = number(MISSING, at_least=1)
    max_positions: int = number(4096, at_least=1)
    tied_embeddings: bool = False


@dataclass(frozen=True, kw_only=True)
class Released:
    """A published checkpoint, and the settings it was trained with, as far as they decide the result."""

    repo: str = MISSING
    revision: str = MISSING
    form: str = choice("full", "adapter")
    languages: list[str] = field(default_factory=list)
    """It serves a node whose languages are among these."""
    config: dict[str, Any] = field(default_factory=dict)
    """Node name to its settings, for the node and every node before it up to the next released one. A node is
    adopted when all of them are equal; languages and seeds are not compared."""
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
    """How `parallel` trains on this model: all weights, or a fresh LoRA."""
    cpo_adapter: str = choice("none", "new", "continue", "merge_then_new")
    """How `cpo` goes on from it."""
    lora: Lora = field(default_factory=Lora)
    group_lora: Lora = field(default_factory=Lora)
    base_weights: str = choice("as_is", "nf4")
    """What the frozen weights under every adapter are held in."""
    released: dict[str, Any] = field(default_factory=dict)
    """`Released` by node name (`g5.arpo` for a group's) to the checkpoint published for it."""

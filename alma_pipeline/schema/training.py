"""Settings that every training kind shares."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from omegaconf import II

from alma_pipeline.errors import UserError
from alma_pipeline.schema.fields import LARGEST, choice, number
from alma_pipeline.schema.node import NodeConfig


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adaptation; defaults are X-ALMA's and ALMA's, set in the model options."""

    rank: int = number(16, at_least=1, at_most=2**16)
    alpha: float = number(32.0, above=0, at_most=1e6)
    dropout: float = number(0.0, at_least=0, below=1)
    targets: list[str] = field(default_factory=lambda: ["down_proj"])


@dataclass(frozen=True, kw_only=True)
class Training(NodeConfig):
    """Settings of every training kind. Exactly one of steps, epochs and tokens sets how long it trains."""

    version: ClassVar[int] = 2
    """2: settings renamed, as in `errors.RENAMED`."""
    steps: int | None = number(None, at_least=1, at_most=10**9)
    epochs: float | None = number(None, above=0, at_most=1e6)
    tokens: float | None = number(None, at_least=1, at_most=1e18)
    global_batch_size: int = number(256, at_least=1, at_most=2**20)
    """Examples per optimiser step over all devices (blocks for `mono` and `group_adapter`, pairs for the preference kinds)."""
    learning_rate: float = number(2e-5, above=0)
    schedule: str = choice("cosine", "inverse_sqrt", "linear", "constant")
    warmup_ratio: float = number(0.01, at_least=0, below=1)
    weight_decay: float = number(0.01, at_least=0)
    adam_beta1: float = number(0.9, at_least=0, below=1)
    adam_beta2: float = number(0.999, at_least=0, below=1)
    adam_epsilon: float = number(1e-8, above=0)
    max_grad_norm: float = number(1.0, at_least=0)
    """Gradients are clipped to this norm; 0: never."""
    precision: str = choice("fp32", "bf16", "fp16")
    seed: int = number(II("seed"), at_least=0, at_most=LARGEST)
    adapter: str = choice("none", "new", "continue", "merge_then_new")
    """What is trained. none: all weights; new: a fresh LoRA on the parent; continue: the parent's own LoRA;
    merge_then_new: a fresh LoRA, after the parent's has been merged."""
    lora: Lora = field(default_factory=Lora)
    quantization: str = field(default="none", metadata={"choices": ("none", "nf4"), "as_before": "none"})
    """Format of the frozen weights under an adapter. none: as `precision` says; nf4: 4 bits (QLoRA, arXiv 2305.14314)."""
    evaluations: int = number(4, at_least=1, at_most=10_000)
    """Number of dev set evaluations, evenly spaced, the last one at the end."""
    select_by: str = choice("dev_loss", "dev_score", "last")
    """Which checkpoint is kept: the best by dev loss or dev score, or the last."""
    dev_score_examples: int = number(32, at_least=1)
    """Dev sentences decoded per evaluation if `select_by=dev_score`."""
    max_dev_loss_ratio: float = number(1.5, above=1)
    """Stop if the dev loss exceeds the parent's by this factor (our choice)."""
    min_dev_score_ratio: float = number(0.5, at_least=0, at_most=1, as_before=0.5)
    """Stop if the dev score falls below this share of the parent's; only with `select_by=dev_score` (our choice)."""
    max_loop_share: float = number(0.5, at_least=0, at_most=1, as_before=0.5)
    """Stop if more than this share of the dev translations, and more than of the parent's, are repetition loops (our choice)."""

    @property
    def distributed(self) -> bool:
        """Every process trains."""
        return True

    @property
    def saves_on_notice(self) -> bool:
        """After the current step."""
        return True

    def rules(self) -> dict[str, int]:
        """2: the adapter records the precision that its 4-bit base was rounded from; without it fp32 was assumed."""
        return {"nf4": 2} if self.quantization == "nf4" and self.precision != "fp32" else {}

    def conflicts(self) -> Iterator[str]:
        given = [name for name in ("steps", "epochs", "tokens") if getattr(self, name) is not None]
        if len(given) != 1:
            yield f"exactly one of steps, epochs, tokens sets the horizon; found {', '.join(given) or 'none'}"
        if self.quantization == "nf4" and self.adapter not in ("new", "continue"):
            yield f"quantization=nf4 freezes the weights, so it needs adapter=new or continue; found adapter={self.adapter}"


def total_steps(config: Training, examples: int, tokens: int) -> int:
    """Optimiser steps of the node's horizon over `examples` examples that hold `tokens` tokens together.

    `epochs` and `tokens` are rounded up to whole steps. Raises UserError for an empty training set.
    """
    if not examples:
        raise UserError("the training set has no example; expected at least one: see the corpus node's `dropped` counts")
    if config.steps is not None:
        return config.steps
    if config.epochs is not None:
        return math.ceil(config.epochs * examples / config.global_batch_size)
    assert config.tokens is not None, "Training.conflicts lets exactly one horizon through"
    return math.ceil(config.tokens * examples / (tokens * config.global_batch_size))


def lora_mismatch(adapter_config: Mapping[str, Any], quantization: str, asked: Training) -> str:
    """How a LoRA that is to be trained further differs from the settings; empty if it does not.

    `adapter_config`: PEFT's, as in adapter_config.json; `quantization`: how the weights under it were held.
    """
    found = {
        "lora.rank": adapter_config.get("r"),
        "lora.alpha": float(adapter_config.get("lora_alpha") or 0),
        "lora.targets": sorted(adapter_config.get("target_modules") or []),
        "quantization": quantization,
    }
    lora = asked.lora
    requested: dict[str, Any] = {"lora.rank": lora.rank, "lora.alpha": lora.alpha, "lora.targets": sorted(lora.targets)}
    requested |= {"quantization": asked.quantization}
    different = [
        f"{name} is {found[name]} there and {value} in the settings" for name, value in requested.items() if found[name] != value
    ]
    return f"{', '.join(different)}; make them equal" if different else ""

"""The typed shape of a configuration: groups, and what every node has.

A kind's own settings live in `stages/<kind>/config.py`. Everything a node dataclass holds beyond
`NodeConfig`'s three fields enters the artifact key; everything in `Hardware`, `Tracking` and `Evaluation`'s
reporting part does not. Which is which is a matter of where a field stands, never of a list of names.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from alma_pipeline.schema.block_training import BlockTraining
from alma_pipeline.schema.budget import Budget, Horizon, PreferenceBudget, TextBudget
from alma_pipeline.schema.data import CLEANING, Cleaning, Data, Expected, GroupedLanguage, Language, Source
from alma_pipeline.schema.decoding import Decoding, Translating
from alma_pipeline.schema.fields import choice, number
from alma_pipeline.schema.filled_in import WithDirections, WithLanguages, WithScorers, WithSystems
from alma_pipeline.schema.hardware import Hardware
from alma_pipeline.schema.model import PRECISION_BYTES, Architecture, Model, Released
from alma_pipeline.schema.node import NodeConfig, TextInput
from alma_pipeline.schema.preference_training import PreferenceTraining
from alma_pipeline.schema.scorer import Comet, Neural
from alma_pipeline.schema.training import Lora, Training

__all__ = [
    "CLEANING",
    "PRECISION_BYTES",
    "Architecture",
    "BlockTraining",
    "Budget",
    "Cleaning",
    "Comet",
    "Config",
    "Data",
    "Decoding",
    "Evaluation",
    "Expected",
    "GroupedLanguage",
    "Hardware",
    "Horizon",
    "Language",
    "Lora",
    "Model",
    "Neural",
    "NodeConfig",
    "PreferenceBudget",
    "PreferenceTraining",
    "Released",
    "Source",
    "TextBudget",
    "TextInput",
    "Tracking",
    "Training",
    "Translating",
    "WithDirections",
    "WithLanguages",
    "WithScorers",
    "WithSystems",
]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Which checkpoints are translated and scored, and how they are decoded."""

    name: str = MISSING
    checkpoints: list[str] = field(default_factory=list)
    every_direction: list[str] = field(default_factory=list)
    """Group checkpoints that also translate the other groups' directions."""
    controls: dict[str, str] = field(default_factory=dict)
    """Extra node to the node it is a control of: it takes part when that one does."""
    outputs: dict[str, str] = field(default_factory=dict)
    """Further systems by name: where their outputs of the test sentences lie, as `out/gpt4.{direction}.txt`."""
    beams: int = number(5, at_least=1)
    max_new_tokens: int = number(256, at_least=1)
    metrics: list[str] = field(default_factory=lambda: ["chrf++", "bleu", "ter"])
    """sacrebleu's: chrf++, bleu, ter, spbleu."""
    significance: str = choice("bootstrap", "randomisation")
    """Which of sacrebleu's paired tests the report makes: bootstrap resampling or approximate randomisation; in no key."""
    comet: Comet = field(default_factory=Comet)


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """What MLflow is told."""

    name: str = MISSING
    enabled: bool = True
    experiment: str = "alma"
    artifacts: str = choice("light", "none", "checkpoints")
    system_metrics: bool = True


@dataclass(frozen=True, kw_only=True)
class Config:
    """The whole configuration as one frozen tree."""

    targets: list[str] = field(default_factory=list)
    """Node names the stage option wants; set by `stage=`."""
    upstream: str = choice("adopt", "train")
    """Whether nodes on the way may be taken from a published checkpoint."""
    target: str = choice("train", "adopt")
    """The same for the target itself: what is asked for by name is trained, unless told otherwise."""
    group: Any = "all"
    rounds: int = number(1, at_least=1)
    """How often preferences are built from the newest checkpoint and learnt from; in no key, each round is nodes."""
    tokens: float | None = number(None, at_least=1)
    """How long the targets train, in tokens, in place of the steps, epochs or tokens of their own; null: their own."""
    directions: Any = "all"
    """all, or some of: directions (`de-en`), groups (`g5`: its languages into English and out of it)."""
    seed: int = number(42, at_least=0)
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    languages: dict[str, Any] = field(default_factory=dict)
    """Code to `GroupedLanguage`."""
    scorers: dict[str, Any] = field(default_factory=dict)
    """Name to `Neural`."""
    hardware: Hardware = field(default_factory=Hardware)
    evaluation: Evaluation = field(default_factory=Evaluation)
    tracking: Tracking = field(default_factory=Tracking)
    budget: Budget = field(default_factory=Budget)
    stages: dict[str, Any] = field(default_factory=dict)
    groups: dict[str, Any] = field(default_factory=dict)

"""The typed configuration: its groups, and what every node has. A kind's own settings are in `stages/<kind>/config.py`.

Every field of a node's dataclass, except the three of `NodeConfig`, is part of the artifact's key. Nothing in `Hardware`,
`Tracking` or the reporting settings of `Evaluation` is. The class that declares a field decides this; there is no list of names.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from alma_pipeline.schema.block_training import BlockTraining
from alma_pipeline.schema.budget import Budget, Horizon, PreferenceBudget, TextBudget
from alma_pipeline.schema.data import CLEANING, Cleaning, Data, Expected, GroupedLanguage, Language, Source
from alma_pipeline.schema.decoding import Decoding, Engines, Translating
from alma_pipeline.schema.fields import LARGEST, choice, number
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
    "Engines",
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
    """Which checkpoints translate the test set, how they decode, and which metrics score them."""

    name: str = MISSING
    checkpoints: list[str] = field(default_factory=list)
    every_direction: list[str] = field(default_factory=list)
    """Group checkpoints that also translate the directions of other groups."""
    controls: dict[str, str] = field(default_factory=dict)
    """Control node to the node it is compared with; the control runs if it is among `checkpoints` and that node takes part."""
    outputs: dict[str, str] = field(default_factory=dict)
    """Name of another system to the path of its outputs for the test sentences: `out/gpt4.{direction}.txt`."""
    num_beams: int = number(5, at_least=1)
    max_new_tokens: int = number(256, at_least=1)
    metrics: list[str] = field(default_factory=lambda: ["chrf++", "bleu", "ter"])
    """sacrebleu's, by their names in `schema.metrics`."""
    significance: str = choice("bootstrap", "randomisation")
    """sacrebleu's paired test in the report: bootstrap resampling or approximate randomisation; part of no key."""
    comet: Comet = field(default_factory=Comet)


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """What is logged to MLflow."""

    name: str = MISSING
    enabled: bool = True
    experiment: str = "alma"
    artifacts: str = choice("light", "none", "checkpoints")
    system_metrics: bool = True

    def conflicts(self) -> Iterator[str]:
        if self.enabled and not self.experiment.strip():
            yield "experiment is empty; expected the name of an experiment in MLflow, or tracking=none"


@dataclass(frozen=True, kw_only=True)
class Config:
    """The whole configuration as one frozen tree."""

    targets: list[str] = field(default_factory=list)
    """The nodes to make; set by `stage=`."""
    upstream: str = choice("adopt", "train")
    """Whether a published checkpoint may replace a node that the target depends on."""
    target: str = choice("train", "adopt")
    """The same for the target itself, which is trained by default."""
    group: Any = "all"
    rounds: int = number(1, at_least=1, at_most=100)
    """How often preferences are built from the newest checkpoint and trained on; part of no key, each round has its own nodes."""
    tokens: float | None = number(None, at_least=1, at_most=1e18)
    """Training length of the targets in tokens, replacing their steps, epochs or tokens; null: their own."""
    directions: Any = "all"
    """all, or a list of directions (`de-en`) and groups (`g5`: its languages into and out of English)."""
    seed: int = number(42, at_least=0, at_most=LARGEST)
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    languages: dict[str, Any] = field(default_factory=dict)
    """Language code to `GroupedLanguage`."""
    scorers: dict[str, Any] = field(default_factory=dict)
    """Scorer name to `Neural`."""
    hardware: Hardware = field(default_factory=Hardware)
    evaluation: Evaluation = field(default_factory=Evaluation)
    decoding: Engines = field(default_factory=Engines)
    tracking: Tracking = field(default_factory=Tracking)
    budget: Budget = field(default_factory=Budget)
    stages: dict[str, Any] = field(default_factory=dict)
    groups: dict[str, Any] = field(default_factory=dict)

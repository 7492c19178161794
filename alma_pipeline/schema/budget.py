"""The settings of a budget option: how long each stage trains, and on how much text."""

from dataclasses import dataclass, field

from omegaconf import MISSING


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """Training length and optimiser settings of one training node."""

    steps: int | None = None
    epochs: float | None = None
    tokens: float | None = None
    global_batch_size: int = 256
    learning_rate: float = 2e-5
    schedule: str = "cosine"
    warmup_ratio: float = 0.01
    weight_decay: float = 0.01
    adam_beta2: float = 0.999
    evaluations: int = 4


@dataclass(frozen=True, kw_only=True)
class TextBudget:
    """How much text is prepared; null: all of it."""

    documents: int | None = None
    """Monolingual documents per language."""
    pairs: int | None = None
    """Training pairs per direction."""
    dev: int = 100
    """Held-out documents per language, or pairs per direction."""
    test: int | None = None
    """Test sentences per direction."""
    block: int = 512
    """Tokens in a packed block of monolingual text."""
    tokens: float | None = None
    """Largest number of tokens of monolingual text; null: no limit."""


@dataclass(frozen=True, kw_only=True)
class PreferenceBudget:
    """How many candidates are sampled, and at which temperature."""

    sources: int = 2009
    """Training sources per direction."""
    held_out: int = 100
    candidates: int = 4
    temperature: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much text is read, and how long each stage trains."""

    name: str = MISSING
    text: TextBudget = field(default_factory=TextBudget)
    mono: Horizon = field(default_factory=Horizon)
    parallel: Horizon = field(default_factory=Horizon)
    group_adapter: Horizon = field(default_factory=Horizon)
    group_pseudo_mono: Horizon = field(default_factory=Horizon)
    group_parallel: Horizon = field(default_factory=Horizon)
    preferences: PreferenceBudget = field(default_factory=PreferenceBudget)
    group_preferences: PreferenceBudget = field(default_factory=PreferenceBudget)
    cpo: Horizon = field(default_factory=Horizon)
    arpo: Horizon = field(default_factory=Horizon)

"""The typed shape of a configuration: groups, and what every node has.

A kind's own settings live in `stages/<kind>/config.py`. Everything a node dataclass holds beyond
`NodeConfig`'s three fields enters the artifact key; everything in `Hardware`, `Tracking` and `Evaluation`'s
reporting part does not. Which is which is a matter of where a field stands, never of a list of names.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from omegaconf import II, MISSING

from alma_pipeline.fields import choice, number

PRECISION_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True, kw_only=True)
class NodeConfig:
    """What the planner needs of any node. These fields are not part of a node's settings."""

    version: ClassVar[int] = 1
    """Bumped by hand when the kind's meaning changes; part of the key."""
    distributed: ClassVar[bool] = False
    """Whether its work is shared out over the hardware's processes."""

    kind: str = MISSING
    inputs: dict[str, str] = field(default_factory=dict)
    """Role to node name: `{init: mono, corpus: parallel_corpus}`."""
    per_group: bool = False
    """One instance for each language group of the run."""

    def roles(self) -> dict[str, str]:
        """The inputs this node really reads."""
        return self.inputs


@dataclass(frozen=True, kw_only=True)
class Language:
    """What a language's name, data and scores depend on."""

    name: str = MISSING
    """English name, as the prompts spell it."""
    locale: str = MISSING
    """CLDR locale."""
    nllb: str = MISSING
    """Code of NLLB and FLORES-200."""
    tokenizer: str = "13a"
    """sacrebleu tokenizer for BLEU."""


@dataclass(frozen=True, kw_only=True)
class GroupedLanguage(Language):
    """A line of the language table: a language and its X-ALMA group."""

    group: int | None = number(MISSING, at_least=1, at_most=8)
    """Null for English only: a direction's group is that of its other side."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where text comes from, by identity: never by path."""

    reader: str = choice("cldr", "hub", "candidates")
    """`candidates` (preferences only): built from the recipe's own checkpoint."""
    repo: str | None = None
    revision: str | None = None
    """Hub commit, or the release of the package that generates the text."""
    split: str = "train"
    trained_on: list[str] = field(default_factory=list)
    """Test sets this text overlaps with; scores on them are marked."""


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adaptation; defaults are X-ALMA's and ALMA's, set in the model options."""

    rank: int = number(16, at_least=1)
    alpha: float = number(32.0, above=0)
    dropout: float = number(0.0, at_least=0, below=1)
    targets: list[str] = field(default_factory=lambda: ["down_proj"])


@dataclass(frozen=True, kw_only=True)
class Training(NodeConfig):
    """What every training kind shares. Exactly one of steps, epochs and tokens sets the horizon."""

    distributed: ClassVar[bool] = True

    steps: int | None = number(None, at_least=1)
    epochs: float | None = number(None, above=0)
    tokens: float | None = number(None, at_least=1)
    global_batch: int = number(256, at_least=1)
    """Examples per optimiser step over all devices (blocks for `mono` and `group_adapter`, pairs for the preference kinds)."""
    learning_rate: float = number(2e-5, above=0)
    schedule: str = choice("cosine", "inverse_sqrt", "linear", "constant")
    warmup_ratio: float = number(0.01, at_least=0, below=1)
    weight_decay: float = number(0.01, at_least=0)
    adam_beta1: float = number(0.9, at_least=0, below=1)
    adam_beta2: float = number(0.999, at_least=0, below=1)
    adam_epsilon: float = number(1e-8, above=0)
    clip: float = number(1.0, at_least=0)
    """Largest gradient norm; 0 turns clipping off."""
    precision: str = choice("fp32", "bf16", "fp16")
    seed: int = II("seed")
    adapter: str = choice("none", "new", "continue", "merge_then_new")
    """none: all weights; new: a fresh LoRA on the parent; continue: the parent's own LoRA;
    merge_then_new: the parent's LoRA merged first, then a fresh one."""
    lora: Lora = field(default_factory=Lora)
    evaluations: int = number(4, at_least=1)
    """How often the dev set is measured, evenly spread, the end included."""
    choose_by: str = choice("dev_loss", "dev_score", "last")
    """What picks the checkpoint that is kept."""
    dev_score_examples: int = number(32, at_least=1)
    """Dev sentences decoded per evaluation when `choose_by=dev_score`."""
    diverged_above: float = number(1.5, above=1)
    """Stop when the dev loss exceeds the parent's by this factor (our choice)."""

    def conflicts(self) -> Iterator[str]:
        given = [name for name in ("steps", "epochs", "tokens") if getattr(self, name) is not None]
        if len(given) != 1:
            yield f"exactly one of steps, epochs, tokens sets the horizon; found {', '.join(given) or 'none'}"


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
    released: dict[str, Any] = field(default_factory=dict)
    """`Released` by node name (`g5.arpo` for a group's) to the checkpoint published for it."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the text holds, for estimates before it has been read."""

    pairs: int = 1000
    """Sentence pairs per direction."""
    triples: int = 1000
    """Preference triples per direction."""
    test: int = 1000
    """Test sentences per direction."""
    pair_tokens: float = 160
    """Prompt and answer together (our assumption for sentences of news text)."""


@dataclass(frozen=True, kw_only=True)
class Data:
    name: str = MISSING
    languages: list[str] = field(default_factory=list)
    """Languages beside English."""
    probabilities: dict[str, float] = field(default_factory=dict)
    """Share of each language among `mono`'s documents; empty: equal shares."""
    mono: Source = field(default_factory=Source)
    parallel: Source = field(default_factory=Source)
    pseudo: Source = field(default_factory=Source)
    """Bitext joined into pseudo-monolingual lines."""
    test: Source = field(default_factory=lambda: Source(split="test"))
    preferences: Source = field(default_factory=lambda: Source(reader="candidates"))
    expected: Expected = field(default_factory=Expected)


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Where and how a node runs: decides time and memory, never the result."""

    name: str = MISSING
    device: str = choice("cpu", "cuda")
    devices: int = number(1, at_least=1)
    """Per node."""
    nodes: int = number(1, at_least=1)
    launcher: str = choice("local", "torchrun", "deepspeed", "slurm")
    threads: int | None = number(None, at_least=1)
    """CPU threads per process; null: the cores, shared out among the processes."""
    zero_stage: int = number(0, at_least=0, at_most=3)
    offload: str = choice("none", "cpu")
    """Where ZeRO keeps optimiser state and gradients."""
    gradient_checkpointing: bool = False
    row_tokens: int = number(4096, at_least=1)
    """Token budget of one micro-batch on one device."""
    decode_tokens: int = number(8192, at_least=1)
    """Token budget (prompt and output, times beams) of one decoding batch."""
    flops: float = number(1e11, above=0)
    """Stated matmul rate of one device at the training precision, FLOP/s."""
    utilisation: float = number(0.4, above=0, at_most=1)
    """Share of it that training is assumed to reach."""
    bandwidth: float = number(2e10, above=0)
    """Stated memory bandwidth of one device, bytes/s: what decoding is bound by."""
    memory_gb: float = number(8, above=0)
    """Of one device, in 10^9 bytes."""
    checkpoint_seconds: float = number(600, above=0)
    """Time between resume points."""
    hostfile: str | None = None
    """For launcher=deepspeed."""
    rendezvous: str | None = None
    """For launcher=torchrun on several nodes: HOST:PORT of the first, the same for all."""
    partition: str | None = None
    account: str | None = None
    time_limit: str = "24:00:00"

    @property
    def world(self) -> int:
        return self.devices * self.nodes

    def conflicts(self) -> Iterator[str]:
        if self.launcher == "local" and self.world > 1:
            yield f"launcher=local runs one process, found devices x nodes = {self.world}; use launcher=torchrun"
        if self.nodes > 1 and self.launcher not in ("slurm", "deepspeed", "torchrun"):
            yield f"nodes={self.nodes} needs launcher slurm, deepspeed or torchrun, found {self.launcher}"
        if self.launcher == "deepspeed" and not self.hostfile:
            yield "launcher=deepspeed needs hostfile="
        if self.launcher == "torchrun" and self.nodes > 1 and not self.rendezvous:
            yield f"launcher=torchrun with nodes={self.nodes} needs rendezvous=HOST:PORT, an address of the first node"


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """How long and how hard one training node works."""

    steps: int | None = None
    epochs: float | None = None
    tokens: float | None = None
    global_batch: int = 256
    learning_rate: float = 2e-5
    schedule: str = "cosine"
    warmup_ratio: float = 0.01
    weight_decay: float = 0.01
    adam_beta2: float = 0.999
    evaluations: int = 4


@dataclass(frozen=True, kw_only=True)
class TextBudget:
    """How much text is prepared; null takes all there is."""

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


@dataclass(frozen=True, kw_only=True)
class PreferenceBudget:
    sources: int = 2009
    """Training sources per direction."""
    held_out: int = 100
    candidates: int = 4
    temperature: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Budget:
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


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Which checkpoints are translated and scored, and how they are decoded."""

    name: str = MISSING
    checkpoints: list[str] = field(default_factory=list)
    every_direction: list[str] = field(default_factory=list)
    """Group checkpoints that also translate the other groups' directions."""
    controls: dict[str, str] = field(default_factory=dict)
    """Extra node to the node it is a control of: it takes part when that one does."""
    beams: int = number(5, at_least=1)
    max_new_tokens: int = number(256, at_least=1)


@dataclass(frozen=True, kw_only=True)
class Tracking:
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
    seed: int = number(42, at_least=0)
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    languages: dict[str, Any] = field(default_factory=dict)
    """Code to `GroupedLanguage`."""
    hardware: Hardware = field(default_factory=Hardware)
    evaluation: Evaluation = field(default_factory=Evaluation)
    tracking: Tracking = field(default_factory=Tracking)
    budget: Budget = field(default_factory=Budget)
    stages: dict[str, Any] = field(default_factory=dict)
    groups: dict[str, Any] = field(default_factory=dict)

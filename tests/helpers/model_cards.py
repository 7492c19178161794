"""A model card as the hub's own library reads it."""

from typing import Any

from huggingface_hub import ModelCard


def header(text: str) -> Any:
    """The metadata in front of a card; its attributes are made as they are read, so they have no types."""
    return ModelCard(text).data

"""The tokens that end a model's output: chat models have several. Training ends its texts with one, the tokenizer's."""

import json
from pathlib import Path

FILES = ("generation_config.json", "config.json")
"""Files of a model folder that name its end tokens."""


def stated_end_tokens(folder: Path) -> list[int]:
    """The ids that the files of a model folder name as end tokens, each once, in the order of `FILES`; empty for none."""
    found: list[int] = []
    for name in FILES:
        try:
            stated = json.loads((folder / name).read_text(encoding="utf-8")).get("eos_token_id")
        except (OSError, ValueError, AttributeError):
            continue  # an unreadable file is reported where the model is loaded
        found += as_list(stated)
    return list(dict.fromkeys(found))


def as_list(stated: int | list[int] | None) -> list[int]:
    """Hugging Face's `eos_token_id`, which is null, an id or a list of ids, as a list."""
    return [number for number in (stated if isinstance(stated, list) else [stated]) if type(number) is int]


def end_tokens(first: int, stated: list[int], rows: int) -> int | list[int]:
    """Hugging Face's `eos_token_id`: the tokenizer's end token, followed by those that the model's files state.

    A single one is a number, as it always was. Ids beyond the model's `rows` are never produced, so they are left out.
    """
    found = list(dict.fromkeys([first, *(number for number in stated if 0 <= number < rows)]))
    return found if len(found) > 1 else first

"""Tokenises preference triples: a prompt and its two answers. Builds no batches and computes no loss.

Nothing is truncated: a pair that is too long on either side is dropped and counted (B51, B56).
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alma_pipeline.errors import UserError
from alma_pipeline.ml.data.prompts import Example, Prompter, one_line

FIELDS = ("direction", "source", "chosen", "rejected")
BATCH = 2000
"""Triples tokenised at a time, which bounds the memory of token lists."""


class PreferencePair(NamedTuple):
    """Two answers to one prompt, as token ids."""

    prompt: NDArray[np.int32]
    """[prompt], BOS first"""
    chosen: NDArray[np.int32]
    """[chosen], EOS last; every token of an answer is a label"""
    rejected: NDArray[np.int32]
    """[rejected], EOS last"""
    reference: tuple[float, float] | None = None
    """Log-probabilities (nats) of the chosen and the rejected answer under the parent model; None without a reference."""


@dataclass(frozen=True)
class PairLimits:
    """Maximum lengths in tokens; BOS counts towards the prompt, EOS towards the answer."""

    prompt: int
    length: int
    """Of the prompt together with one answer."""


@dataclass
class PreferencePairs:
    """The usable pairs of a file, in order, and counts of the others."""

    kept: list[PreferencePair] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    """Reason to number: `empty`, `identical`, `prompt_too_long`, `answer_too_long`."""
    joined_lines: int = 0
    """Triples in which a line break became a space."""
    merged: int = 0
    """Kept pairs in which the tokenizer would have joined the end of the prompt with the start of an answer."""

    def counts(self) -> dict[str, Any]:
        """The counts for a stage's result."""
        return {
            "pairs": len(self.kept),
            "dropped": dict(self.dropped),
            "joined_lines": self.joined_lines,
            "merged": self.merged,
        }


def read_pairs(path: Path, prompter: Prompter, limits: PairLimits) -> PreferencePairs:
    """Read the pairs of `train.jsonl` or `dev.jsonl` of a preferences artifact.

    Raises UserError if a line lacks a field of a triple or has a direction with a language that the node lacks, and if no pair
    is kept.
    """
    result = PreferencePairs()
    rows: list[Mapping[str, Any]] = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            rows.append(_checked(json.loads(line), f"{path}:{number}", prompter))
            if len(rows) == BATCH:
                _add(result, rows, prompter, limits)
                rows = []
    _add(result, rows, prompter, limits)
    if not result.kept:
        raise UserError(
            f"{path}: none of {result.dropped.total()} preference pairs is usable (dropped: {dict(result.dropped)}). "
            f"Check the triples, or raise max_prompt={limits.prompt} and max_length={limits.length}."
        )
    return result


def _checked(row: Mapping[str, Any], where: str, prompter: Prompter) -> Mapping[str, Any]:
    missing = [name for name in FIELDS if row.get(name) is None]
    if missing:
        raise UserError(f"{where}: no {', '.join(missing)}; expected a preference triple with {', '.join(FIELDS)}")
    unknown = [code for code in row["direction"].split("-") if code not in prompter.languages]
    if unknown:
        raise UserError(
            f"{where}: direction {row['direction']} has {', '.join(unknown)}, not one of the node's languages "
            f"({', '.join(prompter.languages)}). Add it to data.languages, or use other preferences."
        )
    return row


def _add(result: PreferencePairs, rows: Sequence[Mapping[str, Any]], prompter: Prompter, limits: PairLimits) -> None:
    """Clean, tokenise and check a batch of triples, both sides by the same rules."""
    texts = []
    # Clean before tokenising: line breaks would end the prompt's line, and two equal answers have no preference.
    for row in rows:
        (source, a), (chosen, b), (rejected, c) = (one_line(row[name]) for name in FIELDS[1:])
        if not (source and chosen and rejected):
            result.dropped["empty"] += 1
        elif chosen == rejected:
            result.dropped["identical"] += 1
        else:
            result.joined_lines += a or b or c
            texts.append((row["direction"], source, chosen, rejected))
    # Whole batches: a call of the tokenizer per text is far slower.
    chosen_sides = prompter.examples([(direction, source, chosen) for direction, source, chosen, _ in texts])
    rejected_sides = prompter.examples([(direction, source, rejected) for direction, source, _, rejected in texts])
    for chosen_side, rejected_side in zip(chosen_sides, rejected_sides, strict=True):
        reason = reason_to_drop(chosen_side, rejected_side, limits)
        if reason:
            result.dropped[reason] += 1
        else:
            result.kept.append(make_pair(chosen_side, rejected_side, prompter))
            result.merged += chosen_side.merged or rejected_side.merged


def reason_to_drop(chosen: Example, rejected: Example, limits: PairLimits) -> str:
    """Why a pair is dropped, or an empty string. One bad side is enough."""
    if chosen.prompt > limits.prompt:
        return "prompt_too_long"
    if max(len(chosen.ids), len(rejected.ids)) > limits.length:
        return "answer_too_long"
    # A normaliser can remove a whole text, such as zero-width characters; the answer is then EOS alone.
    only_eos = min(len(example.ids) - example.prompt for example in (chosen, rejected)) == 1
    return "empty" if only_eos else ""


def make_pair(chosen: Example, rejected: Example, prompter: Prompter) -> PreferencePair:
    """Combine two examples of one prompt into a pair. The assertions hold for all examples of a `Prompter`."""
    prompt = chosen.ids[: chosen.prompt]
    assert prompt == rejected.ids[: rejected.prompt], "the two answers of a pair must follow the same prompt ids (B52)"
    for example in (chosen, rejected):
        assert example.ids[0] == prompter.bos, "a prompt must start with BOS (B57)"
        # Some models use one token for BOS and EOS, so the last token is not counted.
        assert example.ids[:-1].count(prompter.bos) == 1, "a sequence must have one BOS (B57)"
        assert example.ids[-1] == prompter.eos, "an answer must end with EOS"
    first, second = (np.array(example.ids[example.prompt :], np.int32) for example in (chosen, rejected))
    return PreferencePair(np.array(prompt, np.int32), first, second)

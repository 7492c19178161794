"""The two prompt formats, as text and as token ids, for training, preference building and decoding alike.

The only place that adds special tokens to a prompt; not a chat-template engine. Sources of the formats: the released ALMA code
(`get_prompt`) and the X-ALMA README. X-ALMA wraps ALMA's prompt as the user turn of a Llama-2 chat.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from alma_pipeline.errors import UserError
from alma_pipeline.schema import Language

BATCH = 2000
"""Texts per call of the tokenizer. Bounds memory; results do not depend on it."""


@dataclass(frozen=True)
class Example:
    """One training example: BOS, prompt, answer, EOS."""

    ids: list[int]
    prompt: int
    """Length of the prompt in tokens, BOS included: decoding starts from exactly `ids[:prompt]`."""
    merged: bool
    """Whether the tokenizer would have joined the end of the prompt and the start of the answer into one token."""


def one_line(text: str) -> tuple[str, bool]:
    """The sentence with line breaks replaced by spaces, and whether it had any. A break would end the prompt's line (B45)."""
    lines = [line.strip() for line in text.strip().splitlines()]
    return " ".join(line for line in lines if line), len(lines) > 1


def alma_prompt(languages: Mapping[str, Language], direction: str, source: str, shots: Sequence[tuple[str, str]] = ()) -> str:
    """ALMA's wording; ends in a colon without a space. `num_shots`: (source, target) examples, shown before in the same form."""
    from_name, to_name = (languages[code].name for code in direction.split("-"))
    shown = "".join(f"{from_name}: {one}\n{to_name}: {other}\n" for one, other in shots)
    return f"Translate this from {from_name} to {to_name}:\n{shown}{from_name}: {source}\n{to_name}:"


class Prompter:
    """Renders and tokenises the prompts of one format for a set of languages."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        form: str,
        languages: Mapping[str, Language],
        shots: Mapping[str, Sequence[tuple[str, str]]] | None = None,
    ) -> None:
        """`num_shots`: (source, target) examples by direction, shown in every prompt. Raises UserError for an unknown form."""
        if form not in ("alma", "x_alma"):
            raise UserError(f"prompt={form}: expected alma or x_alma")
        self.tokenizer, self.form, self.languages, self.shots = tokenizer, form, languages, shots or {}
        self.bos, self.eos = _special(tokenizer)

    def text(self, direction: str, source: str) -> str:
        """The prompt as text, without BOS. `direction` is `de-en`; the sentence must be one line."""
        prompt = alma_prompt(self.languages, direction, source, self.shots.get(direction, ()))
        return prompt if self.form == "alma" else f"[INST] {prompt} [/INST]"

    def answer(self, target: str) -> str:
        """The text after the prompt, without EOS. ALMA adds no space; the Llama-2 chat template adds one on each side."""
        return target if self.form == "alma" else f" {target} "

    def prompts(self, rows: Sequence[tuple[str, str]]) -> list[list[int]]:
        """Token ids of (direction, source) prompts for decoding, with exactly one BOS and no EOS."""
        texts = [self.text(direction, source) for direction, source in rows]
        return [[self.bos, *ids] for ids in self._encode(texts)[0]]

    def within(self, rows: Sequence[tuple[str, str]], longest: int) -> tuple[list[list[int]], set[int]]:
        """Token ids of the prompts, none longer than `longest`, and the rows whose source was truncated.

        Line breaks become spaces. Truncates the source, between characters, so that the prompt keeps its end; the released
        code truncates the prompt and so loses the words that ask for the translation. Raises UserError if the prompt is too
        long even with an empty source.
        """
        rows = [(direction, one_line(source)[0]) for direction, source in rows]
        prompts, cut = self.prompts(rows), set[int]()
        for i, (direction, source) in enumerate(rows):
            if len(prompts[i]) > longest:
                prompts[i] = self._shortened(direction, source, longest)
                cut.add(i)
        return prompts, cut

    def _shortened(self, direction: str, source: str, longest: int) -> list[int]:
        """The prompt with the longest prefix of the source that fits, found by bisection."""
        fits, too_many = 0, len(source)
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            ids = self.prompts([(direction, source[:middle].rstrip())])[0]
            fits, too_many = (middle, too_many) if len(ids) <= longest else (fits, middle)
        ids = self.prompts([(direction, source[:fits].rstrip())])[0]
        if not fits or len(ids) > longest:
            raise UserError(f"max_source={longest} tokens, but the prompt alone has {len(ids)}; raise max_source")
        return ids

    def examples(self, rows: Sequence[tuple[str, str, str]]) -> list[Example]:
        """(direction, source, target) rows as training examples, in order.

        Tokenises prompt and answer together and splits them by offsets (B52). If a token straddles the boundary, the prompt
        keeps the ids that decoding uses and the answer is tokenised alone.
        """
        result: list[Example] = []
        for start in range(0, len(rows), BATCH):
            result += self._examples(rows[start : start + BATCH])
        return result

    def _examples(self, rows: Sequence[tuple[str, str, str]]) -> Iterator[Example]:
        prompts = [self.text(direction, source) for direction, source, _ in rows]
        answers = [self.answer(target) for _, _, target in rows]
        alone, _ = self._encode(prompts)
        joint, offsets = self._encode([prompt + answer for prompt, answer in zip(prompts, answers, strict=True)])
        for i, text in enumerate(prompts):
            ids = answer_ids(alone[i], joint[i], offsets[i], len(text))
            merged = ids is None
            if ids is None:
                ids = self._encode([answers[i]])[0][0]
            yield Example([self.bos, *alone[i], *ids, self.eos], 1 + len(alone[i]), merged)

    def _encode(self, texts: list[str]) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
        """Ids and character offsets. Text such as `</s>` in a sentence must not become a special token."""
        result = self.tokenizer(texts, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
        return result["input_ids"], result["offset_mapping"]


def answer_ids(prompt: list[int], joint: list[int], offsets: list[tuple[int, int]], characters: int) -> list[int] | None:
    """The answer's part of `joint`; None if the first `characters` characters do not end at a token boundary."""
    count = sum(end <= characters for _, end in offsets)
    return joint[count:] if joint[:count] == prompt else None


def _special(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """BOS and EOS ids. Raises UserError if the tokenizer lacks one."""
    if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
        raise UserError(
            f"the tokenizer has bos_token={tokenizer.bos_token!r} and eos_token={tokenizer.eos_token!r}; "
            "both prompt formats need both tokens. Use a model that defines them."
        )
    return int(tokenizer.bos_token_id), int(tokenizer.eos_token_id)

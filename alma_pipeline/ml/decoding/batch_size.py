"""How many sentences share a decoding cache of a given number of tokens.

A sentence holds its prompt once, the tokens of its living hypotheses, and free columns for the next steps; every row has as
many columns as the fullest one. How long an output will be is unknown: sentences are admitted by an expectation, and the
newest make room, to start again later, where it was too low. Decides numbers; knows no tensors.
"""

from dataclasses import dataclass

from alma_pipeline.ml.decoding.search import Beams, DecodeLimits, Sampling

GROW_STEPS = 8
"""Steps for which the cache has free columns after it is compacted."""


@dataclass(frozen=True)
class BatchSize:
    """The number of sentences, and the rows and columns of their cache: never more of them than the token budget allows.

    A single sentence may exceed the budget.
    """

    settings: Beams | Sampling
    limits: DecodeLimits
    row_step: int = 1
    """The cache has a multiple of this many rows, or below it a power of 2."""
    column_step: int = 8

    def columns(self, held: int) -> int:
        """Columns of a cache whose fullest row holds `held` tokens, free ones included."""
        wanted = held + GROW_STEPS * self.settings.width
        return -(-wanted // self.column_step) * self.column_step

    def rows(self, sentences: int) -> int:
        """Rows of a cache for this many sentences."""
        if sentences >= self.row_step:
            return -(-sentences // self.row_step) * self.row_step
        return 1 << (sentences - 1).bit_length()

    def most(self, prompt: int) -> int:
        """Tokens that a prompt of this length takes at most."""
        return self.columns(prompt + self.settings.width * self.limits.max_new_tokens)

    def staying(self, held: list[int]) -> int:
        """How many of the oldest rows, which hold these numbers of tokens, fit; at least one if there is any."""
        fit = [n for n in range(1, len(held) + 1) if n <= self._fitting(max(held[:n]))]
        return max(fit, default=min(1, len(held)))

    def joining(self, held: list[int], longest: int, waiting: int, steps: int = 0) -> int:
        """How many of the waiting prompts, of at most `longest` tokens, join rows that hold `held`; one if there are no rows.

        `steps`: the most that a sentence has needed until now.
        """
        room = self._fitting(max([*held, self._expected(longest, steps)])) - len(held)
        return min(waiting, max(room, 0 if held else 1))

    def _fitting(self, held: int) -> int:
        """Largest number of sentences that fit if the fullest holds `held` tokens; it may be 0."""
        rows = self.limits.decode_tokens // self.columns(held)
        return max((n for n in range(max(0, rows - self.row_step), rows + 1) if not n or self.rows(n) <= rows), default=0)

    def _expected(self, prompt: int, steps: int) -> int:
        """Tokens that a sentence comes to hold: an output as long as its prompt, or twice the longest until now (our choice).

        Beams share most of their outputs, samples nothing.
        """
        separate = self.settings.width if isinstance(self.settings, Sampling) else 1
        return prompt + separate * min(prompt, self.limits.max_new_tokens, 2 * steps or prompt)

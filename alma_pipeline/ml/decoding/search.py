"""Beam search and seeded sampling over a batch of prompts, as tensor operations: logits in, next tokens out.

Independent of models and caches. Shapes: S active prompts, w hypotheses each (beams or samples), V vocabulary, T the
maximum number of output tokens.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

NEG_INF = -1e9
"""A score below every real one; the value that Hugging Face's beam search uses."""
TOPK_START = 256
"""Number of most likely pieces to try for the nucleus before the whole vocabulary is sorted."""
BLOCK = 256
"""Pieces per block in `fast_topk`."""
Results = dict[int, list[list[int]]]
"""Outputs by prompt index, each a list of token ids."""
Finish = Callable[[Results], None]
"""Called once with the outputs of each prompt, as prompts finish."""


@dataclass(frozen=True, kw_only=True)
class DecodeLimits:
    """The maximum output length, the token budget of a batch, and the special tokens."""

    max_new_tokens: int
    decode_tokens: int
    """Tokens that the key-value cache of a batch may hold (`batch_size`; `generate` reserves room for whole outputs). Never
    changes a result."""
    eos: int
    """The tokenizer's end token."""
    pad: int
    other_ends: tuple[int, ...] = ()
    """Further tokens that end an output: chat models have several."""

    @property
    def ends(self) -> list[int]:
        """All tokens that end an output."""
        return [self.eos, *self.other_ends]

    def prompts_at_once(self, longest: int, width: int) -> int:
        """Number of prompts of at most `longest` tokens that fit the budget; at least one."""
        return max(1, self.decode_tokens // ((longest + self.max_new_tokens) * width))


@dataclass(frozen=True, kw_only=True)
class Beams:
    """Settings of a beam search; one beam is greedy decoding."""

    width: int


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Settings of nucleus sampling (arXiv 1904.09751)."""

    width: int
    """Outputs per prompt."""
    temperature: float
    top_p: float
    """Probability mass that the smallest set of most likely tokens must reach; 1: all tokens."""
    seed: int


class BeamSearch:
    """Beam search with length penalty 1, equal to Hugging Face's with `early_stopping=False`.

    A prompt is done as soon as its best running beam cannot beat the worst of `width` finished hypotheses at the current
    length, or cannot beat the best one at any length. The second rule only stops sooner: the best hypothesis stays the same.
    """

    def __init__(self, settings: Beams, limits: DecodeLimits, device: torch.device) -> None:
        self.width, self.limits, self.device = settings.width, limits, device
        self.ends = torch.tensor(limits.ends, device=device)
        self.proposed = max(2, 1 + len(limits.ends)) * self.width
        self.tensors = self._fresh(0)

    def _fresh(self, count: int) -> dict[str, Tensor]:
        """State of `count` new prompts; the first dimension of every tensor is the prompt."""
        shape, longest = (count, self.width), self.limits.max_new_tokens
        scores = torch.full(shape, NEG_INF, device=self.device)
        scores[:, 0] = 0  # all beams start equal, so only the first may propose candidates
        return {
            "length": torch.zeros(count, dtype=torch.long, device=self.device),
            "scores": scores,
            "tokens": torch.zeros(*shape, longest, dtype=torch.long, device=self.device),
            "finished": torch.full(shape, NEG_INF, device=self.device),
            "best": torch.full((count,), NEG_INF, device=self.device),
            "best_tokens": torch.zeros(count, longest, dtype=torch.long, device=self.device),
            "best_length": torch.zeros(count, dtype=torch.long, device=self.device),
        }

    def add(self, indices: list[int]) -> None:
        """Append new prompts to the active ones."""
        fresh = self._fresh(len(indices))
        self.tensors = {name: torch.cat([value, fresh[name]]) for name, value in self.tensors.items()}

    def keep(self, rows: list[int]) -> None:
        """Keep only these rows."""
        self.tensors = {name: value[rows] for name, value in self.tensors.items()}

    def choose(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step: logits [S, w, V] -> parent beam [S, w] and next token [S, w] of each hypothesis, and done [S].

        Rows that were done before take part, without effect on their outputs.
        """
        now, rank = self.tensors, torch.arange(self.proposed, device=self.device)
        scores, beams, tokens = self._candidates(logits)
        # Finished rows stay in the batch until it is compacted, so their length must stay in bounds.
        now["length"] = (now["length"] + 1).clamp(max=self.limits.max_new_tokens)
        length = now["length"]
        # Write the tokens of all candidates; some end here, w of the others run on.
        histories = now["tokens"].gather(1, beams[..., None].expand(-1, -1, now["tokens"].shape[2]))
        histories.scatter_(2, (length - 1)[:, None, None].expand(-1, histories.shape[1], 1), tokens[..., None])
        # An ended candidate counts only if it ranks among the best w, as in Hugging Face's search.
        ends = torch.isin(tokens, self.ends) | (length == self.limits.max_new_tokens)[:, None]
        self._finish(torch.where(ends & (rank < self.width), scores / length[:, None], NEG_INF), histories)
        # Of the open ones, the best w become the next beams.
        running, order = torch.where(ends, scores + NEG_INF, scores).topk(self.width)
        now["scores"] = running
        now["tokens"] = histories.gather(1, order[..., None].expand(-1, -1, histories.shape[2]))
        return beams.gather(1, order), tokens.gather(1, order), self._done(running[:, 0])

    def _candidates(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best continuations, best first: total log-probabilities, beams and tokens, each [S, c].

        c is twice the width, since up to w of them may end with EOS, and one width more for each further end token.
        """
        count = min(self.proposed, logits.shape[-1])
        values, tokens = fast_topk(logits.float().log_softmax(-1), count)
        values = values + self.tensors["scores"][..., None]
        scores, flat = values.flatten(1).topk(self.proposed)
        return scores, flat // count, tokens.flatten(1).gather(1, flat)

    def _finish(self, scores: Tensor, histories: Tensor) -> None:
        """Record newly finished hypotheses. scores: [S, c] mean log-probabilities, NEG_INF if not finished."""
        now = self.tensors
        now["finished"] = torch.cat([now["finished"], scores], 1).topk(self.width)[0]
        score, place = scores.max(1)
        better = score > now["best"]
        now["best"] = torch.where(better, score, now["best"])
        found = histories[torch.arange(len(place), device=self.device), place]
        now["best_tokens"] = torch.where(better[:, None], found, now["best_tokens"])
        now["best_length"] = torch.where(better, now["length"], now["best_length"])

    def _done(self, running: Tensor) -> Tensor:
        """Whether each prompt's search is over [S]. running: [S] total log-probability of the best open beam."""
        now, longest = self.tensors, self.limits.max_new_tokens
        settled = running / now["length"] <= now["finished"][:, -1]
        return settled | (running / longest <= now["best"]) | (now["length"] == longest)

    def outputs(self, row: int) -> list[list[int]]:
        """The best hypothesis of a finished prompt, without EOS."""
        length = int(self.tensors["best_length"][row])
        return [trim(self.tensors["best_tokens"][row, :length].tolist(), self.limits.ends)]


class SampleSearch:
    """Independent samples by inversion: the token at which a uniform number falls in the cumulative distribution."""

    def __init__(self, settings: Sampling, limits: DecodeLimits, device: torch.device) -> None:
        self.settings, self.width, self.limits, self.device = settings, settings.width, limits, device
        self.ends = torch.tensor(limits.ends, device=device)
        self.tensors = self._fresh([])

    def _fresh(self, indices: list[int]) -> dict[str, Tensor]:
        """State of new prompts; the first dimension of every tensor is the prompt."""
        shape = (len(indices), self.width, self.limits.max_new_tokens)
        drawn = [noise(self.settings.seed, index, shape[1:]) for index in indices]
        return {
            "length": torch.zeros(len(indices), dtype=torch.long, device=self.device),
            "tokens": torch.zeros(shape, dtype=torch.long, device=self.device),
            "ended": torch.zeros(shape[:2], dtype=torch.bool, device=self.device),
            "noise": torch.from_numpy(np.stack(drawn) if drawn else np.zeros(shape, np.float32)).to(self.device),
        }

    def add(self, indices: list[int]) -> None:
        """Append new prompts to the active ones; their indices determine their noise."""
        fresh = self._fresh(indices)
        self.tensors = {name: torch.cat([value, fresh[name]]) for name, value in self.tensors.items()}

    def keep(self, rows: list[int]) -> None:
        """Keep only these rows."""
        self.tensors = {name: value[rows] for name, value in self.tensors.items()}

    def choose(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step: logits [S, w, V] -> parents (each sample itself) [S, w], next tokens [S, w], and done [S]."""
        now, (count, width, longest) = self.tensors, self.tensors["tokens"].shape
        place = now["length"].clamp(max=longest - 1)[:, None, None].expand(-1, width, 1)
        tokens = invert(logits, now["noise"].gather(2, place)[..., 0], self.settings)
        tokens = torch.where(now["ended"], self.limits.eos, tokens)
        now["tokens"].scatter_(2, place, tokens[..., None])
        now["ended"] = now["ended"] | torch.isin(tokens, self.ends)
        now["length"] = (now["length"] + 1).clamp(max=longest)
        done = now["ended"].all(1) | (now["length"] == longest)
        return torch.arange(width, device=self.device).expand(count, -1), tokens, done

    def outputs(self, row: int) -> list[list[int]]:
        """The samples of a finished prompt, without EOS."""
        length = int(self.tensors["length"][row])
        return [trim(tokens[:length], self.limits.ends) for tokens in self.tensors["tokens"][row].tolist()]


def trim(tokens: list[int], ends: Sequence[int]) -> list[int]:
    """The tokens before the first end token."""
    return list(itertools.takewhile(lambda token: token not in ends, tokens))


def noise(seed: int, index: int, shape: tuple[int, ...]) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    """Uniform numbers in [0, 1) that depend on the seed and the prompt's index only."""
    return np.random.default_rng([seed, index]).random(shape, dtype=np.float32)


def invert(logits: Tensor, noise: Tensor, settings: Sampling) -> Tensor:
    """The token whose interval of the nucleus contains the noise, intervals in order of id. [..., V], [...] -> [...]."""
    probabilities, pieces = _nucleus((logits.float() / settings.temperature).softmax(-1), settings.top_p)
    heights = probabilities.cumsum(-1)
    # The first piece whose cumulative probability exceeds the noise; pieces outside the nucleus have none and are never first.
    place = (heights <= noise[..., None] * heights[..., -1:]).sum(-1, keepdim=True)
    return pieces.gather(-1, place.clamp(max=heights.shape[-1] - 1))[..., 0]


def fast_topk(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Like `logits.topk(count)`, up to the choice among equal values. [..., V] -> values and ids, both [..., count].

    The `count` largest values are in the `count` blocks with the largest maxima, or in the rest beyond whole blocks. Finding
    maxima is much cheaper than sorting: 10 times for 10 pieces of 49,152 on one x86 core.
    """
    vocabulary = logits.shape[-1]
    blocks = vocabulary // BLOCK
    # With few blocks there is nothing to gain.
    if blocks < 4 * count:
        return logits.topk(count)
    body = logits[..., : blocks * BLOCK].reshape(*logits.shape[:-1], blocks, BLOCK)
    # Take the best blocks whole, and the rest, then search only those.
    best = body.amax(-1).topk(count, sorted=False)[1]  # [..., count]
    close = body.gather(-2, best[..., None].expand(*best.shape, BLOCK)).flatten(-2)
    ids = (best[..., None] * BLOCK + torch.arange(BLOCK, device=logits.device)).flatten(-2)
    rest = torch.arange(blocks * BLOCK, vocabulary, device=logits.device).expand(*ids.shape[:-1], -1)
    values, places = torch.cat([close, logits[..., blocks * BLOCK :]], -1).topk(count)
    return values, torch.cat([ids, rest], -1).gather(-1, places)


def _nucleus(probabilities: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """Probabilities in order of id, 0 outside the nucleus, and the ids, [..., n] both; n is rarely the whole vocabulary."""
    if top_p >= 1:
        pieces = torch.arange(probabilities.shape[-1], device=probabilities.device)
        return probabilities, pieces.expand_as(probabilities)
    count = min(TOPK_START, probabilities.shape[-1])
    values, pieces = probabilities.topk(count)
    if bool((values.sum(-1) < top_p).any()):
        values, pieces = probabilities.sort(-1, descending=True)
    inside = values * (values.cumsum(-1) - values < top_p)
    pieces, order = pieces.sort(-1)
    return inside.gather(-1, order), pieces

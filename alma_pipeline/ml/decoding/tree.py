"""Fast decoding: the hypotheses of a prompt share one key-value cache as branches of a tree.

A beam search usually copies each beam's cache at every step. Here a token's keys and values stay where they were
written, once for all beams, and a mask marks those from which a beam descends; reordering beams is a gather of booleans.
A prompt is read once, not once per beam. Finished prompts leave and waiting ones take their place, so the batch stays
full. Not for models that need more than a 4-D mask and position ids.

Shapes: S active prompts, w hypotheses each, L cache columns in use, V vocabulary.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from alma_pipeline.ml.decoding.batch_size import BatchSize
from alma_pipeline.ml.decoding.search import Beams, BeamSearch, DecodeLimits, Finish, SampleSearch, Sampling
from alma_pipeline.ml.decoding.steps import COLUMNS, ROWS, Capture, Steps
from alma_pipeline.ml.decoding.tree_attention import additive_mask, tree_attention
from alma_pipeline.ml.decoding.tree_layer import PromptReader, TreeLayer

TESTED_ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")
"""Architectures whose outputs the tests compare with Hugging Face `generate`."""
COMPACT_SHARE = 8
"""The cache is compacted once one in this many prompts is done; sooner would copy it too often."""
READ_TOKENS = 4096
"""Tokens of prompts that are read at a time, padding included, which bounds their activations (our choice)."""


def supports(model: PreTrainedModel) -> bool:
    """Whether this model is tested, and its attention takes a 4-D mask over a cache that keeps every token."""
    layers = DynamicCache(config=model.config).layers
    whole = bool(layers) and all(type(layer) is DynamicLayer for layer in layers)
    return whole and model.config.model_type in TESTED_ARCHITECTURES and model.config._attn_implementation in ("eager", "sdpa")


def decode(
    model: PreTrainedModel,
    prompts: dict[int, list[int]],
    settings: Beams | Sampling,
    limits: DecodeLimits,
    finish: Finish,
    on_rows: Callable[[list[int]], None],
    capture: Capture | None = None,
) -> None:
    """Pass the outputs of each prompt to `finish`, by index: one for a beam search, `width` for sampling.

    With `capture` steps are recorded and replayed; not for models whose forward pass depends on `on_rows`.
    Raises WrongReplayError if a replay is wrong.
    """
    waiting = sorted(prompts, key=lambda index: (len(prompts[index]), -index))  # popped from the end: longest first
    search = _search(settings, limits, model.device)
    size = BatchSize(settings, limits, ROWS, COLUMNS) if capture else BatchSize(settings, limits)
    most = min(limits.decode_tokens, sum(size.most(len(prompt)) for prompt in prompts.values()))
    cache = TreeCache(model, settings.width, capture, most if capture else 0)
    rows, over, ages, steps = list[int](), list[bool](), list[int](), 0
    while waiting or not all(over):
        # Drop finished prompts and fill the batch, when enough are done or the cache is full.
        if cache.full or sum(over) * COMPACT_SHARE >= len(rows):
            open_rows = [row for row, is_over in enumerate(over) if not is_over]
            steps = max([steps, *(ages[row] for row in open_rows)])
            stay, rows = _admit(prompts, waiting, open_rows, rows, cache, size, steps)
            _read(prompts, rows[len(stay) :], len(stay), cache, on_rows)
            search.keep(stay)
            search.add(rows[len(stay) :])
            over, ages = [False] * len(rows), [ages[row] for row in stay] + [0] * (len(rows) - len(stay))
        # One step for all active prompts, finished ones included.
        on_rows(rows)
        parents, tokens, done = search.choose(cache.step())
        cache.follow(parents, tokens)
        ages = [age + 1 for age in ages]
        # Report each prompt once; it may stay in the batch for some steps.
        ended = [row for row, is_over in enumerate(done.tolist()) if is_over and not over[row]]
        if ended:
            finish({rows[row]: search.outputs(row) for row in ended})
        over = [is_over or row in ended for row, is_over in enumerate(over)]


def _search(settings: Beams | Sampling, limits: DecodeLimits, device: torch.device) -> BeamSearch | SampleSearch:
    """The search for these settings, without prompts."""
    if isinstance(settings, Sampling):
        return SampleSearch(settings, limits, device)
    return BeamSearch(settings, limits, device)


def _admit(
    prompts: dict[int, list[int]],
    waiting: list[int],
    open_rows: list[int],
    rows: list[int],
    cache: "TreeCache",
    size: BatchSize,
    steps: int,
) -> tuple[list[int], list[int]]:
    """Change the cache: which of the open rows stay in it, and the prompts that it then holds. Takes prompts out of `waiting`.

    `steps`: the most that a sentence has needed until now.
    """
    held = cache.held(open_rows)
    # Where outputs grew longer than expected, the newest sentences make room and start again later.
    fit = size.staying(held)
    stay, held = open_rows[:fit], held[:fit]
    if fit < len(open_rows):
        waiting += [rows[row] for row in open_rows[fit:]]
        waiting.sort(key=lambda index: (len(prompts[index]), -index))
    count = size.joining(held, len(prompts[waiting[-1]]), len(waiting), steps) if waiting else 0
    fresh = [waiting.pop() for _ in range(count)]
    columns = size.columns(max([*held, *(len(prompts[index]) for index in fresh)]))
    cache.change(stay, [prompts[index] for index in fresh], size.rows(len(stay) + len(fresh)), columns)
    return stay, [rows[row] for row in stay] + fresh


def _read(
    prompts: dict[int, list[int]], fresh: list[int], first: int, cache: "TreeCache", on_rows: Callable[[list[int]], None]
) -> None:
    """Read prompts, longest first, into the rows of the cache from `first` on, `READ_TOKENS` at a time or one prompt."""
    while fresh:
        count = max(1, READ_TOKENS // len(prompts[fresh[0]]))
        on_rows(fresh[:count])
        cache.read([prompts[index] for index in fresh[:count]], first)
        fresh, first = fresh[count:], first + count


def _forward(model: PreTrainedModel, layers: list[TreeLayer], tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
    """One forward pass over the cache in `layers`; see `steps.Forward`."""
    with tree_attention(model):
        logits: Tensor = model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=Cache(layers=layers),
            use_cache=True,
        ).logits
    return logits


class TreeCache:
    """The shared cache of the active prompts, and each hypothesis' last token and ancestors."""

    def __init__(self, model: PreTrainedModel, width: int, capture: Capture | None, reserved: int) -> None:
        """`reserved`: tokens to allocate at once; more are allocated when they are needed."""
        self.model, self.width = model, width
        device, count = model.device, len(DynamicCache(config=model.config).layers)
        self.place = torch.arange(width, device=device)  # the columns that the next step writes
        self.own = torch.eye(width, dtype=torch.bool, device=device)
        self.layers = [TreeLayer(self.place) for _ in range(count)]
        # No method of this object: a cycle of references would keep its memory until Python collects garbage.
        self.steps = Steps(partial(_forward, model, self.layers), capture)
        self.rows = self.columns = self.used = 0
        self.reserved = reserved
        self.visible = torch.zeros(0, width, 0, dtype=torch.bool, device=device)  # [S, w, C] ancestors
        self.tokens = torch.zeros(0, width, dtype=torch.long, device=device)  # [S, w] last tokens, not in the cache yet
        self.positions = torch.zeros(0, dtype=torch.long, device=device)  # [S] of the last tokens

    @property
    def full(self) -> bool:
        """Whether the cache has no columns left for another step."""
        return self.used + self.width > self.columns

    def held(self, rows: list[int]) -> list[int]:
        """Columns of each of these rows from which a hypothesis descends."""
        counts: list[int] = self.visible[rows].any(1).sum(1).tolist()
        return counts

    def follow(self, parents: Tensor, tokens: Tensor) -> None:
        """Make each hypothesis a child of `parents` [S, w] with one more token, `tokens` [S, w]."""
        self.visible = self.visible.gather(1, parents[..., None].expand_as(self.visible))
        self.tokens = tokens

    def step(self) -> Tensor:
        """Run the model on each hypothesis' last token; returns the logits of the next one, [S, w, V]."""
        # The new token of each hypothesis takes a column that only it sees.
        self.visible[:, :, self.used : self.used + self.width] = self.own
        mask = additive_mask(self.visible, self.model.config, self.model.dtype)
        logits = self.steps(self.tokens, self.positions[:, None].expand_as(self.tokens), mask, self.rows)
        self.positions = self.positions + 1
        self.place += self.width
        self.used += self.width
        return logits

    def change(self, stay: list[int], prompts: list[list[int]], rows_in_all: int, columns: int) -> None:
        """Keep these rows, without columns that no hypothesis descends from, and add rows for prompts, which are read next.

        The cache then has `rows_in_all` rows, spare ones included, and `columns` columns.
        """
        # Find the columns to keep. Rows need different numbers of them, so shorter rows keep some dead ones.
        rows = torch.tensor(stay, dtype=torch.long, device=self.visible.device)
        live = self.visible[rows].any(1)
        count = int(live.sum(1).max()) if stay else 0
        order = live.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :count]  # [S', count]
        # Recorded steps stay valid as long as the memory does.
        self.rows, self.columns = rows_in_all, columns
        if self.rows * columns > self.reserved:
            self.reserved = self.rows * columns
            self.steps.forget()
        for layer in self.layers:
            layer.change(rows, order, (self.rows, columns), self.reserved)
        self.used = max([count, *(len(prompt) - 1 for prompt in prompts)])
        self.place.copy_(torch.arange(self.used, self.used + self.width, device=rows.device))
        # Extend the state of each hypothesis, rows in the same order: kept ones, then new ones.
        self.visible = self._visible(rows, order, prompts)
        last = torch.tensor([prompt[-1] for prompt in prompts], dtype=torch.long, device=rows.device)
        self.tokens = torch.cat([self.tokens[rows], last[:, None].expand(-1, self.width)])
        places = torch.tensor([len(prompt) - 1 for prompt in prompts], dtype=torch.long, device=rows.device)
        self.positions = torch.cat([self.positions[rows], places])

    def read(self, prompts: list[list[int]], first: int) -> None:
        """Read all tokens but the last of prompts into the rows from `first` on.

        Padding is on the right, where no token of the prompt attends, so no mask is needed.
        """
        longest = max(2, *(len(prompt) for prompt in prompts)) - 1
        ids = [(prompt[:-1] + [0] * longest)[:longest] for prompt in prompts]
        readers = Cache(layers=[PromptReader(layer, first) for layer in self.layers])
        inputs = torch.tensor(ids, device=self.visible.device)
        self.model(input_ids=inputs, past_key_values=readers, use_cache=True, logits_to_keep=1)

    def _visible(self, rows: Tensor, order: Tensor, prompts: list[list[int]]) -> Tensor:
        """[S', w, C] ancestors: gathered for kept rows, all of the prompt for new ones."""
        result = self.visible.new_zeros(len(rows) + len(prompts), self.width, self.columns)
        kept = self.visible[rows].gather(2, order[:, None].expand(-1, self.width, -1))
        result[: len(rows), :, : order.shape[1]] = kept
        for row, prompt in enumerate(prompts, start=len(rows)):
            result[row, :, : len(prompt) - 1] = True
        return result

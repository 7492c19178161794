"""Fast decoding: the hypotheses of a prompt share one key-value cache as branches of a tree.

A beam search usually copies each beam's cache at every step. Here a token's keys and values stay where they were
written, once for all beams, and a mask marks those from which a beam descends; reordering beams is a gather of booleans.
A prompt is read once, not once per beam. Finished prompts leave and waiting ones take their place, so the batch stays
full. Not for models that need more than a 4-D mask and position ids.

Shapes: S active prompts, w hypotheses each, L cache columns in use, V vocabulary.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from alma_pipeline.ml.decoding.search import Beams, BeamSearch, DecodeLimits, Finish, SampleSearch, Sampling

TESTED_ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")
"""Architectures whose outputs the tests compare with Hugging Face `generate`."""
GROW_STEPS = 16
"""Steps for which the cache has free columns after it is compacted."""
COMPACT_SHARE = 8
"""The cache is compacted once one in this many prompts is done; sooner would copy it too often."""
NAME = "alma_tree"
"""Name under which transformers knows the attention function."""


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
) -> None:
    """Pass the outputs of each prompt to `finish`, by index: one for a beam search, `width` for sampling."""
    waiting = sorted(prompts, key=lambda index: (len(prompts[index]), -index))  # popped from the end: longest first
    search = _search(settings, limits, model.device)
    cache, rows, over = TreeCache(model, settings.width), list[int](), list[bool]()
    while waiting or not all(over):
        # Drop finished prompts and fill the batch, when enough are done or the cache is full.
        if cache.full or sum(over) * COMPACT_SHARE >= len(rows):
            stay = [row for row, is_over in enumerate(over) if not is_over]
            rows = [rows[row] for row in stay]
            fresh = _next(prompts, waiting, rows, settings.width, limits)
            on_rows(fresh)
            cache.change(stay, [prompts[index] for index in fresh])
            search.keep(stay)
            search.add(fresh)
            rows, over = rows + fresh, [False] * (len(rows) + len(fresh))
        # One step for all active prompts, finished ones included.
        on_rows(rows)
        parents, tokens, done = search.choose(cache.step())
        cache.follow(parents, tokens)
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


def _next(prompts: dict[int, list[int]], waiting: list[int], working: list[int], width: int, limits: DecodeLimits) -> list[int]:
    """Prompts to start, removed from `waiting`: as many as the token budget allows beside the active ones."""
    longest = max(len(prompts[index]) for index in [*working, *waiting[-1:]])
    room = limits.prompts_at_once(longest, width) - len(working)
    return [waiting.pop() for _ in range(min(room, len(waiting)))]


class TreeCache:
    """The shared cache of the active prompts, and each hypothesis' last token and ancestors."""

    def __init__(self, model: PreTrainedModel, width: int) -> None:
        self.model, self.width = model, width
        self.layers: list[_Layer] = []
        self.visible = torch.zeros(0, width, 0, dtype=torch.bool, device=model.device)  # [S, w, L] ancestors
        self.tokens = torch.zeros(0, width, dtype=torch.long, device=model.device)  # [S, w] last tokens, not in the cache yet
        self.positions = torch.zeros(0, dtype=torch.long, device=model.device)  # [S] of the last tokens

    @property
    def full(self) -> bool:
        """Whether the cache has no columns left for another step."""
        return not self.layers or self.layers[0].used + self.width > self.layers[0].room

    def follow(self, parents: Tensor, tokens: Tensor) -> None:
        """Make each hypothesis a child of `parents` [S, w] with one more token, `tokens` [S, w]."""
        self.visible = self.visible.gather(1, parents[..., None].expand_as(self.visible))
        self.tokens = tokens

    def step(self) -> Tensor:
        """Run the model on each hypothesis' last token; returns the logits of the next one, [S, w, V]."""
        # The new token of each hypothesis takes a column that only it sees.
        own = torch.eye(self.width, dtype=torch.bool, device=self.visible.device).expand(len(self.tokens), -1, -1)
        self.visible = torch.cat([self.visible, own], 2)
        with tree_attention(self.model):
            logits: Tensor = self.model(
                input_ids=self.tokens,
                attention_mask=additive_mask(self.visible, self.model.config, self.model.dtype),
                position_ids=self.positions[:, None].expand_as(self.tokens),
                past_key_values=Cache(layers=self.layers),
                use_cache=True,
            ).logits
        self.positions = self.positions + 1
        return logits

    def change(self, stay: list[int], prompts: list[list[int]]) -> None:
        """Keep these rows, without columns that no hypothesis descends from, and start these prompts."""
        # Find the columns to keep. Rows need different numbers of them, so shorter rows keep some dead ones.
        rows = torch.tensor(stay, dtype=torch.long, device=self.visible.device)
        live = self.visible[rows].any(1)
        count = int(live.sum(1).max()) if stay else 0
        columns = live.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :count]  # [S', count]
        # Read the new prompts and copy both parts into buffers with free columns.
        read = self._read(prompts) if prompts else []
        used = max(count, read[0][0].shape[2] if read else 0)
        self.layers = self.layers or [_Layer() for _ in read]
        for i, layer in enumerate(self.layers):
            layer.change(rows, columns, read[i] if read else None, used, used + GROW_STEPS * self.width)
        # Extend the state of each hypothesis, rows in the same order: kept ones, then new ones.
        self.visible = self._visible(rows, columns, prompts, used)
        last = torch.tensor([prompt[-1] for prompt in prompts], dtype=torch.long, device=rows.device)
        self.tokens = torch.cat([self.tokens[rows], last[:, None].expand(-1, self.width)])
        places = torch.tensor([len(prompt) - 1 for prompt in prompts], dtype=torch.long, device=rows.device)
        self.positions = torch.cat([self.positions[rows], places])

    def _read(self, prompts: list[list[int]]) -> list[tuple[Tensor, Tensor]]:
        """Keys and values [prompts, heads, longest, size] of all tokens but the last, for each layer.

        Padding is on the right, where no token of the prompt attends, so no mask is needed.
        """
        longest = max(2, *(len(prompt) for prompt in prompts)) - 1
        ids = [(prompt[:-1] + [0] * longest)[:longest] for prompt in prompts]
        dynamic = DynamicCache(config=self.model.config)
        inputs = torch.tensor(ids, device=self.visible.device)
        self.model(input_ids=inputs, past_key_values=dynamic, use_cache=True, logits_to_keep=1)
        return [(layer.keys, layer.values) for layer in dynamic.layers]

    def _visible(self, rows: Tensor, columns: Tensor, prompts: list[list[int]], used: int) -> Tensor:
        """[S', w, used] ancestors: gathered for kept rows, all of the prompt for new ones."""
        result = self.visible.new_zeros(len(rows) + len(prompts), self.width, used)
        kept = self.visible[rows].gather(2, columns[:, None].expand(-1, self.width, -1))
        result[: len(rows), :, : columns.shape[1]] = kept
        for row, prompt in enumerate(prompts, start=len(rows)):
            result[row, :, : len(prompt) - 1] = True
        return result


class _Layer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values [S, heads, room, size], with free columns so that a step writes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.keys = self.values = torch.empty(0, 0, 0, 0)
        self.used = 0
        self.is_initialized = True

    @property
    def room(self) -> int:
        """Number of columns, free ones included."""
        return int(self.keys.shape[2])

    def get_seq_length(self) -> int:
        """Number of columns in use."""
        return self.used

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        """Write new columns [S, heads, w, size]; returns all columns in use."""
        start, self.used = self.used, self.used + key_states.shape[2]
        self.keys[:, :, start : self.used] = key_states
        self.values[:, :, start : self.used] = value_states
        return self.keys[:, :, : self.used], self.values[:, :, : self.used]

    def change(self, rows: Tensor, columns: Tensor, read: tuple[Tensor, Tensor] | None, used: int, room: int) -> None:
        """Keep `columns` [S', L'] of `rows` [S'], append the rows of `read`, and leave free columns up to `room`."""
        self.keys = _moved(self.keys, rows, columns, read[0] if read else None, room)
        self.values = _moved(self.values, rows, columns, read[1] if read else None, room)
        self.used = used


def _moved(old: Tensor, rows: Tensor, columns: Tensor, read: Tensor | None, room: int) -> Tensor:
    """A new buffer [S' + read, heads, room, size]. Unused columns are 0: masked values must be finite."""
    like, count = old if read is None else read, len(rows)
    _, heads, _, size = like.shape
    new = like.new_zeros(count + (0 if read is None else len(read)), heads, room, size)
    if count:
        index = columns[:, None, :, None].expand(-1, heads, -1, size)
        new[:count, :, : columns.shape[1]] = old[rows].gather(2, index)
    if read is not None:
        new[count:, :, : read.shape[2]] = read
    return new


def additive_mask(visible: Tensor, config: PreTrainedConfig, dtype: torch.dtype) -> Tensor:
    """Additive attention mask [S, 1, g * w, L] from `visible` [S, w, L], each hypothesis' ancestors; g heads share a key head."""
    groups = config.num_attention_heads // config.num_key_value_heads
    added = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    added.masked_fill_(~visible, torch.finfo(dtype).min)
    return added.repeat(1, groups, 1)[:, None]


@contextmanager
def tree_attention(model: PreTrainedModel) -> Iterator[None]:
    """Within this context the model's attention takes the masks of this module, and no others."""
    AttentionInterface.register(NAME, _attention)
    kept = model.config._attn_implementation
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = kept


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    **others: object,
) -> tuple[Tensor, None]:
    """query [S, heads, w, size]; key, value [S, heads / g, L, size] -> [S, w, heads, size]. `others`: dropout, unused."""
    count, heads, width, size = query.shape
    packed = query.reshape(count, key.shape[1], heads // key.shape[1] * width, size)
    output = scaled_dot_product_attention(packed, key, value, attn_mask=attention_mask, scale=scaling)
    return output.reshape(count, heads, width, size).transpose(1, 2), None

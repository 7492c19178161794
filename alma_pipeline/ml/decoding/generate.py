"""Decode with Hugging Face `generate`: the reference, and the fallback for models that `tree` does not support.

Every setting that affects the output is set here; a model's own generation defaults (X-ALMA's sample) are ignored.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from alma_pipeline.ml.decoding.search import Beams, DecodeLimits, Finish, Sampling, invert, noise, trim


def batches(lengths: list[int], width: int, limits: DecodeLimits) -> list[list[int]]:
    """Positions in `lengths`, longest first, in batches within the token budget; a single prompt may exceed it."""
    order, result = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)), []
    while order:
        count = limits.prompts_at_once(lengths[order[0]], width)
        result.append(order[:count])
        order = order[count:]
    return result


def decode(
    model: PreTrainedModel,
    prompts: dict[int, list[int]],
    settings: Beams | Sampling,
    limits: DecodeLimits,
    finish: Finish,
    on_rows: Callable[[list[int]], None],
) -> None:
    """Pass the outputs of each prompt to `finish`, by index: one for a beam search, `width` for sampling."""
    indices = list(prompts)
    for batch in batches([len(prompts[index]) for index in indices], settings.width, limits):
        chosen = [indices[i] for i in batch]
        on_rows([index for index in chosen for _ in range(settings.width)])  # `generate` repeats prompts in place
        finish(dict(zip(chosen, _generate(model, chosen, prompts, settings, limits), strict=True)))


def _generate(
    model: PreTrainedModel,
    indices: list[int],
    prompts: dict[int, list[int]],
    settings: Beams | Sampling,
    limits: DecodeLimits,
) -> list[list[list[int]]]:
    """For each of `indices`, its outputs."""
    ids, mask = left_padded([prompts[index] for index in indices], limits.pad, model.device)
    processors = LogitsProcessorList()
    copies = 1
    # Samples are rows of their own, whose tokens a logits processor fixes.
    if isinstance(settings, Sampling):
        copies = settings.width
        ids, mask = ids.repeat_interleave(copies, 0), mask.repeat_interleave(copies, 0)
        processors.append(_Seeded(settings, indices, ids.shape[1], limits))
    config = _config(1 if isinstance(settings, Sampling) else settings.width, limits)
    # Left padding puts all outputs behind the same column.
    with _without_defaults(model):
        output = model.generate(input_ids=ids, attention_mask=mask, generation_config=config, logits_processor=processors)
    rows = [trim(row, limits.ends) for row in output[:, ids.shape[1] :].tolist()]
    return [rows[i : i + copies] for i in range(0, len(rows), copies)]


def left_padded(prompts: list[list[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Prompts padded on the left, and their attention mask; both [prompts, longest]."""
    longest = max(len(prompt) for prompt in prompts)
    ids = [[pad] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _config(num_beams: int, limits: DecodeLimits) -> GenerationConfig:
    """All settings of a beam search, or of greedy decoding with one beam."""
    return GenerationConfig(
        num_beams=num_beams,
        do_sample=False,
        length_penalty=1.0,
        early_stopping=False,
        num_return_sequences=1,
        max_new_tokens=limits.max_new_tokens,
        eos_token_id=limits.ends,
        pad_token_id=limits.pad,
        use_cache=True,
    )


@contextmanager
def _without_defaults(model: PreTrainedModel) -> Iterator[None]:
    """Within this context the model's generation config is empty: `generate` takes unset values from it."""
    kept = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = kept


class _Seeded(LogitsProcessor):  # type: ignore[misc]
    """Masks all tokens but the one that the prompt's noise selects, so that greedy decoding samples."""

    def __init__(self, settings: Sampling, indices: list[int], prompt_length: int, limits: DecodeLimits) -> None:
        shape = (settings.width, limits.max_new_tokens)
        drawn = [torch.from_numpy(noise(settings.seed, index, shape)) for index in indices]
        self.settings, self.start, self.noise = settings, prompt_length, torch.cat(drawn)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """[rows, vocabulary] scores: 0 for the selected token, -inf for all others."""
        step = input_ids.shape[1] - self.start
        tokens = invert(scores, self.noise[:, step].to(scores.device), self.settings)
        return torch.full_like(scores, -torch.inf).scatter(-1, tokens[:, None], 0.0)

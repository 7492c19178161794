"""Merge adapters into their base, and compare the two before anything uses the merged model (B15).

One matrix at a time, or a whole model in memory; which files the weights come from and go to is decided in `full_weights`.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from peft.tuners.lora import Embedding, LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alma_pipeline.errors import PipelineError
from alma_pipeline.job import Input
from alma_pipeline.ml.models.load import (
    DTYPES,
    cast_weights,
    check_base,
    load_adapter,
    load_base_model,
    load_full,
    peft_config,
    refuse_tied,
)

PROBE = (
    "Translate this from German to English:\nGerman: Am 12. Mai kostete das Haus 350.000 Euro.\nEnglish:",
    "Translate this from English to Chinese:\nEnglish: The committee will meet again in three weeks.\nChinese:",
    "Kočka spí, 猫が寝ている, كان الجو حارا, Ég heiti Anna, кошка спит.",
)
"""Texts on which an export compares logits, at every position: the wording of both prompts, and several scripts (our choice)."""
TOKENS = 8
"""Tokens on which every other merge compares logits, and vectors on which it compares a matrix: enough to find a wrong merge, few
enough for a 13B model on a CPU (our choice)."""
TOLERANCE = 1e-4
"""Largest allowed difference of logits, or of a matrix's outputs, relative to the largest of them; fp32 rounding stays far below
it (our choice)."""


def load_merged(checkpoint: Input, adapters: Sequence[str], precision: str) -> PreTrainedModel:
    """The full model of `checkpoint` with its first `adapters` merged in fp32, then cast once to `precision`, in this process's
    memory.

    Raises UserError for an adapter of another base, PipelineError if a merged model differs from the unmerged one.
    """
    if not adapters:
        return load_full(Path(checkpoint.base), DTYPES[precision])
    model = load_base_model(checkpoint)
    rows = int(model.config.get_text_config().vocab_size)
    probe = [torch.linspace(0, rows - 1, TOKENS).long()[None]]
    for number in range(len(adapters)):
        model = merge_adapter(with_adapter(model, checkpoint, number), probe)[0]
    return cast_weights(model, DTYPES[precision])


def with_adapter(model: PreTrainedModel, checkpoint: Input, number: int) -> PeftModel:
    """The model with adapter `number` of the checkpoint on top, not merged; `model` holds all adapters before it.

    Raises UserError if the adapter was trained on another base or on other adapters, or changes tied weights.
    """
    wrapped = with_new_adapter(model, checkpoint, number)
    load_adapter(wrapped, Path(checkpoint.adapters[number]))
    return wrapped


def with_new_adapter(model: PreTrainedModel, checkpoint: Input, number: int) -> PeftModel:
    """The model with an untrained LoRA of the shape of adapter `number`. Raises UserError as `with_adapter` does."""
    folder = Path(checkpoint.adapters[number])
    check_base(folder, checkpoint.base_key, checkpoint.adapter_keys[:number])
    wrapped = get_peft_model(model, peft_config(folder, dropout=0.0), autocast_adapter_dtype=False)
    refuse_tied(wrapped, str(folder))
    return wrapped


def merge_adapter(wrapped: PeftModel, probe: list[Tensor]) -> tuple[PreTrainedModel, float, float]:
    """Merge the adapter into the weights, W + (alpha / r) B A, in their precision, which should be fp32.

    Returns the merged model, the largest difference between its logits and those before, and the largest of these, all on
    `probe` ([1, tokens] ids per text). Raises PipelineError if the difference exceeds the tolerance, ValueError for a NaN.
    """
    before = _logits(wrapped.eval(), probe)
    merged: PreTrainedModel = wrapped.merge_and_unload(safe_merge=True)
    difference, largest = _distance(before, _logits(merged, probe)), max(float(logits.abs().max()) for logits in before)
    _check_difference("logit", difference, largest)
    return merged, difference, largest


@torch.no_grad()
def merge_matrix(layer: LoraLayer, weight: Tensor, name: str) -> Tensor:
    """The matrix `weight` (fp32) named `name` with the LoRA of `layer` merged as `merge_adapter` does; `layer` is used up.

    Raises PipelineError if its outputs on random inputs differ from the unmerged ones by more than the tolerance, ValueError for
    a NaN.
    """
    # The layer's own matrix and bias are on the meta device; a bias would change both outputs alike.
    inner = layer.float().get_base_layer()
    inner.weight = nn.Parameter(weight, requires_grad=False)
    if getattr(inner, "bias", None) is not None:
        inner.bias = nn.Parameter(torch.zeros(inner.bias.shape), requires_grad=False)
    if isinstance(layer, Embedding):
        probe = torch.linspace(0, weight.shape[0] - 1, TOKENS).long()
    else:
        probe = torch.randn(TOKENS, layer.in_features, generator=torch.Generator().manual_seed(0))
    before = layer(probe)
    layer.merge(safe_merge=True)
    _check_difference(f"{name} output", _distance([before], [layer(probe)]), float(before.abs().max()))
    merged: Tensor = inner.weight.data
    layer.to("meta")  # whoever holds the layer no longer holds the matrices
    return merged


def _check_difference(what: str, difference: float, largest: float) -> None:
    if not difference <= TOLERANCE * largest:  # true for NaN as well
        raise PipelineError(
            f"the merged model differs from base and adapter: the largest {what} difference is {difference:.3g}, expected "
            f"at most {TOLERANCE:g} x {largest:.3g}, the largest {what}; nothing uses the merged model"
        )


def merge_and_compare(
    checkpoint: Input, precision: str, tokenizer: PreTrainedTokenizerBase
) -> tuple[PreTrainedModel, dict[str, float]]:
    """The full model with all adapters merged in fp32 and cast once to `precision`, and the largest logit differences.

    `difference`: merged against base plus adapter in fp32, over all adapters; `cast_difference`: what the cast adds.
    Raises UserError for an adapter of another base, PipelineError if the difference exceeds the tolerance.
    """
    probe = [tokenizer(text, return_tensors="pt")["input_ids"] for text in PROBE]
    model = load_base_model(checkpoint).eval()
    # Merge one adapter at a time, so that each is checked against the weights it was trained on.
    measured = [(0.0, 0.0)]
    for number in range(len(checkpoint.adapters)):
        model, *distances = merge_adapter(with_adapter(model, checkpoint, number), probe)
        measured.append((distances[0], distances[1]))
    difference, largest = (max(values) for values in zip(*measured, strict=True))
    # The cast cannot be avoided, so its effect is reported, not limited.
    exact = _logits(model, probe)
    model = cast_weights(model, DTYPES[precision])
    cast = _distance(exact, _logits(model, probe))
    return model, {"difference": difference, "tolerance": TOLERANCE * largest, "cast_difference": cast}


@torch.no_grad()
def _logits(model: torch.nn.Module, probe: list[Tensor]) -> list[Tensor]:
    """[1, tokens, vocabulary] for each text, in fp32."""
    return [model(input_ids=ids).logits.float() for ids in probe]


def _distance(one: list[Tensor], other: list[Tensor]) -> float:
    """Largest absolute difference over all texts, positions and pieces of the vocabulary."""
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))

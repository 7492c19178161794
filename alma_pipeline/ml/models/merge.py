"""Merge adapters into their base: for training and decoding as they are loaded, for export with a check of the logits (B15)."""

from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alma_pipeline.errors import PipelineError
from alma_pipeline.job import Input
from alma_pipeline.ml.models.load import DTYPES, check_base, load_adapter, load_base_model, load_full, peft_config

PROBE = (
    "Translate this from German to English:\nGerman: Am 12. Mai kostete das Haus 350.000 Euro.\nEnglish:",
    "Translate this from English to Chinese:\nEnglish: The committee will meet again in three weeks.\nChinese:",
    "Kočka spí, 猫が寝ている, كان الجو حارا, Ég heiti Anna, кошка спит.",
)
"""Texts on which logits are compared, at every position: the wording of both prompts, and several scripts (our choice)."""
TOLERANCE = 1e-4
"""Largest allowed logit difference, relative to the largest logit; fp32 rounding stays far below it (our choice)."""


def load_merged(checkpoint: Input, adapters: Sequence[str], precision: str) -> PreTrainedModel:
    """The full model of `checkpoint` with its first `adapters` merged in fp32, then cast once to `precision`, on the CPU.

    Raises UserError for an adapter of another base.
    """
    if not adapters:
        return load_full(Path(checkpoint.base), DTYPES[precision])
    model = load_base_model(checkpoint, "fp32")
    for number in range(len(adapters)):
        model = merge_adapter(with_adapter(model, checkpoint, number))
    return model.to(DTYPES[precision])


def with_adapter(model: PreTrainedModel, checkpoint: Input, number: int) -> PeftModel:
    """The model with adapter `number` of the checkpoint on top, not merged; `model` holds all adapters before it.

    Raises UserError if the adapter was trained on another base or on other adapters.
    """
    folder = Path(checkpoint.adapters[number])
    check_base(folder, checkpoint.base_key, checkpoint.adapter_keys[:number])
    wrapped = get_peft_model(model, peft_config(folder, dropout=0.0), autocast_adapter_dtype=False)
    load_adapter(wrapped, folder)
    return wrapped


def merge_adapter(wrapped: PeftModel) -> PreTrainedModel:
    """Merge the adapter into the weights, W + (alpha / r) B A, in their precision. Raises ValueError if that gives a NaN."""
    merged: PreTrainedModel = wrapped.merge_and_unload(safe_merge=True)
    return merged


def merge_and_compare(
    checkpoint: Input, precision: str, tokenizer: PreTrainedTokenizerBase
) -> tuple[PreTrainedModel, dict[str, float]]:
    """The full model with all adapters merged in fp32 and cast once to `precision`, and the largest logit differences.

    `difference`: merged against base plus adapter in fp32, over all adapters; `cast_difference`: what the cast adds.
    Raises UserError for an adapter of another base, PipelineError if the difference exceeds the tolerance.
    """
    probe = [tokenizer(text, return_tensors="pt")["input_ids"] for text in PROBE]
    whole = load_base_model(checkpoint, "fp32") if checkpoint.adapters else load_full(Path(checkpoint.base), torch.float32)
    model = whole.eval()
    largest = difference = 0.0
    # Merge one adapter at a time, so that each is checked against the weights it was trained on.
    for number in range(len(checkpoint.adapters)):
        wrapped = with_adapter(model, checkpoint, number).eval()
        before = _logits(wrapped, probe)
        model = merge_adapter(wrapped)
        difference = max(difference, _distance(before, _logits(model, probe)))
        largest = max(largest, *(float(logits.abs().max()) for logits in before))
    if not difference <= TOLERANCE * largest:  # true for NaN as well
        raise PipelineError(
            f"the merged model differs from base and adapter: the largest logit difference is {difference:.3g}, expected at most "
            f"{TOLERANCE:g} x {largest:.3g}, the largest logit; nothing was written"
        )
    # The cast cannot be avoided, so its effect is reported, not limited.
    exact = _logits(model, probe)
    model = model.to(DTYPES[precision])
    cast = _distance(exact, _logits(model, probe))
    return model, {"difference": difference, "tolerance": TOLERANCE * largest, "cast_difference": cast}


@torch.no_grad()
def _logits(model: torch.nn.Module, probe: list[Tensor]) -> list[Tensor]:
    """[1, tokens, vocabulary] for each text, in fp32."""
    return [model(input_ids=ids).logits.float() for ids in probe]


def _distance(one: list[Tensor], other: list[Tensor]) -> float:
    """Largest absolute difference over all texts, positions and pieces of the vocabulary."""
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))

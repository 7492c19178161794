"""Merge adapters into their base, and compare the logits before anything uses the merged model (B15)."""

from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alma_pipeline.errors import PipelineError
from alma_pipeline.job import Input
from alma_pipeline.ml.models.load import (
    DTYPES,
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
"""Tokens on which every other merge compares logits: enough to find a wrong merge, few enough for a 13B model on a CPU (our
choice)."""
TOLERANCE = 1e-4
"""Largest allowed logit difference, relative to the largest logit; fp32 rounding stays far below it (our choice)."""


def load_merged(checkpoint: Input, adapters: Sequence[str], precision: str) -> PreTrainedModel:
    """The full model of `checkpoint` with its first `adapters` merged in fp32, then cast once to `precision`, on the CPU.

    Raises UserError for an adapter of another base, PipelineError if a merged model differs from the unmerged one.
    """
    if not adapters:
        return load_full(Path(checkpoint.base), DTYPES[precision])
    model = load_base_model(checkpoint, "fp32")
    rows = int(model.config.get_text_config().vocab_size)
    probe = [torch.linspace(0, rows - 1, TOKENS).long()[None]]
    for number in range(len(adapters)):
        model = merge_adapter(with_adapter(model, checkpoint, number), probe)[0]
    return model.to(DTYPES[precision])


def with_adapter(model: PreTrainedModel, checkpoint: Input, number: int) -> PeftModel:
    """The model with adapter `number` of the checkpoint on top, not merged; `model` holds all adapters before it.

    Raises UserError if the adapter was trained on another base or on other adapters, or changes tied weights.
    """
    folder = Path(checkpoint.adapters[number])
    check_base(folder, checkpoint.base_key, checkpoint.adapter_keys[:number])
    wrapped = get_peft_model(model, peft_config(folder, dropout=0.0), autocast_adapter_dtype=False)
    refuse_tied(wrapped, str(folder))
    load_adapter(wrapped, folder)
    return wrapped


def merge_adapter(wrapped: PeftModel, probe: list[Tensor]) -> tuple[PreTrainedModel, float, float]:
    """Merge the adapter into the weights, W + (alpha / r) B A, in their precision, which should be fp32.

    Returns the merged model, the largest difference between its logits and those before, and the largest of these, all on
    `probe` ([1, tokens] ids per text). Raises PipelineError if the difference exceeds the tolerance, ValueError for a NaN.
    """
    before = _logits(wrapped.eval(), probe)
    merged: PreTrainedModel = wrapped.merge_and_unload(safe_merge=True)
    difference, largest = _distance(before, _logits(merged, probe)), max(float(logits.abs().max()) for logits in before)
    if not difference <= TOLERANCE * largest:  # true for NaN as well
        raise PipelineError(
            f"the merged model differs from base and adapter: the largest logit difference is {difference:.3g}, expected at most "
            f"{TOLERANCE:g} x {largest:.3g}, the largest logit; nothing uses the merged model"
        )
    return merged, difference, largest


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
    # Merge one adapter at a time, so that each is checked against the weights it was trained on.
    measured = [(0.0, 0.0)]
    for number in range(len(checkpoint.adapters)):
        model, *distances = merge_adapter(with_adapter(model, checkpoint, number), probe)
        measured.append((distances[0], distances[1]))
    difference, largest = (max(values) for values in zip(*measured, strict=True))
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

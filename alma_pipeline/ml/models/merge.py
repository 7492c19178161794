"""Merge adapters into their base, and verify on a probe that the logits stay equal (B15).

For export only: training and decoding merge through `models.load` and need no check at every start.
"""

from pathlib import Path

import torch
from peft import get_peft_model
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


def merge_adapters(
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
    for number, folder in enumerate(map(Path, checkpoint.adapters)):
        check_base(folder, checkpoint.base_key, checkpoint.adapter_keys[:number])
        wrapped = get_peft_model(model, peft_config(folder, dropout=0.0), autocast_adapter_dtype=False).eval()
        load_adapter(wrapped, folder)
        before = _logits(wrapped, probe)
        model = wrapped.merge_and_unload(safe_merge=True)
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

"""The published ALMA scripts' side of the training benchmark."""

from typing import Any

import torch
from measures import Step

ALMA_LENGTH = 512
"""Tokens that the published scripts pad every example to (fe1ixxu/ALMA: max_source_length + max_new_tokens)."""


def alma_sft(settings: dict[str, Any], model: Any, tokenizer: Any) -> Step:
    """Every row padded to 512 on the left, logits of every token, as the published script's collator does."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    size = settings["micro_batch"]

    def step(batch: list[Any]) -> float:
        labels, total = sum(len(c.ids) - c.prompt for c, _ in batch), 0.0
        for start in range(0, len(batch), size):
            part = [pair[0] for pair in batch[start : start + size]]
            ids = torch.full((len(part), ALMA_LENGTH), tokenizer.pad_token_id)
            mask, target = torch.zeros_like(ids), torch.full_like(ids, -100)
            for row, example in enumerate(part):
                length = len(example.ids)
                ids[row, -length:], mask[row, -length:] = torch.tensor(example.ids), 1
                target[row, example.prompt - length :] = torch.tensor(example.ids[example.prompt :])
            loss = model(input_ids=ids, attention_mask=mask, labels=target, num_items_in_batch=labels).loss
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        return total

    return step

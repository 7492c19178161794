"""Attention with grouped heads against keys and values repeated head by head."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from alma_pipeline.ml.decoding.tree_attention import additive_mask, tree_attention

PROMPTS, WIDTH, PAST = 3, 4, 7


def make(heads: int, kv_heads: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": heads * 8, "intermediate_size": 16, "num_hidden_layers": 2, "vocab_size": 50}
    return LlamaForCausalLM(LlamaConfig(num_attention_heads=heads, num_key_value_heads=kv_heads, **shape)).double().eval()


@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 2), (4, 4), (5, 1)])
@torch.no_grad()
def test_equals_the_model_s_own_attention_with_the_same_mask(heads: int, kv_heads: int) -> None:
    """In float64, over a cache, with hypotheses that descend from different columns."""
    model = make(heads, kv_heads)
    past, new = torch.randint(50, (PROMPTS, PAST)), torch.randint(50, (PROMPTS, WIDTH))
    visible = torch.cat([torch.rand(PROMPTS, WIDTH, PAST) < 0.6, torch.eye(WIDTH).bool().expand(PROMPTS, -1, -1)], 2)
    positions = torch.full((PROMPTS, WIDTH), PAST)
    plain = torch.zeros(visible.shape, dtype=torch.float64).masked_fill_(~visible, torch.finfo(torch.float64).min)
    logits = []
    for added, inside in ((plain[:, None], False), (additive_mask(visible, model.config, torch.float64), True)):
        cache = model(past, use_cache=True).past_key_values
        inputs = {"input_ids": new, "attention_mask": added, "position_ids": positions, "past_key_values": cache}
        if inside:
            with tree_attention(model):
                logits.append(model(**inputs).logits)
        else:
            logits.append(model(**inputs).logits)
    torch.testing.assert_close(logits[1], logits[0])
    assert not torch.allclose(logits[0][:, 0], logits[0][:, 1])


def test_the_model_has_its_own_attention_back_afterwards() -> None:
    model = make(4, 2)
    before = model(torch.arange(6)[None]).logits
    with pytest.raises(KeyError), tree_attention(model):
        assert model.config._attn_implementation == "alma_tree"
        raise KeyError
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(model(torch.arange(6)[None]).logits, before)

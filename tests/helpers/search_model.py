"""A random model whose searches come to different ends, prompts for it, and Hugging Face's own output for each of them."""

import random
from collections.abc import Callable, Sequence

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from alma_pipeline.ml.decoding import generate, tree
from alma_pipeline.ml.decoding.search import Beams, DecodeLimits, Results, Sampling
from alma_pipeline.ml.decoding.steps import Capture

EOS, PAD, VOCABULARY = 1, 2, 40
LIMITS = DecodeLimits(max_new_tokens=12, decode_tokens=600, eos=EOS, pad=PAD)
SAMPLING = Sampling(width=3, temperature=0.8, top_p=0.9, seed=5)
CONFIGS = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
DECODERS = pytest.mark.parametrize("module", [generate, tree])


def make(kind: str = "llama", **settings: object) -> PreTrainedModel:
    """A random model whose logits are far apart, so that rounding decides nothing."""
    torch.manual_seed(0)
    shape = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "head_dim": 8,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
    }
    model = AutoModelForCausalLM.from_config(CONFIGS[kind](**(shape | settings)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(25 if "embed" in name or "lm_head" in name else 3 if "proj" in name else 1)
        model.lm_head.weight[EOS] *= 2  # ends that come early often enough
    return model


def make_prompts(count: int = 18, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[0, *(rng.randrange(3, VOCABULARY) for _ in range(rng.randrange(14)))] for _ in range(count)]


PROMPTS = make_prompts()


def alone(model: PreTrainedModel, prompt: list[int], beams: int, ends: Sequence[int] = (EOS,)) -> list[int]:
    """Hugging Face's own output for one prompt, every relevant setting spelled out."""
    config = GenerationConfig(
        num_beams=beams,
        do_sample=False,
        length_penalty=1.0,
        early_stopping=False,
        max_new_tokens=LIMITS.max_new_tokens,
        eos_token_id=list(ends),
        pad_token_id=PAD,
    )
    ids = torch.tensor([prompt])
    outputs = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    found: list[int] = outputs[0, len(prompt) :].tolist()
    places = [place for place, token in enumerate(found) if token in ends]
    return found[: places[0]] if places else found


def replayed(call: Callable[[], None]) -> Callable[[], None]:
    """In place of a CUDA graph: what was recorded is called again, on the inputs that it then finds at the same addresses."""
    return call


def run(
    module: object,
    model: PreTrainedModel,
    prompts: list[list[int]],
    settings: Beams | Sampling,
    limits: DecodeLimits = LIMITS,
    capture: Capture | None = None,
) -> list[list[list[int]]]:
    found: Results = {}
    more = {"capture": capture} if capture else {}
    with torch.no_grad():
        module.decode(model.eval(), dict(enumerate(prompts)), settings, limits, found.update, lambda rows: None, **more)  # type: ignore[attr-defined]
    return [found[index] for index in range(len(prompts))]

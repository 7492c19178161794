"""Estimates against published numbers, hand-computed cases, and the laws they must obey."""

import dataclasses
from typing import Any

import pytest

from alma_pipeline import sizes
from alma_pipeline.estimate import Counts, Estimate, estimate
from alma_pipeline.job import kind_config
from alma_pipeline.schema import Architecture, Hardware, Lora, Model

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LLAMA_7B = Architecture(hidden_size=4096, intermediate_size=11008, layers=32, heads=32, kv_heads=32, vocab_size=32000)
LLAMA_13B = Architecture(hidden_size=5120, intermediate_size=13824, layers=40, heads=40, kv_heads=40, vocab_size=32000)
SMOL = Architecture(
    hidden_size=576, intermediate_size=1536, layers=30, heads=9, kv_heads=3, vocab_size=49152, tied_embeddings=True
)
TINY = Architecture(hidden_size=256, intermediate_size=688, layers=4, heads=4, kv_heads=4, vocab_size=2000, tied_embeddings=True)
A100 = Hardware(name="a100", device="cuda", flops=312e12, utilisation=0.4, bandwidth=2.039e12, memory_gb=80, row_tokens=4096)
LAPTOP = Hardware(name="laptop", flops=1e11, utilisation=0.5, bandwidth=1e10, memory_gb=8, row_tokens=1024)


def model(shape: Architecture, **values: Any) -> Model:
    return Model(name="test", architecture=shape, **values)


def training(kind: str = "mono", **values: Any) -> Any:
    return kind_config(kind)(**({"seed": 1, "steps": 10, "global_batch": 8} | values))


def counted(examples: int, tokens: int, dev: int = 0) -> Counts:
    return Counts(examples=examples, tokens=tokens, exact=True, dev_examples=dev)


def of(config: Any, shape: Architecture, hardware: Hardware, counts: Counts) -> Estimate:
    found = estimate(config.kind, config, model(shape, precision=config.precision), hardware, counts)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("shape", "published"),
    [
        (LLAMA_7B, 6_738_415_616),  # safetensors index of meta-llama/Llama-2-7b-hf: 13,476,831,232 bytes in 16 bit
        (LLAMA_13B, 13_015_864_320),  # of meta-llama/Llama-2-13b-hf: 26,031,728,640
        (SMOL, 134_515_008),  # model page of HuggingFaceTB/SmolLM2-135M
    ],
)
def test_parameters_of_published_models(shape: Architecture, published: int) -> None:
    assert sizes.parameters(shape) == published


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kv_heads", [1, 4])
def test_parameters_are_those_of_transformers(tied: bool, kv_heads: int) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = dataclasses.replace(TINY, tied_embeddings=tied, kv_heads=kv_heads)
    with torch.device("meta"):
        real = LlamaForCausalLM(
            LlamaConfig(
                hidden_size=256,
                intermediate_size=688,
                num_hidden_layers=4,
                num_attention_heads=4,
                num_key_value_heads=kv_heads,
                vocab_size=2000,
                tie_word_embeddings=tied,
            )
        )
    assert sizes.parameters(shape) == sum(parameter.numel() for parameter in real.parameters())


def test_lora_sizes_of_the_papers() -> None:
    """X-ALMA's module: 2.003B (4.01 GB in 16 bit); ALMA-13B's adapter: '12M' in the CPO paper; ALMA-7B's: 15.5 MB."""
    assert sizes.lora_parameters(LLAMA_13B, Lora(rank=512, alpha=1024, targets=ALL)) == 2_002_780_160
    assert sizes.lora_parameters(LLAMA_13B, Lora(rank=16, targets=["down_proj"])) == 12_124_160
    assert 2 * sizes.lora_parameters(LLAMA_7B, Lora(rank=16, targets=["down_proj"])) == pytest.approx(15.5e6, rel=0.01)


def test_model_states_of_the_zero_paper() -> None:
    """Fig. 1 of arXiv 1910.02054: 7.5B parameters on 64 devices take 120, 31.4, 16.6 and 1.9 GB by stage."""
    found = [sum(sizes.state_bytes(LLAMA_7B, 7_500_000_000, "bf16", stage, 64).values()) / 1e9 for stage in range(4)]
    assert found == pytest.approx([120, 31.4, 16.6, 1.9], abs=0.05)


def test_model_states_of_the_zero_papers_table() -> None:
    """Table 1 of arXiv 1910.02054: the same model on 4 and on 16 devices."""
    found = [
        sum(sizes.state_bytes(LLAMA_7B, 7_500_000_000, "fp16", stage, world).values()) / 1e9
        for world in (4, 16)
        for stage in (1, 2, 3)
    ]
    assert found == pytest.approx([52.5, 41.3, 30, 35.6, 21.6, 7.5], abs=0.06)


def test_flops_of_palm() -> None:
    """App. B of arXiv 2204.02311: 238.3k tokens/s on 6,144 chips of 275 TFLOP/s are 46.2 % with attention."""
    palm = Architecture(hidden_size=48 * 256, intermediate_size=73728, layers=118, heads=48, kv_heads=1, vocab_size=256000)
    weights, attention = 6 * 540.35e9, sizes.training_flops(palm, 2048) - 6 * sizes.multiplied(palm)
    assert (weights + attention) * 238_300 / (6144 * 275e12) == pytest.approx(0.462, abs=0.001)


def test_time_of_llama_2() -> None:
    """Table 2 of arXiv 2307.09288: 2T tokens took 184,320 hours of an A100 for 7B and 368,640 for 13B."""
    for shape, hours in ((LLAMA_7B, 184_320), (LLAMA_13B, 368_640)):
        config = training(steps=None, tokens=2e12, global_batch=1024, precision="bf16")
        found = of(config, shape, dataclasses.replace(A100, zero_stage=1), counted(1000, 4_096_000))
        assert found.seconds / 3600 == pytest.approx(hours, rel=0.15)


def test_activations_of_the_megatron_paper() -> None:
    """Sec. 4.1 of arXiv 2205.05198: 34 s b h bytes a layer without attention scores, for a plain MLP with dropout and 16-bit
    norms. Ours differ by what today's Llama does: three matrices of 8/3 h in the MLP, no dropout, norms in fp32."""
    hidden = 3072
    shape = Architecture(hidden_size=hidden, intermediate_size=8192, layers=1, heads=24, kv_heads=24, vocab_size=1)
    ours = sizes.activation_bytes(shape, "bf16") / hidden
    # Take out the gated MLP (4 x 8/3 x 2) and the norms (2 x 8), put in the plain MLP (2 x 4 x 2, 2 for its input), the norms'
    # inputs (2 x 2), the inputs of q, k, v (2), and three dropout masks' bytes and the copy they need (1 + 1).
    plain = ours - 4 * 8 / 3 * 2 - 2 * 8 + 2 * 4 * 2 + 2 + 2 * 2 + 2 + 2
    assert plain == pytest.approx(34, abs=0.1)


SAVED = [
    # Bytes of one token that autograd kept in one layer of TINY, counted with saved_tensors_hooks (transformers 5.23, CPU).
    ("fp32", None, 21272),
    ("bf16", None, 11672),
    ("fp32", Lora(rank=32, targets=ALL), 20120),
    ("fp32", Lora(rank=32, targets=ALL, dropout=0.05), 33112),
    ("bf16", Lora(rank=16, targets=["down_proj"], dropout=0.05), 11032),
]


@pytest.mark.parametrize(("precision", "lora", "counted"), SAVED)
def test_activations_are_what_autograd_keeps(precision: str, lora: Lora | None, counted: int) -> None:
    assert sizes.activation_bytes(TINY, precision, lora) / TINY.layers == pytest.approx(counted, rel=0.02)

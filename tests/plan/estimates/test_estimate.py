"""Estimates against published numbers, hand-computed cases, and the laws they must obey."""

import dataclasses
from typing import Any

import pytest

from alma_pipeline.plan.estimates import estimate as estimating
from alma_pipeline.plan.estimates import model_size
from alma_pipeline.plan.estimates.estimate import estimate, training_memory
from alma_pipeline.plan.estimates.node_estimate import PROCESS_BYTES, START_SECONDS, Counts, Estimate
from alma_pipeline.schema import Architecture, Language, Lora, NodeConfig, Source
from alma_pipeline.schema.kinds import kind_config
from helpers.estimates import A100, LAPTOP, LLAMA_7B, LLAMA_13B, SMOL, TINY, counted, model, of, training

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.mark.parametrize(
    ("shape", "published"),
    [
        (LLAMA_7B, 6_738_415_616),  # safetensors index of meta-llama/Llama-2-7b-hf: 13,476,831,232 bytes in 16 bit
        (LLAMA_13B, 13_015_864_320),  # of meta-llama/Llama-2-13b-hf: 26,031,728,640
        (SMOL, 134_515_008),  # model page of HuggingFaceTB/SmolLM2-135M
    ],
)
def test_parameters_of_published_models(shape: Architecture, published: int) -> None:
    assert model_size.parameters(shape) == published


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
    assert model_size.parameters(shape) == sum(parameter.numel() for parameter in real.parameters())


def test_lora_sizes_of_the_papers() -> None:
    """X-ALMA's module: 2.003B (4.01 GB in 16 bit); ALMA-13B's adapter: '12M' in the CPO paper; ALMA-7B's: 15.5 MB."""
    assert model_size.lora_parameters(LLAMA_13B, Lora(rank=512, alpha=1024, targets=ALL)) == 2_002_780_160
    assert model_size.lora_parameters(LLAMA_13B, Lora(rank=16, targets=["down_proj"])) == 12_124_160
    assert 2 * model_size.lora_parameters(LLAMA_7B, Lora(rank=16, targets=["down_proj"])) == pytest.approx(15.5e6, rel=0.01)


def test_model_states_of_the_zero_paper() -> None:
    """Fig. 1 of arXiv 1910.02054: 7.5B parameters on 64 devices take 120, 31.4, 16.6 and 1.9 GB by stage."""
    found = [sum(model_size.state_bytes(7_500_000_000, "bf16", stage, 64).values()) / 1e9 for stage in range(4)]
    assert found == pytest.approx([120, 31.4, 16.6, 1.9], abs=0.05)


def test_model_states_of_the_zero_papers_table() -> None:
    """Table 1 of arXiv 1910.02054: the same model on 4 and on 16 devices."""
    found = [
        sum(model_size.state_bytes(7_500_000_000, "fp16", stage, world).values()) / 1e9
        for world in (4, 16)
        for stage in (1, 2, 3)
    ]
    assert found == pytest.approx([52.5, 41.3, 30, 35.6, 21.6, 7.5], abs=0.06)


def test_flops_of_palm() -> None:
    """App. B of arXiv 2204.02311: 238.3k tokens/s on 6,144 chips of 275 TFLOP/s are 46.2 % with attention."""
    palm = Architecture(hidden_size=48 * 256, intermediate_size=73728, layers=118, heads=48, kv_heads=1, vocab_size=256000)
    weights, attention = 6 * 540.35e9, model_size.training_flops(palm, 2048) - 6 * model_size.multiplied(palm)
    assert (weights + attention) * 238_300 / (6144 * 275e12) == pytest.approx(0.462, abs=0.001)


def test_time_of_llama_2() -> None:
    """Table 2 of arXiv 2307.09288: 2T tokens took 184,320 hours of an A100 for 7B and 368,640 for 13B."""
    for shape, hours in ((LLAMA_7B, 184_320), (LLAMA_13B, 368_640)):
        config = training(steps=None, tokens=2e12, global_batch_size=1024, precision="bf16")
        found = of(config, shape, dataclasses.replace(A100, zero_stage=1), counted(1000, 4_096_000))
        assert found.seconds / 3600 == pytest.approx(hours, rel=0.15)


def test_logits_come_in_as_many_pieces_as_the_loss_makes() -> None:
    from alma_pipeline.ml.training.logprobs import WHOLE_LOGITS, num_chunks

    cases = [(tokens, words) for tokens in (16, 1024, 4096, 8192, 16777, 16778) for words in (1000, 2000, 32000, 49152)]
    assert [estimating._pieces(*case, zero_stage=3) for case in cases] == [num_chunks(*case) for case in cases]
    for tokens, words in cases:
        assert tokens * words / estimating._pieces(tokens, words, zero_stage=2) <= WHOLE_LOGITS


HORIZONS = [
    # settings, counts -> steps, tokens; 8 examples a step
    ({"steps": 7}, counted(100, 1000), 7, 7 * 8 * 10),
    ({"steps": None, "epochs": 1.0}, counted(100, 1000), 13, 13 * 8 * 10),
    ({"steps": None, "epochs": 0.5}, counted(100, 1000), 7, 7 * 8 * 10),
    ({"steps": None, "epochs": 2.0}, counted(1, 30), 1, 8 * 30),
    ({"steps": None, "tokens": 801.0}, counted(100, 1000), 11, 11 * 8 * 10),
    ({"steps": None, "tokens": 80.0}, counted(100, 1000), 1, 8 * 10),
    ({"steps": None, "epochs": 1.0}, counted(0, 0), 0, 0),
    ({"steps": 7}, counted(0, 0), 7, 0),
]


@pytest.mark.parametrize(("settings", "counts", "steps", "tokens"), HORIZONS)
def test_steps_and_tokens(settings: dict[str, Any], counts: Counts, steps: int, tokens: int) -> None:
    found = of(training(**settings), TINY, LAPTOP, counts)
    assert (found.steps, found.tokens) == (steps, tokens)
    assert bool(found.seconds) == bool(tokens), "no time without a number of tokens"
    assert found.memory_bytes > 0


def test_memory_of_7b_by_hand() -> None:
    """N = 6,738,415,616 in bf16 under ZeRO-2 on 8 devices: 2N + 4N/8 + 12N/8; 4,096 tokens a row.

    Of the largest matrix, 32,000 x 4,096, there are two buckets, the copy that is reduced, and its gradient.
    """
    hardware = dataclasses.replace(A100, zero_stage=2, devices=8, launcher="torchrun")
    found = training_memory(training(precision="bf16", global_batch_size=256), model(LLAMA_7B), hardware, 131_072)
    layer = 8 * 4096 + 8 + 8 * 4096 + 4 * 32 + 6 * 11008 + 2 * (4 * 4096 + 11008)
    assert found == {
        "weights": 13_476_831_232,
        "gradients": 3_369_207_808,
        "optimiser": 10_107_623_424,
        "buffers": 4 * 2 * 131_072_000,
        "activations": 4096 * 32 * layer,
        "temporary": 4096 * 2 * (2 * 4096 + 3 * 11008),
    }


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_states_shrink_with_the_stage_and_with_devices(precision: str) -> None:
    for world in (2, 8, 64):
        totals = [sum(model_size.state_bytes(10**9, precision, stage, world).values()) for stage in (1, 2, 3)]
        assert totals == sorted(totals, reverse=True) and len(set(totals)) == 3
    for stage in (1, 2, 3):
        totals = [sum(model_size.state_bytes(10**9, precision, stage, world).values()) for world in (1, 2, 8, 64)]
        assert totals == sorted(totals, reverse=True) and len(set(totals)) == 4
    assert len({sum(model_size.state_bytes(10**9, precision, 0, world).values()) for world in (1, 8)}) == 1


def test_a_lora_needs_less_memory_time_and_disk_than_full_weights() -> None:
    counts, hardware = counted(1000, 100_000), dataclasses.replace(A100, zero_stage=2)
    full = of(training("parallel", precision="bf16"), LLAMA_13B, hardware, counts)
    lora = Lora(rank=16, targets=["down_proj"])
    small = of(training("parallel", precision="bf16", adapter="new", lora=lora), LLAMA_13B, hardware, counts)
    assert small.memory_parts["weights"] == pytest.approx(full.memory_parts["weights"], rel=0.01)
    assert small.memory_parts["optimiser"] == 12 * 12_124_160
    assert small.disk_bytes == 2 * 12_124_160 and full.disk_bytes == 26_031_728_640
    ratio = (small.seconds - START_SECONDS) / (full.seconds - START_SECONDS)
    assert ratio == pytest.approx(2 / 3, abs=0.01), "no gradient for frozen weights"


def test_gradient_checkpointing_trades_memory_for_a_forward_pass() -> None:
    counts, config = counted(1000, 512_000), training(precision="bf16")
    plain = of(config, LLAMA_7B, dataclasses.replace(A100, zero_stage=2), counts)
    again = of(config, LLAMA_7B, dataclasses.replace(A100, zero_stage=2, gradient_checkpointing=True), counts)
    assert again.memory_parts["activations"] < plain.memory_parts["activations"] / 8
    ratio = (again.seconds - START_SECONDS) / (plain.seconds - START_SECONDS)
    assert ratio == pytest.approx(4 / 3, abs=0.01)


def test_a_lora_keeps_the_inputs_of_frozen_matrices_under_zero_3_alone() -> None:
    """Of down_proj those are 11,008 numbers a token and layer; ZeRO-3 adds two of 4,096: of the heads and of the MLP."""
    config = training(precision="bf16", adapter="new", lora=Lora(rank=16, targets=["down_proj"]))
    two, three = (
        of(config, LLAMA_7B, dataclasses.replace(A100, zero_stage=stage), counted(1000, 512_000)).memory_parts["activations"]
        for stage in (2, 3)
    )
    assert three - two == 4096 * 32 * 2 * (2 * 4096)


def test_offload_takes_the_optimiser_off_the_device_and_keeps_the_sum_of_gradients() -> None:
    """Four bytes a trained weight of 7B on one device; 16 more and a 16-bit copy are in the host's memory."""
    config, counts = training(precision="bf16"), counted(1000, 512_000)
    here, away = (
        of(config, LLAMA_7B, dataclasses.replace(A100, zero_stage=2, offload=offload), counts) for offload in ("none", "cpu")
    )
    assert away.memory_parts["optimiser"] == 0
    assert away.memory_parts["gradients"] == here.memory_parts["gradients"] == 4 * 6_738_415_616
    assert not here.fits and away.fits
    assert here.host_bytes == PROCESS_BYTES
    assert away.host_bytes == PROCESS_BYTES + 18 * 6_738_415_616 + 2 * 131_072_000


def test_a_process_on_a_cpu_counts_its_libraries_and_its_heap() -> None:
    counts = counted(1000, 100_000)
    cpu, gpu = (of(training(), TINY, dataclasses.replace(LAPTOP, device=device), counts) for device in ("cpu", "cuda"))
    extra = PROCESS_BYTES + 0.5 * (cpu.memory_parts["activations"] + cpu.memory_parts["temporary"])
    assert cpu.memory_bytes - gpu.memory_bytes == pytest.approx(extra, abs=2)


def config_of(kind: str, **settings: Any) -> NodeConfig:
    return kind_config(kind)(**settings)


def decode(kind: str, counts: Counts, **settings: Any) -> Estimate | None:
    languages = {code: Language(name=code, locale=code, nllb=code) for code in ("en", "de", "cs")}
    values: dict[str, Any] = {"languages": languages, "max_new_tokens": 32} | ({"seed": 1} if kind == "preferences" else {})
    config = kind_config(kind)(**(values | settings))
    return estimate(kind, config, model(TINY), LAPTOP, counts)


def test_decoding_grows_with_sentences_and_beams() -> None:
    few, many = decode("translate", counted(10, 200), num_beams=1), decode("translate", counted(10_000, 200_000), num_beams=1)
    wide = decode("translate", counted(10_000, 200_000), num_beams=5)
    assert few and many and wide
    assert few.seconds < many.seconds < wide.seconds
    assert many.tokens == 10_000 * (20 + 16) and wide.tokens == 10_000 * (20 + 5 * 16)
    assert few.memory_parts["cache"] < many.memory_parts["cache"]
    unknown = decode("translate", counted(0, 0))
    assert unknown and unknown.seconds == 0 and unknown.memory_bytes > 0


def test_a_free_budget_is_what_the_device_has_beside_the_weights() -> None:
    """decode_tokens=null: the plan says what decoding will hold, and that it fits wherever the weights do."""
    config = config_of("translate", max_new_tokens=256, precision="bf16")
    llama, test = model(LLAMA_7B, precision="bf16"), counted(2000, 140_000)
    free = estimate("translate", config, llama, dataclasses.replace(A100, decode_tokens=None), test)
    fixed = estimate("translate", config, llama, A100, test)
    assert free and fixed and free.fits
    room = A100.memory_gb * 1e9 - free.memory_parts["weights"]
    assert fixed.memory_parts["cache"] < 0.7 * room < free.memory_parts["cache"] <= 0.8 * room
    assert free.memory_bytes < A100.memory_gb * 1e9


def test_candidates_are_decoded_for_every_direction_and_released_triples_are_not() -> None:
    built = decode("preferences", counted(100, 2000), sources=30, held_out=20, candidates=4)
    assert built and built.tokens == 4 * 50 * (20 + 4 * 16)
    assert decode("preferences", counted(100, 2000), pairs=Source(reader="hub", repo="a/b", revision="c")) is None


def test_a_base_is_its_weights_and_text_kinds_have_no_estimate() -> None:
    found = estimate("base", config_of("base", seed=1), model(LLAMA_7B, precision="bf16"), A100, counted(0, 0))
    assert found and found.disk_bytes == 13_476_831_232
    assert estimate("corpus", config_of("corpus", seed=1), model(TINY), LAPTOP, counted(0, 0)) is None
    assert estimate("score", kind_config("score")(), model(TINY), LAPTOP, counted(0, 0)) is None

"""What a GPU reaches: `python benchmarks/gpu.py [CASE ...]` prints a line of JSON for each case, each in a process of its own.

`correct` compares CUDA with the CPU in fp32 (losses, gradients, decoded outputs), and on CUDA in bf16 the variable-length
kernel with padded groups; the exit status is 1 where it finds more than rounding. `full-1b`, `full-7b`, `lora-7b` and
`cpo-7b` measure optimiser steps on random weights in the shape of Llamas. MFU counts 6 FLOPs a trained weight and token (4
where the weight is frozen), attention left out, against the device's own rate of a large bf16 matrix product.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import time
from typing import Any
from unittest import mock

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from alma_pipeline.ml.data.preference_pairs import PreferencePair
from alma_pipeline.ml.data.token_arrays import Tokens
from alma_pipeline.ml.decoding import decode
from alma_pipeline.ml.decoding.search import DecodeLimits, Sampling
from alma_pipeline.ml.distributed import init_process_group
from alma_pipeline.ml.training import varlen
from alma_pipeline.ml.training.engine import Engine, adamw
from alma_pipeline.ml.training.loop import accumulate
from alma_pipeline.ml.training.microbatches import stream
from alma_pipeline.ml.training.objective import LanguageModel
from alma_pipeline.ml.training.preference_losses import LossSettings
from alma_pipeline.ml.training.preference_objective import PreferenceModel
from alma_pipeline.ml.training.prefetch import on_device
from alma_pipeline.schema import Hardware, Training

SHAPES = {
    "1b": {"hidden_size": 2048, "intermediate_size": 5504, "num_hidden_layers": 22, "num_attention_heads": 16},
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "tiny": {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4},
}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES: dict[str, dict[str, Any]] = {
    "full-1b": {"shape": "1b", "kind": "sft"},
    "full-7b": {"shape": "7b", "kind": "sft", "offload": "cpu", "checkpointing": True},
    "lora-7b": {"shape": "7b", "kind": "sft", "rank": 512, "checkpointing": True},
    "cpo-7b": {"shape": "7b", "kind": "cpo", "rank": 16},
}
LIMITS = {"decoded": 0.1, "bf16": 0.05, "fp32": 1e-3, "kernel": varlen.TOLERANCE}
"""Shares up to which a difference is rounding; of several that a comparison's name holds, the first counts."""


def make(shape: str, device: str, dtype: torch.dtype) -> LlamaForCausalLM:
    with torch.device(device):
        model = LlamaForCausalLM(LlamaConfig(**SHAPES[shape], vocab_size=32000, tie_word_embeddings=False))
    return model.to(dtype)


def texts(kind: str, count: int, seed: int = 0) -> list[Any]:
    """Examples of the lengths of sentence pairs: prompts of 40 to 120 tokens, answers of 20 to 90."""
    random = np.random.default_rng(seed)

    def ids(low: int, high: int) -> np.ndarray:
        return random.integers(3, 32000, random.integers(low, high), np.int32)

    if kind == "cpo":
        return [PreferencePair(ids(40, 120), ids(20, 90), ids(20, 90)) for _ in range(count)]
    prompts = [(ids(40, 120), ids(20, 90)) for _ in range(count)]
    return [Tokens(np.concatenate(parts), len(parts[0])) for parts in prompts]


def objective_of(kind: str, model: Any, micro_batch_tokens: int) -> Any:
    return (
        PreferenceModel(model, micro_batch_tokens, LossSettings(0.1, 1.0, "token"))
        if kind == "cpo"
        else LanguageModel(model, micro_batch_tokens)
    )


def matmul_rate(size: int = 8192) -> float:
    """FLOP/s of a square bf16 product."""
    one = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    for _ in range(5):
        one @ one
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(20):
        one @ one
    torch.cuda.synchronize()
    return 20 * 2 * size**3 / (time.perf_counter() - start)


def measure(case: dict[str, Any], steps: int, batch: int, micro_batch_tokens: int) -> dict[str, Any]:
    model: Any = make(case["shape"], "cuda", torch.bfloat16)
    if "rank" in case:
        lora = LoraConfig(r=case["rank"], lora_alpha=2 * case["rank"], target_modules=TARGETS, task_type="CAUSAL_LM")
        model = get_peft_model(model, lora, autocast_adapter_dtype=False)
    if case.get("checkpointing"):
        model.activation_checkpointing_enable({"use_reentrant": False})
    hardware = Hardware(
        name="benchmark", device="cuda", zero_stage=1, micro_batch_tokens=micro_batch_tokens, offload=case.get("offload", "none")
    )
    config = Training(kind="benchmark", steps=1, precision="bf16", learning_rate=1e-6, seed=0)
    world = init_process_group(hardware)
    objective = objective_of(case["kind"], model, micro_batch_tokens)
    engine = Engine(objective, adamw(objective, config), config, hardware, world.size)
    seconds, tokens, labels = [], 0, 0
    batches = [texts(case["kind"], batch, seed=step) for step in range(steps + 2)]
    micro_batches = stream(objective, batches, world, hardware)
    for step in range(steps + 2):
        torch.cuda.synchronize()
        start = time.perf_counter()
        whole, _ = accumulate(engine, micro_batches, engine.backward)
        engine.step(1e-6)
        torch.cuda.synchronize()
        if step >= 2:
            seconds.append(time.perf_counter() - start)
            tokens, labels = tokens + whole.tokens, labels + whole.labels
    work = flops(model, tokens, labels)
    rate = matmul_rate()
    result = {
        "layout": objective.layout,
        "tokens_per_second": tokens / sum(seconds),
        "mfu": work / sum(seconds) / rate,
        "matmul_tflops": rate / 1e12,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
    }
    engine.close()
    return result


def flops(model: Any, tokens: int, labels: int) -> float:
    """Forward, gradient of the states, and of the trained weights; the head at the labels only."""
    total = 0.0
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and "embed_tokens" not in name:
            total += (6 if weight.requires_grad else 4) * weight.numel() * (labels if "lm_head" in name else tokens)
    return total


def correct(device: torch.device) -> dict[str, Any]:
    """Shares by which the device is off: the kernel alone, losses and gradients, and of decoded outputs those that differ."""
    found: dict[str, dict[str, float]] = {"kernel": kernel(device) if device.type == "cuda" else {}}
    for kind in ("sft", "cpo"):
        cpu, same = pair_of_objectives(kind, torch.float32, device)
        found[f"{kind}, fp32 beside the CPU"] = difference(results(cpu, kind), results(same, kind))
        one, other = pair_of_objectives(kind, torch.bfloat16, device)
        one.to(device)
        with mock.patch.object(varlen, "is_usable", lambda *states: False):
            groups = results(one, kind)
        found[f"{kind}, bf16 by the kernel beside groups"] = difference(groups, results(other, kind))
    found["decoded otherwise, fp32 beside the CPU"] = decoded_otherwise(device)
    right = all(error <= limit(name) for name, errors in found.items() for error in errors.values())
    return found | {"right": right}


def limit(name: str) -> float:
    return next(share for kind, share in LIMITS.items() if kind in name)


def kernel(device: torch.device) -> dict[str, float]:
    return {
        f"{heads} heads to {key_heads}, window {window}": varlen.trial_error(device, torch.bfloat16, heads, key_heads, 64, window)
        for heads, key_heads in ((8, 8), (8, 2))
        for window in (None, 4)
    }


def pair_of_objectives(kind: str, dtype: torch.dtype, device: torch.device) -> tuple[Any, Any]:
    """One set of weights on the CPU, and the same on the device."""
    torch.manual_seed(0)
    one = objective_of(kind, make("tiny", "cpu", dtype), 4096)
    other = objective_of(kind, make("tiny", str(device), dtype), 4096)
    other.load_state_dict(one.state_dict())
    return one, other


def results(objective: Any, kind: str) -> tuple[float, torch.Tensor]:
    """Loss and gradient of 24 examples."""
    examples, device = texts(kind, 24), next(objective.parameters()).device
    batch = next(on_device(iter([objective.collate(examples)]), device))
    loss, _ = objective(batch, objective.norms(examples))
    loss.backward()
    return loss.item(), torch.cat([weight.grad.flatten().float().cpu() for weight in objective.parameters()])


def difference(one: tuple[float, torch.Tensor], other: tuple[float, torch.Tensor]) -> dict[str, float]:
    return {"loss": abs(other[0] / one[0] - 1), "gradient": float((one[1] - other[1]).norm() / one[1].norm())}


def decoded_otherwise(device: torch.device) -> dict[str, float]:
    """Share of 24 outputs that are not the CPU's: where two pieces are equally likely up to rounding, they may differ."""
    torch.manual_seed(0)
    model: Any = make("tiny", "cpu", torch.float32)
    with torch.no_grad():  # random weights leave all pieces equally likely; these do not
        for name, weight in model.named_parameters():
            weight.mul_(25 if "embed" in name or "lm_head" in name else 1)
    prompts = [[int(piece) for piece in example.ids[: example.prompt]] for example in texts("sft", 24)]
    limits = DecodeLimits(max_new_tokens=24, decode_tokens=8192, eos=2, pad=0)
    drawn = Sampling(width=2, temperature=0.9, top_p=0.6, seed=1)
    found = []
    for place in (torch.device("cpu"), device):
        model = model.to(place).eval()
        ways = {str(beams): decode.beam_search(model, prompts, beams, limits) for beams in (1, 5)}
        found.append(ways | {"samples": decode.sample(model, prompts, drawn, limits)})
    return {
        way: sum(one != other for one, other in zip(found[0][way], found[1][way], strict=True)) / len(prompts) for way in found[0]
    }


def in_its_own_process(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """What the case found; where it failed, how. Others go on, on a device that is free again."""
    words = [sys.executable, __file__, "--here", name]
    for option in ("steps", "batch", "micro_batch_tokens", "device"):
        words += [f"--{option.replace('_', '-')}", str(getattr(options, option))]
    done = subprocess.run(words, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        return {"case": name, "failed": done.returncode, "right": False}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def carried_out(name: str, options: argparse.Namespace) -> dict[str, Any]:
    with contextlib.redirect_stdout(sys.stderr):  # what is told on the way is no result
        if name == "correct":
            return {"case": name} | correct(torch.device(options.device))
        torch.cuda.reset_peak_memory_stats()
        return {"case": name} | measure(CASES[name], options.steps, options.batch, options.micro_batch_tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=["correct", *CASES])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--row-tokens", type=int, default=8192)
    parser.add_argument("--device", default="cuda", help="cpu: `correct` compares the CPU with itself, to try the script")
    parser.add_argument("--here", action="store_true", help="in this process")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch finds no GPU here: these cases need one of 80 GB")
    if options.here:
        print(json.dumps(carried_out(options.cases[0], options)))
        return
    name = torch.cuda.get_device_name() if options.device == "cuda" else options.device
    print(json.dumps({"device": name, "torch": torch.__version__}), flush=True)
    wrong = False
    for case in options.cases:
        found = in_its_own_process(case, options)
        print(json.dumps(found), flush=True)
        wrong = wrong or found.get("right") is False
    sys.exit(wrong)


if __name__ == "__main__":
    main()

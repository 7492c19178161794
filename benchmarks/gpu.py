"""What a GPU reaches: `python benchmarks/gpu.py [CASE ...]` prints a line of JSON for each case.

Cases: `correct` compares the padded groups of CUDA with the CPU in fp32, and the variable-length kernel in bf16 with float32
attention; the exit status is 1 where it finds more than rounding. `full-1b`, `full-7b`, `lora-7b` and `cpo-7b` measure
optimiser steps on random weights in the shape of Llamas. MFU counts 6 FLOPs a trained weight and token (4 where the weight
is frozen), attention left out, against the device's own rate of a large bf16 matrix product.
"""

import argparse
import json
import sys
import time
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from alma_pipeline.ml import varlen
from alma_pipeline.ml.distributed import join
from alma_pipeline.ml.engine import Engine, adamw
from alma_pipeline.ml.examples import Tokens
from alma_pipeline.ml.microbatches import stream
from alma_pipeline.ml.objective import LanguageModel
from alma_pipeline.ml.pairs import Pair
from alma_pipeline.ml.preference import Terms
from alma_pipeline.ml.preference_objective import PreferenceModel
from alma_pipeline.ml.training import accumulate
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
    "lora-7b": {"shape": "7b", "kind": "sft", "rank": 512},
    "cpo-7b": {"shape": "7b", "kind": "cpo", "rank": 16},
}


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
        return [Pair(ids(40, 120), ids(20, 90), ids(20, 90)) for _ in range(count)]
    prompts = [(ids(40, 120), ids(20, 90)) for _ in range(count)]
    return [Tokens(np.concatenate(parts), len(parts[0])) for parts in prompts]


def objective_of(kind: str, model: Any, row_tokens: int) -> Any:
    return PreferenceModel(model, row_tokens, Terms(0.1, 1.0, "token")) if kind == "cpo" else LanguageModel(model, row_tokens)


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


def measure(case: dict[str, Any], steps: int, batch: int, row_tokens: int) -> dict[str, Any]:
    model: Any = make(case["shape"], "cuda", torch.bfloat16)
    if "rank" in case:
        lora = LoraConfig(r=case["rank"], lora_alpha=2 * case["rank"], target_modules=TARGETS, task_type="CAUSAL_LM")
        model = get_peft_model(model, lora, autocast_adapter_dtype=False)
    if case.get("checkpointing"):
        model.activation_checkpointing_enable({"use_reentrant": False})
    hardware = Hardware(name="benchmark", device="cuda", zero_stage=1, row_tokens=row_tokens, offload=case.get("offload", "none"))
    config = Training(kind="benchmark", steps=1, precision="bf16", learning_rate=1e-6, seed=0)
    world = join(hardware)
    objective = objective_of(case["kind"], model, row_tokens)
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


def correct() -> dict[str, Any]:
    """Losses of CPU and CUDA, both fp32, and their gradients' difference as a share; the same share for the kernel in bf16."""
    shape = torch.device("cuda", 0), torch.bfloat16
    found: dict[str, Any] = {
        f"varlen, {heads} heads to {key_heads}, window {window}": varlen.trial(*shape, heads, key_heads, 64, window)
        for heads, key_heads in ((8, 8), (8, 2))
        for window in (None, 4)
    }
    for kind in ("sft", "cpo"):
        torch.manual_seed(0)
        on_cpu = objective_of(kind, make("tiny", "cpu", torch.float32), 4096)
        on_gpu = objective_of(kind, make("tiny", "cuda", torch.float32), 4096)
        on_gpu.load_state_dict(on_cpu.state_dict())
        losses, slopes = [], []
        for objective, device in ((on_cpu, "cpu"), (on_gpu, "cuda")):
            from alma_pipeline.ml.feeding import on_device

            examples = texts(kind, 24)
            batch = next(on_device(iter([objective.collate(examples)]), torch.device(device)))
            loss, _ = objective(batch, objective.norms(examples))
            loss.backward()
            losses.append(loss.item())
            slopes.append(torch.cat([weight.grad.flatten().cpu() for weight in objective.parameters()]))
        found[kind] = {"losses": losses, "gradient": float((slopes[0] - slopes[1]).norm() / slopes[0].norm())}
    kernel = max(error for name, error in found.items() if name.startswith("varlen"))
    slopes_off = max(found[kind]["gradient"] for kind in ("sft", "cpo"))
    losses_off = max(abs(one / other - 1) for one, other in (found[kind]["losses"] for kind in ("sft", "cpo")))
    return found | {"right": kernel <= varlen.TOLERANCE and slopes_off <= 1e-3 and losses_off <= 1e-5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=["correct", *CASES])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--row-tokens", type=int, default=8192)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("torch finds no GPU here: these cases need one of 80 GB")
    print(json.dumps({"device": torch.cuda.get_device_name(), "torch": torch.__version__}))
    wrong = False
    for name in options.cases:
        torch.cuda.reset_peak_memory_stats()
        found = correct() if name == "correct" else measure(CASES[name], options.steps, options.batch, options.row_tokens)
        print(json.dumps({"case": name} | found), flush=True)
        wrong = wrong or found.get("right") is False
    sys.exit(wrong)


if __name__ == "__main__":
    main()

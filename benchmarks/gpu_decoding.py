"""Cases of `gpu.py` that decode and score: speed by token budget beside `generate`, and COMET on the device."""

import subprocess
import time
from pathlib import Path
from typing import Any

import torch
from gpu_beds import Bed, random_pairs
from gpu_correct import share_different, spread
from gpu_figures import Figure, bound
from transformers import AutoModelForCausalLM

from alma_pipeline.ml.decoding import decode
from alma_pipeline.ml.decoding.search import DecodeLimits
from alma_pipeline.ml.distributed import init_process_group
from alma_pipeline.ml.scoring.comet import CometSegment, score
from alma_pipeline.ml.scoring.segment_cache import SegmentCache
from alma_pipeline.paths import comet_interpreter
from alma_pipeline.schema import Hardware, Neural

BEAMS, NEW_TOKENS = 5, 64
BUDGETS = (8192, 32768, 65536)
GENERATED = 32
"""Sentences that `generate` decodes at a time."""
NEURAL = Path(__file__).parent.parent / "tests" / "helpers" / "make_comet_models.py"


def budgets(bed: Bed) -> list[Figure]:
    """Sentences per second at each token budget beside `generate` on the same sentences, 5 beams in bf16."""
    init_process_group(bed.hardware())
    model: Any = spread(
        AutoModelForCausalLM.from_pretrained(bed.base("1b").path, dtype=torch.float32 if bed.dry else torch.bfloat16)
    ).to(bed.device)
    model.eval()
    shape, new = bed.shape("1b"), 8 if bed.dry else NEW_TOKENS
    prompts = [prompt for prompt, _ in random_pairs(8 if bed.dry else 256, shape.vocab_size)]
    theirs, seconds = _timed(bed, lambda: _generate(model, prompts, new))
    found = [Figure(name="`generate`, 32 sentences at a time", measured=len(prompts) / seconds, unit="sents/s")]
    for budget in BUDGETS:
        limits = DecodeLimits(max_new_tokens=new, decode_tokens=budget, eos=1, pad=2)
        ours, taken = _timed(bed, lambda limits=limits: decode.beam_search(model, prompts, BEAMS, limits))
        name = f"native, {budget:,} tokens"
        found.append(Figure(name=name, measured=len(prompts) / taken, unit="sents/s", expected=len(prompts) / seconds))
        found.append(Figure(name=f"{name}: outputs that differ", measured=share_different(ours, theirs), note="rounding in bf16"))
    return found


def _timed(bed: Bed, call: Any) -> tuple[Any, float]:
    """What the call returns, and its seconds; the first call, which chooses kernels, does not count."""
    call()
    start = time.perf_counter()
    result = call()
    if not bed.dry:
        torch.cuda.synchronize()
    return result, time.perf_counter() - start


@torch.no_grad()
def _generate(model: Any, prompts: list[list[int]], new: int) -> list[list[int]]:
    """Hugging Face's beam search, sentences of similar length together, padded on the left."""
    outputs: dict[int, list[int]] = {}
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    for start in range(0, len(order), GENERATED):
        places = order[start : start + GENERATED]
        longest = max(len(prompts[place]) for place in places)
        padded = torch.tensor([[2] * (longest - len(prompts[place])) + prompts[place] for place in places], device=model.device)
        mask = torch.tensor([[0] * (longest - len(prompts[p])) + [1] * len(prompts[p]) for p in places], device=model.device)
        made = model.generate(
            input_ids=padded,
            attention_mask=mask,
            num_beams=BEAMS,
            max_new_tokens=new,
            do_sample=False,
            eos_token_id=1,
            pad_token_id=2,
        )
        for place, row in zip(places, made[:, longest:].tolist(), strict=True):
            outputs[place] = row[: row.index(1)] if 1 in row else [piece for piece in row if piece != 2]
    return [outputs[place] for place in range(len(prompts))]


def comet(bed: Bed) -> list[Figure]:
    """COMET's worker on the device beside the CPU: a random BERT, whose scores mean nothing and must be equal."""
    folder = bed.folder / "comet"
    made = subprocess.run(
        [str(comet_interpreter(None)), "-I", str(NEURAL), str(folder)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise RuntimeError(made.stderr[-2000:])
    metric = Neural(model=str(folder / "regression" / "checkpoints" / "model.ckpt"))
    segments = [CometSegment(f"source {n} " * (n % 9 + 1), f"output {n} " * (n % 7 + 1), f"reference {n}") for n in range(200)]
    found: list[tuple[float, list[float]]] = []
    for device in ("cpu", bed.device.type):
        machine = Hardware(name="benchmark", device=device, memory_gb=80, comet_python=None, comet_batch=16)
        start = time.perf_counter()
        cache = SegmentCache(bed.folder / f"scores-{device}-{len(found)}.db")
        scores = score(metric, segments, machine, cache, lambda done, total: None).scores
        found.append((time.perf_counter() - start, scores))
    (cpu_seconds, cpu), (seconds, device_scores) = found
    apart = max(abs(one - other) for one, other in zip(cpu, device_scores, strict=True)) / 100
    return [
        Figure(name="200 segments, start included", measured=seconds, unit="s", expected=cpu_seconds),
        bound("largest difference of a score", apart, 1e-3),
    ]

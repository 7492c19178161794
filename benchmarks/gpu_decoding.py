"""Cases of `gpu.py` that decode and score: speed by token budget beside `generate`, and COMET on the device."""

import contextlib
import io
import re
import subprocess
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from gpu_beds import SMALL, Bed, random_llama, random_pairs
from gpu_correct import share_different, spread
from gpu_figures import Figure, bound
from transformers import AutoModelForCausalLM

from alma_pipeline.ml.decoding import decode
from alma_pipeline.ml.decoding.search import DecodeLimits
from alma_pipeline.ml.distributed import init_process_group
from alma_pipeline.ml.models import nf4
from alma_pipeline.ml.models.open import load_for_inference
from alma_pipeline.ml.scoring.comet import CometSegment, score
from alma_pipeline.ml.scoring.segment_cache import SegmentCache
from alma_pipeline.paths import comet_interpreter
from alma_pipeline.plan.estimates import model_size
from alma_pipeline.schema import Hardware, Neural

BEAMS, NEW_TOKENS = 5, 64
BUDGETS = (8192, 32768, 65536)
ROUNDED = 1e-3
"""Share of numbers that may differ by a rounding: the mean of NF4's scales is summed in another order (our choice)."""
REPLAYED = 0.05
"""Share of 24 outputs that may differ: one, since recorded batches have other shapes, which round otherwise (our choice)."""
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


def recorded(bed: Bed) -> list[Figure]:
    """Steps recorded as CUDA graphs beside steps launched one by one: equal outputs, nothing refused, and the time of both.

    A small model in fp32 for the outputs, 1B in bf16 for the time. On a CPU nothing is recorded.
    """
    init_process_group(bed.hardware())
    small: Any = spread(random_llama(SMALL, torch.device("cpu"), torch.float32)).to(bed.device).eval()
    prompts = [prompt for prompt, _ in random_pairs(24, SMALL.vocab_size)]
    limits = DecodeLimits(max_new_tokens=24, decode_tokens=4096, eos=1, pad=2)
    found, printed = [], io.StringIO()
    for beams in (1, BEAMS):
        with contextlib.redirect_stdout(printed):
            replayed = decode.beam_search(small, prompts, beams, limits)
        with mock.patch.object(decode, "capture_for", lambda *_: None):
            plain = decode.beam_search(small, prompts, beams, limits)
        found.append(bound(f"outputs that differ, fp32, {beams} beams", share_different(replayed, plain), REPLAYED))
    large: Any = spread(random_llama(bed.shape("1b"), bed.device, torch.float32 if bed.dry else torch.bfloat16)).eval()
    prompts = [prompt for prompt, _ in random_pairs(4 if bed.dry else 64, bed.shape("1b").vocab_size)]
    limits = DecodeLimits(max_new_tokens=8 if bed.dry else NEW_TOKENS, decode_tokens=BUDGETS[0], eos=1, pad=2)
    with contextlib.redirect_stdout(printed):
        _, seconds = _timed(bed, lambda: decode.beam_search(large, prompts, BEAMS, limits))
    with mock.patch.object(decode, "capture_for", lambda *_: None):
        _, plain_seconds = _timed(bed, lambda: decode.beam_search(large, prompts, BEAMS, limits))
    refused = re.findall(r"cannot be recorded|launched one by one", printed.getvalue())
    print(printed.getvalue())
    return [
        *found,
        Figure(name="64 sentences, replayed", measured=seconds, unit="s", expected=plain_seconds, note="beside plain steps"),
        Figure(name="recordings that were refused", measured=float(len(refused)), wrong=bool(refused)),
    ]


def four_bits(bed: Bed) -> list[Figure]:
    """The base in 4 bits: its memory beside the estimate, its rounding beside the CPU's, and its speed beside 16 bits."""
    hardware = bed.hardware()
    init_process_group(hardware)
    base, shape = bed.base("1b"), bed.shape("1b")
    if not bed.dry:
        torch.cuda.reset_peak_memory_stats()
    packed, _ = load_for_inference(base, hardware, "bf16", quantization="nf4")
    peak = 0 if bed.dry else torch.cuda.max_memory_allocated()
    matrix = torch.randn(256, 512, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    apart = float((nf4.rounded(matrix) != nf4.rounded(matrix.to(bed.device)).cpu()).float().mean())
    seconds = {"4 bits": _decoding_seconds(bed, packed)}
    del packed
    whole, _ = load_for_inference(base, hardware, "bf16", Path(base.path))
    seconds["16 bits"] = _decoding_seconds(bed, whole)
    largest = 2 * shape.hidden_size * max(shape.intermediate_size, shape.vocab_size)
    expected = (model_size.nf4_bytes(shape, "bf16") + largest) / 1e9
    return [
        Figure(name="peak while it loads", measured=peak / 1e9, unit="GB", expected=expected, wrong=peak / 1e9 > 1.05 * expected),
        bound("numbers rounded otherwise than on the CPU", apart, ROUNDED),
        Figure(name="32 sentences", measured=seconds["4 bits"], unit="s", expected=seconds["16 bits"], note="beside 16 bits"),
    ]


def _decoding_seconds(bed: Bed, model: Any) -> float:
    prompts = [prompt for prompt, _ in random_pairs(2 if bed.dry else 32, bed.shape("1b").vocab_size)]
    limits = DecodeLimits(max_new_tokens=4 if bed.dry else NEW_TOKENS, decode_tokens=BUDGETS[0], eos=1, pad=2)
    return _timed(bed, lambda: decode.beam_search(model, prompts, BEAMS, limits))[1]


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

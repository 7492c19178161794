"""Cases of `gpu.py` that compare: the device with the CPU, kernels with plain arithmetic, 4-bit decoding with training."""

from typing import Any
from unittest import mock

import numpy as np
import torch
from gpu_beds import SMALL, Bed, random_llama, random_pairs
from gpu_figures import Figure, bound
from torch import Tensor

from alma_pipeline.ml import distributed
from alma_pipeline.ml.data.preference_pairs import PreferencePair
from alma_pipeline.ml.data.token_arrays import Tokens
from alma_pipeline.ml.decoding import decode
from alma_pipeline.ml.decoding.search import DecodeLimits, Sampling
from alma_pipeline.ml.training import varlen
from alma_pipeline.ml.training.objective import LanguageModel
from alma_pipeline.ml.training.preference_losses import LossSettings
from alma_pipeline.ml.training.preference_objective import PreferenceModel
from alma_pipeline.ml.training.prefetch import on_device

FP32, BF16, OUTPUTS = 1e-3, 0.05, 0.1
"""Shares up to which losses and gradients differ by rounding, and outputs by pieces that are equally likely (our choice)."""
HEADS = ((32, 32), (40, 40), (32, 8))
"""Heads of queries and of keys in Llama 2 7B, 13B and Llama 3 8B; all of 128 numbers."""


def collectives(bed: Bed) -> list[Figure]:
    """What ranks exchange, in a group of one process on the device."""
    world = distributed.init_process_group(bed.hardware())
    summed = distributed.all_reduce_sum(torch.ones(3, device=world.device)).tolist()
    right = [distributed.all_gather({"a": 1}) == [{"a": 1}], distributed.broadcast("text") == "text", summed == [1.0] * 3]
    distributed.barrier()
    return [Figure(name="right answers", measured=float(sum(right)), expected=3.0, wrong=not all(right))]


def kernels(bed: Bed) -> list[Figure]:
    """The variable-length kernel beside one sequence at a time; there is none on a CPU."""
    if bed.dry:
        return [Figure(name="error", measured=0.0, note="needs a GPU")]
    return [
        bound(
            f"{heads} heads to {key_heads}" + (", window 4" if window else ""),
            varlen.trial_error(bed.device, torch.bfloat16, heads, key_heads, 128, window),
            varlen.TOLERANCE,
        )
        for heads, key_heads in HEADS
        for window in (None, 4)
    ]


def equal(bed: Bed) -> list[Figure]:
    """Losses, gradients and outputs on the device beside the CPU in fp32, and packed rows by the kernel beside groups in bf16."""
    distributed.init_process_group(bed.hardware())
    found = []
    for kind in ("sft", "cpo"):
        cpu, same = _objectives(kind, torch.float32, bed.device)
        found += _differences(f"{kind}, fp32", _result(cpu, kind), _result(same, kind), FP32)
        one, other = (objective.to(bed.device) for objective in _objectives(kind, torch.bfloat16, bed.device))
        with mock.patch.object(varlen, "is_usable", lambda *states: False):
            groups = _result(one, kind)
        found += _differences(f"{kind}, bf16, kernel", groups, _result(other, kind), BF16)
    return [*found, *_outputs(bed), _waits(bed)]


def _waits(bed: Bed) -> Figure:
    """Whether a micro-batch, forward and backward, waits for the device anywhere, which would leave it idle."""
    if bed.dry:
        return Figure(name="waits within a micro-batch", measured=0.0, note="needs a GPU")
    objective, examples = _objective("sft", random_llama(SMALL, bed.device, torch.bfloat16)), _examples("sft")
    batch, norms, waits = next(on_device(iter([objective.collate(examples)]), bed.device)), objective.norms(examples), 0.0
    objective(batch, norms)[0].backward()  # what is tried once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        objective(batch, norms)[0].backward()
    except RuntimeError as error:
        print(error)
        waits = 1.0
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return Figure(name="waits within a micro-batch", measured=waits, wrong=bool(waits))


def _objective(kind: str, model: Any) -> Any:
    if kind == "cpo":
        return PreferenceModel(model, 4096, LossSettings(0.1, 1.0, "token"))
    return LanguageModel(model, 4096)


def _objectives(kind: str, dtype: torch.dtype, device: torch.device) -> tuple[Any, Any]:
    """One set of weights on the CPU, and the same on the device."""
    torch.manual_seed(0)
    one = _objective(kind, random_llama(SMALL, torch.device("cpu"), dtype))
    other = _objective(kind, random_llama(SMALL, device, dtype))
    other.load_state_dict(one.state_dict())
    return one, other


def _examples(kind: str) -> list[Any]:
    pairs = random_pairs(24, SMALL.vocab_size)
    if kind == "cpo":
        return [PreferencePair(Tensor(p).int().numpy(), Tensor(a).int().numpy(), Tensor(a[::-1]).int().numpy()) for p, a in pairs]
    return [Tokens(torch.tensor(prompt + answer, dtype=torch.int32).numpy(), len(prompt)) for prompt, answer in pairs]


def _result(objective: Any, kind: str) -> tuple[float, Tensor]:
    """Loss and gradient of 24 examples."""
    examples, device = _examples(kind), next(objective.parameters()).device
    batch = next(on_device(iter([objective.collate(examples)]), device))
    loss, _ = objective(batch, objective.norms(examples))
    loss.backward()
    return loss.item(), torch.cat([weight.grad.flatten().float().cpu() for weight in objective.parameters()])


def _differences(name: str, one: tuple[float, Tensor], other: tuple[float, Tensor], limit: float) -> list[Figure]:
    gradient = float((one[1] - other[1]).norm() / one[1].norm())
    return [bound(f"{name}: loss", abs(other[0] / one[0] - 1), limit), bound(f"{name}: gradient", gradient, limit)]


def _outputs(bed: Bed) -> list[Figure]:
    """Share of 24 outputs that differ from the CPU's."""
    model: Any = spread(random_llama(SMALL, torch.device("cpu"), torch.float32))
    prompts = [prompt for prompt, _ in random_pairs(24, SMALL.vocab_size)]
    limits = DecodeLimits(max_new_tokens=24, decode_tokens=8192, eos=1, pad=2)
    drawn = Sampling(width=2, temperature=0.9, top_p=0.6, seed=1)
    found = []
    for place in (torch.device("cpu"), bed.device):
        model = model.to(place).eval()
        ways: dict[str, list[Any]] = {f"{beams} beams": decode.beam_search(model, prompts, beams, limits) for beams in (1, 5)}
        found.append(ways | {"samples": decode.sample(model, prompts, drawn, limits)})
    return [
        bound(f"outputs that differ, {way}", share_different(found[0][way], found[1][way]), OUTPUTS, "equally likely pieces may")
        for way in found[0]
    ]


def spread(model: Any) -> Any:
    """Weights under which next pieces differ in likelihood, which random ones do not."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(25 if "embed" in name or "lm_head" in name else 1)
    return model


def share_different(one: list[Any], other: list[Any]) -> float:
    return float(np.mean([a != b for a, b in zip(one, other, strict=True)]))

"""Bytes of the tensors that training holds, beside their estimate: `torchrun --nproc-per-node 2 -m helpers.held_tensors FILE`.

FILE gets a JSON object of the cases. On a CPU device and host are the same memory, so what DeepSpeed's optimiser keeps for
offload is counted as the host's, and the rest as the device's.
"""

import dataclasses
import itertools
import json
import os
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

from alma_pipeline.ml.distributed import init_process_group
from alma_pipeline.ml.models.load import DTYPES
from alma_pipeline.ml.training import engine as engines
from alma_pipeline.ml.training.engine import Engine, adamw
from alma_pipeline.plan.estimates import zero_memory
from alma_pipeline.plan.estimates.estimate import training_memory
from alma_pipeline.schema import Architecture, Hardware, Lora, Model, Training

SHAPE = Architecture(hidden_size=64, intermediate_size=172, layers=4, heads=4, kv_heads=4, vocab_size=256)
LORA = Lora(rank=16, alpha=16.0, targets=["q_proj", "v_proj", "down_proj"])
TOKENS = 4
"""Of a micro-batch: so few that activations hardly count."""
BUCKET = 5000
"""In place of 50 million, so that the buckets have the share of a large model's."""
Case = tuple[int, str, str, str]
"""ZeRO stage, offload, precision, adapter."""


def cases() -> Iterator[Case]:
    yield (0, "none", "fp32", "none")
    yield from itertools.product((1, 2, 3), ("none", "cpu"), ("bf16", "fp32"), ("none",))
    yield from itertools.product((1, 2, 3), ("none", "cpu"), ("bf16",), ("new",))


class Ledger(TorchDispatchMode):
    """Counts the bytes of all tensors made since it was entered: those that exist now, and the most at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.device.type != "meta":
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        if storage._cdata not in self._sizes:
            self._sizes[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._forget, storage._cdata)

    def _forget(self, place: int) -> None:
        self.now -= self._sizes.pop(place)


class Loss(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        loss: Tensor = self.model(input_ids=ids, labels=ids).loss
        return loss


def model_of(precision: str, adapter: str) -> nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=SHAPE.hidden_size,
        intermediate_size=SHAPE.intermediate_size,
        num_hidden_layers=SHAPE.layers,
        num_attention_heads=SHAPE.heads,
        num_key_value_heads=SHAPE.kv_heads,
        vocab_size=SHAPE.vocab_size,
        tie_word_embeddings=False,
        use_cache=False,
    )
    model: nn.Module = LlamaForCausalLM(config).to(DTYPES[precision])
    if adapter == "none":
        return model
    lora = LoraConfig(r=LORA.rank, lora_alpha=16, target_modules=LORA.targets, task_type="CAUSAL_LM")
    wrapped: nn.Module = get_peft_model(model, lora, autocast_adapter_dtype=False)  # type: ignore[arg-type]
    return wrapped


@mock.patch.object(engines, "REDUCE_BUCKET", BUCKET)
@mock.patch.object(zero_memory, "REDUCE_BUCKET", BUCKET)
def measured(case: Case) -> dict[str, float]:
    """Bytes per device and in the host's memory, each beside its estimate, and the norm of the last step's gradient."""
    stage, offload, precision, adapter = case
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    hardware = Hardware(
        name="test",
        devices=processes,
        launcher="torchrun" if processes > 1 else "local",
        zero_stage=stage,
        offload=offload,
        micro_batch_tokens=TOKENS,
        threads=1,
    )
    init_process_group(hardware)
    config = Training(kind="test", seed=1, steps=2, precision=precision, adapter=adapter, lora=LORA, learning_rate=1e-3)
    with Ledger() as ledger:
        loss = Loss(model_of(precision, adapter))
        engine = Engine(loss, adamw(loss, config), config, hardware, processes)
        for step in range(2):
            ledger.most = ledger.now
            for micro_batch in range(2):
                engine.backward(engine(torch.arange(TOKENS)[None] + step + micro_batch))
            engine.step(1e-3)
    host, norm = host_bytes(engine.deepspeed.optimizer), float(engine.grad_norm)
    engine.close()
    away = dataclasses.replace(hardware, device="cuda")
    model = Model(name="test", architecture=SHAPE, precision=precision)
    sizes = zero_memory.Trained(*sizes_of(loss), precision)
    return {
        "device": ledger.most - host,
        "device_estimate": sum(training_memory(config, model, away, TOKENS * processes).values()),
        "host": host,
        "host_estimate": zero_memory.host_bytes(sizes, away),
        "grad_norm": norm,
    }


def sizes_of(module: nn.Module) -> tuple[int, int, int]:
    """Trained, largest trained, frozen."""
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in module.parameters()]
    trained = [size for size, is_trained in sizes if is_trained]
    return sum(trained), max(trained), sum(size for size, is_trained in sizes if not is_trained)


def host_bytes(optimizer: Any) -> int:
    """Of the tensors that DeepSpeed's optimiser puts into the host's memory; 0 without offload."""
    if not getattr(optimizer, "cpu_offload", False) and not getattr(optimizer, "offload_optimizer", False):
        return 0
    weights = [
        *getattr(optimizer, "single_partition_of_fp32_groups", ()),
        *getattr(optimizer, "fp32_partitioned_groups_flat", ()),
    ]
    held = [*weights, *(weight.grad for weight in weights), *getattr(optimizer, "accumulated_grads_in_cpu", {}).values()]
    held += getattr(optimizer, "param_buffer_of_bit16_for_cpu_offload_groups", ())
    held += [getattr(optimizer, name, None) for name in ("temp_grad_buffer_for_cpu_offload", "grad_partitions_flat_buffer")]
    held += [value for state in optimizer.optimizer.state.values() for value in state.values()]
    storages = [tensor.untyped_storage() for tensor in held if isinstance(tensor, Tensor)]
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


def main(file: Path) -> None:
    found = {"-".join(map(str, case)): measured(case) for case in cases()}
    if int(os.environ["RANK"]) == 0:
        file.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

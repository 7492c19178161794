"""DeepSpeed as this project sets it up: one configuration for every ZeRO stage, precision and offload. Not the loop."""

from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from torch import Tensor, nn

from alma_pipeline.errors import PipelineError, UserError
from alma_pipeline.schema import Hardware, Training

LINEAR = nn.functional.linear


class Engine:
    """A module under DeepSpeed, its optimiser, and the gradient norm of the last step.

    Micro-batches are accumulated by calling `backward` as often as there are any; `step` ends the batch. DeepSpeed
    averages over ranks, so each rank's loss is multiplied by their number: what arrives is the sum.
    """

    def __init__(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, config: Training, hardware: Hardware, ranks: int
    ) -> None:
        """`optimizer` holds the trained parameters of `module`. Raises UserError where ZeRO lacks what is asked for."""
        self.ranks = ranks
        self.grad_norm: Tensor | float = 0.0
        self.zero_stage = hardware.zero_stage
        if not self.zero_stage:
            optimizer.register_step_pre_hook(self._clip)
            self._clip_norm, self._trained = config.clip, [p for group in optimizer.param_groups for p in group["params"]]
        self.deepspeed, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=deepspeed_config(config, hardware))
        if ranks == 1 and not self.zero_stage:
            # One process has nothing to reduce; DeepSpeed would copy all gradients to find that out.
            self.deepspeed.enable_backward_allreduce = False

    def __call__(self, *inputs: Any) -> Any:
        return self.deepspeed(*inputs)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of this rank's share of the batch's loss."""
        self.deepspeed.backward(loss * self.ranks, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> None:
        """Update the weights with what was accumulated."""
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = learning_rate
        self.deepspeed.step()
        if self.zero_stage:
            self.grad_norm = self.deepspeed.get_global_grad_norm()

    def save(self, folder: Path) -> None:
        """Weights that are trained and the optimiser's state, into `folder`; every rank takes part."""
        self.deepspeed.save_checkpoint(str(folder.parent), tag=folder.name, save_latest=False, exclude_frozen_parameters=True)

    def load(self, folder: Path) -> None:
        """What `save` wrote. Frozen weights are not in it: they come from the parent, as they did at first."""
        loaded, _ = self.deepspeed.load_checkpoint(
            str(folder.parent), tag=folder.name, load_module_strict=False, load_lr_scheduler_states=False
        )
        if loaded is None:
            raise PipelineError(f"DeepSpeed could not read the resume point {folder}")

    @property
    def updates(self) -> int:
        """Steps that changed the weights: under fp16 those whose gradient overflowed are skipped."""
        return int(self.deepspeed.global_steps - self.deepspeed.skipped_steps)

    def close(self) -> None:
        """Let go of the module: hooks and buffers would keep it alive."""
        self.deepspeed.destroy()
        # ZeRO-3 replaces it for good, with one that keeps the inputs of frozen matrices too.
        nn.functional.linear = LINEAR

    def _clip(self, *_: Any) -> None:
        """Without ZeRO, DeepSpeed neither reports the norm nor clips in one pass."""
        gradients = [p.grad for p in self._trained if p.grad is not None]
        self.grad_norm = torch.nn.utils.get_total_norm(gradients)
        if self._clip_norm:
            torch.nn.utils.clip_grads_with_norm_(self._trained, self._clip_norm, self.grad_norm)


def deepspeed_config(config: Training, hardware: Hardware) -> dict[str, Any]:
    """DeepSpeed's own configuration. No batch size lives in it: those it demands are placeholders."""
    _check_device(config.precision)
    if config.precision != "fp32" and not hardware.zero_stage:
        raise UserError(
            f"precision={config.precision} keeps fp32 master weights in DeepSpeed's ZeRO optimiser, "
            "found hardware.zero_stage=0; set hardware.zero_stage to 1, 2 or 3"
        )
    if hardware.offload != "none" and not hardware.zero_stage:
        raise UserError(f"hardware.offload={hardware.offload} is ZeRO's, found hardware.zero_stage=0; set it to 1, 2 or 3")
    zero: dict[str, Any] = {"stage": hardware.zero_stage}
    if hardware.offload == "cpu":
        zero["offload_optimizer"] = {"device": "cpu"}
    half = config.precision != "fp32"
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        # Left out, it would clip at 1.
        "gradient_clipping": config.clip if hardware.zero_stage else 0.0,
        "zero_allow_untested_optimizer": True,
        # DeepSpeed's own CPU optimiser is compiled on first use; torch's fused one is there already.
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": zero,
        "bf16": {"enabled": config.precision == "bf16"},
        "fp16": {"enabled": config.precision == "fp16"},
        # In 16 bits a sum of many micro-batches loses its small terms, and depends on their number.
        "data_types": {"grad_accum_dtype": "fp32" if half else None},
        "timers": {"throughput": {"enabled": False}},
    }


def _check_device(precision: str) -> None:
    device = get_accelerator()
    able = {"fp32": True, "bf16": device.is_bf16_supported(), "fp16": device.is_fp16_supported()}
    if not able[precision]:
        others = [name for name, is_able in able.items() if is_able]
        raise UserError(
            f"precision={precision}: DeepSpeed cannot train in it on {device.device_name()}; use {' or '.join(others)}"
        )


def adamw(module: nn.Module, config: Training) -> torch.optim.Optimizer:
    """AdamW over what requires a gradient; vectors (biases, the weights of norms) do not decay."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        fused=True,
    )

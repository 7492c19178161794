"""DeepSpeed as this project configures it, the same for every ZeRO stage, precision and offload. Not the training loop."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from torch import Tensor, nn

from alma_pipeline.errors import PipelineError, UserError
from alma_pipeline.ml import distributed
from alma_pipeline.ml.training.points.snapshot import Snapshot
from alma_pipeline.ml.training.points.state_files import StateFiles
from alma_pipeline.schema import Hardware, Training

LINEAR = nn.functional.linear
"""PyTorch's own linear function, which `Engine.close` restores."""
REDUCE_BUCKET = 50_000_000
"""Gradients that ZeRO collects before it reduces them, unless a trained matrix is larger: 100 MB in 16 bits, enough to use a
network fully (our choice; DeepSpeed's default of 5e8 takes 1 GB even for a LoRA)."""


class Engine:
    """A module under DeepSpeed, its optimiser, and the gradient norm of the last step.

    Call `backward` for each micro-batch of a batch, then `step`. DeepSpeed averages gradients over ranks, so each rank's loss
    is multiplied by their number, and the result is the sum.
    """

    def __init__(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, config: Training, hardware: Hardware, ranks: int
    ) -> None:
        """`optimizer` holds the trained parameters of `module`. Raises UserError if ZeRO does not support the settings."""
        self.ranks = ranks
        self.grad_norm: Tensor | float = 0.0
        self.zero_stage = hardware.zero_stage
        # Without ZeRO, DeepSpeed neither clips in one pass nor reports the norm, so a hook does both.
        if not self.zero_stage:
            optimizer.register_step_pre_hook(self._clip)
            self._clip_norm, self._trained = (
                config.max_grad_norm,
                [p for group in optimizer.param_groups for p in group["params"]],
            )
        settings = deepspeed_config(config, hardware, [parameter.numel() for parameter in trained_parameters(module)])
        if self.zero_stage == 3:
            # Slice each matrix as it reaches the device: DeepSpeed itself would move the whole model there first.
            deepspeed.zero.Init(module=module, config_dict_or_path=settings)
            # It leaves buffers, as rotary frequencies, on the CPU, from where each forward pass would fetch them or fail.
            for buffer in module.buffers():
                buffer.data = buffer.data.to(distributed.device())
        self.deepspeed, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=settings)
        self.deepspeed.checkpoint_engine = StateFiles()
        if ranks == 1 and not self.zero_stage:
            # One process has nothing to reduce, but DeepSpeed would copy all gradients before it notices.
            self.deepspeed.enable_backward_allreduce = False

    def __call__(self, *inputs: Any) -> Any:
        return self.deepspeed(*inputs)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of this rank's share of the batch's loss (a scalar)."""
        self.deepspeed.backward(loss * self.ranks, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> None:
        """Update the weights with the accumulated gradient."""
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = learning_rate
        self.deepspeed.step()
        if self.zero_stage:
            self.grad_norm = self.deepspeed.get_global_grad_norm()

    def copy(self, folder: Path) -> dict[Path, Snapshot]:
        """Trained weights and optimiser state as they are now, as this rank's files of `folder`, still to be written.

        A collective call. The copies must be written before the next call, which uses their memory again.
        """
        self.deepspeed.save_checkpoint(str(folder.parent), tag=folder.name, save_latest=False, exclude_frozen_parameters=True)
        # ZeRO leaves a script that reads DeepSpeed's pickles.
        for script in folder.parent.glob("zero_to_*.py"):
            script.unlink(missing_ok=True)
        return dict(self.deepspeed.checkpoint_engine.taken)

    def load(self, folder: Path) -> None:
        """Load the files of a `copy`. Frozen weights are not among them. Raises PipelineError if they are unreadable."""
        loaded, _ = self.deepspeed.load_checkpoint(
            str(folder.parent), tag=folder.name, load_module_strict=False, load_lr_scheduler_states=False
        )
        if loaded is None:
            raise PipelineError(f"DeepSpeed could not read the resume point {folder}")

    @property
    def updates(self) -> int:
        """Steps that changed the weights; under fp16, steps whose gradient overflowed are skipped."""
        return int(self.deepspeed.global_steps - self.deepspeed.skipped_steps)

    def close(self) -> None:
        """Release the module, which hooks and buffers would keep alive."""
        self.deepspeed.destroy()
        # ZeRO-3 replaces this function globally with one that also keeps the inputs of frozen matrices.
        nn.functional.linear = LINEAR

    def _clip(self, *_: Any) -> None:
        """Compute the gradient norm and clip to `max_grad_norm`, for runs without ZeRO."""
        gradients = [p.grad for p in self._trained if p.grad is not None]
        self.grad_norm = torch.nn.utils.get_total_norm(gradients)
        if self._clip_norm:
            torch.nn.utils.clip_grads_with_norm_(self._trained, self._clip_norm, self.grad_norm)


def deepspeed_config(config: Training, hardware: Hardware, trained: Sequence[int]) -> dict[str, Any]:
    """DeepSpeed's configuration as a dictionary. The batch sizes in it are placeholders that DeepSpeed demands.

    `trained`: how many numbers each trained parameter has. Raises UserError for a precision that the device cannot train in, and
    for settings that need ZeRO without it.
    """
    # Refuse impossible settings here: DeepSpeed's own errors do not name ours.
    _check_device(config.precision)
    if config.precision != "fp32" and not hardware.zero_stage:
        raise UserError(
            f"precision={config.precision} keeps fp32 master weights in DeepSpeed's ZeRO optimiser, "
            "found hardware.zero_stage=0; set hardware.zero_stage to 1, 2 or 3"
        )
    if hardware.offload != "none" and not hardware.zero_stage:
        raise UserError(f"hardware.offload={hardware.offload} needs ZeRO, found hardware.zero_stage=0; set it to 1, 2 or 3")
    zero: dict[str, Any] = {
        "stage": hardware.zero_stage,
        "reduce_bucket_size": reduce_bucket(trained),
        # ZeRO-2 reduces a full bucket while the backward pass fills a second one. ZeRO-1 must not: with accumulation left to
        # us it reduces in `step`, where DeepSpeed 0.19.8 skips the reduction if it is to overlap (stage_1_and_2.py).
        "overlap_comm": hardware.zero_stage == 3 or (hardware.zero_stage == 2 and hardware.world > 1),
    }
    if hardware.offload == "cpu":
        zero["offload_optimizer"] = {"device": "cpu"}
    half = config.precision != "fp32"
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        # DeepSpeed's default would clip at 1.
        "gradient_clipping": config.max_grad_norm if hardware.zero_stage else 0.0,
        "zero_allow_untested_optimizer": True,
        # DeepSpeed's CPU optimiser would be compiled on first use; torch's fused one needs no compiler.
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": zero,
        "bf16": {"enabled": config.precision == "bf16"},
        "fp16": {"enabled": config.precision == "fp16"},
        # A 16-bit sum over many micro-batches loses small terms and depends on their number.
        "data_types": {"grad_accum_dtype": "fp32" if half else None},
        # ZeRO-1 reduces that sum once a step; DeepSpeed would round it to 16 bits first, even where one process has nothing to
        # reduce. ZeRO-2 and 3 reduce each micro-batch's gradient, which has 16 bits anyway.
        "communication_data_type": "fp32" if half and hardware.zero_stage == 1 else None,
        "timers": {"throughput": {"enabled": False}},
    }


def reduce_bucket(trained: Sequence[int]) -> int:
    """How many gradients ZeRO collects before it reduces them; `trained`: how many numbers each trained parameter has.

    It holds the largest one: DeepSpeed reduces a larger gradient in its own memory, which may be freed before that has ended.
    """
    return min(sum(trained), max([REDUCE_BUCKET, *trained]))


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _check_device(precision: str) -> None:
    """Raises UserError if the device does not support the precision."""
    device = get_accelerator()
    able = {"fp32": True, "bf16": device.is_bf16_supported(), "fp16": device.is_fp16_supported()}
    if not able[precision]:
        others = [name for name, is_able in able.items() if is_able]
        raise UserError(
            f"precision={precision} is not supported by DeepSpeed on {device.device_name()}; use {' or '.join(others)}"
        )


def adamw(module: nn.Module, config: Training) -> torch.optim.Optimizer:
    """AdamW (arXiv 1711.05101) over parameters that require gradients; vectors (biases, norm weights) do not decay."""
    trained = trained_parameters(module)
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

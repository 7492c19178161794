"""The form in which vLLM gets a checkpoint: base and adapter where it serves that adapter, else one merged folder.

Starts no process. What vLLM serves is read from `vllm/lora/peft_helper.py`, `config/lora.py` and `lora/ops` of vllm 0.32.0.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from transformers import AutoConfig

from alma_pipeline.job import Input
from alma_pipeline.ml.models import nf4
from alma_pipeline.ml.models.load import check_base, quantization_of
from alma_pipeline.ml.models.merge import load_merged
from alma_pipeline.schema import PRECISION_BYTES, Hardware

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values of vLLM's `max_lora_rank` above 1; an adapter's rank may be smaller."""
TARGETS = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"})
"""The matrices of Llama and its relatives on which vLLM serves a LoRA; on embeddings and output heads it does not."""
PLAIN = ("modules_to_save", "use_dora", "lora_bias", "layer_replication", "alora_invocation_tokens", "use_qalora", "use_bdlora")
"""Settings of PEFT that an adapter must leave unset."""
WEIGHTS_SHARE = 0.7
"""Of a device's memory at most, so that 0.2 of it are left for the key-value cache: vLLM takes 0.92 in all (our choice)."""


@dataclass(frozen=True)
class VllmModel:
    """Folders that vLLM loads."""

    folder: Path
    adapter: Path | None = None
    """A LoRA that vLLM applies beside the model's weights; None: everything is in `folder`."""
    rank: int = 0
    """vLLM's `max_lora_rank` for that adapter."""


def prepare(checkpoint: Input, precision: str, hardware: Hardware, work: Path) -> VllmModel:
    """The checkpoint as vLLM loads it; a model that must be merged is written to the folder `work`.

    Raises UserError for an adapter of another base.
    """
    if not checkpoint.adapters:
        return VllmModel(Path(checkpoint.base))
    if rank := served_rank(checkpoint, precision, hardware):
        check_base(Path(checkpoint.adapters[0]), checkpoint.base_key, [])
        return VllmModel(Path(checkpoint.base), Path(checkpoint.adapters[0]), rank)
    load_merged(checkpoint, checkpoint.adapters, precision).save_pretrained(work)
    return VllmModel(work)


def served_rank(checkpoint: Input, precision: str, hardware: Hardware) -> int:
    """The smallest `max_lora_rank` with which vLLM serves the checkpoint's adapter unmerged; 0 if it cannot.

    It serves one adapter on unquantized weights, and on a GPU in 16 bits only.
    """
    folder = Path(checkpoint.adapters[0])
    if len(checkpoint.adapters) > 1 or quantization_of(folder) == nf4.KIND or (precision == "fp32" and hardware.device == "cuda"):
        return 0
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    targets, initial = config["target_modules"], config.get("init_lora_weights", True)
    special = any(config.get(name) for name in PLAIN) or config.get("bias", "none") != "none" or isinstance(initial, str)
    if special or isinstance(targets, str) or not set(targets) <= TARGETS:
        return 0
    largest = max(config["r"], *(config.get("rank_pattern") or {}).values(), 0)
    return next((rank for rank in RANKS if largest <= rank), 0)


def devices_each(folder: Path, precision: str, hardware: Hardware) -> int:
    """Devices that share one model (tensor parallelism): one if it holds the model, else as few as do, else all that can.

    vLLM splits attention heads evenly.
    """
    if hardware.device == "cpu":
        return 1
    heads = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config().num_attention_heads
    possible = [count for count in range(1, hardware.devices + 1) if hardware.devices % count == 0 and heads % count == 0]
    weights = _parameters(folder) * PRECISION_BYTES[precision]
    most = WEIGHTS_SHARE * hardware.memory_gb * 1e9
    return next((count for count in possible if weights / count <= most), possible[-1])


def _parameters(folder: Path) -> int:
    """Numbers in the safetensors of a model folder; reads headers only."""
    count = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                size = 1
                for side in file.get_slice(name).get_shape():
                    size *= side
                count += size
    return count

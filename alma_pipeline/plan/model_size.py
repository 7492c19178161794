"""The arithmetic of decoder-only transformers: parameters, FLOPs and bytes from a shape alone. Knows no node and no plan.

Exact for Llama-shaped models (grouped keys and values, gated MLP, no biases); close for their relatives.
Sources, cited by name below:
  Kaplan    Kaplan et al. 2020, arXiv 2001.08361, sec. 2.1: 2 FLOPs per parameter and token forward, twice that backward
  PaLM      Chowdhery et al. 2022, arXiv 2204.02311, App. B: 6N + 12 L H Q T FLOPs per token, attention included
  ZeRO      Rajbhandari et al. 2020, arXiv 1910.02054, sec. 3.1 and Fig. 1: 2 + 2 + 12 bytes per parameter, and their split
  Megatron  Korthikanti et al. 2022, arXiv 2205.05198, sec. 4.1: activations counted tensor by tensor
  LoRA      Hu et al. 2021, arXiv 2106.09685: r (in + out) parameters per adapted matrix
  QLoRA     Dettmers et al. 2023, arXiv 2305.14314: 4-bit NormalFloat with double quantisation
"""

from alma_pipeline.schema import PRECISION_BYTES, Architecture, Lora


def head_size(shape: Architecture) -> int:
    """Dimensions of one attention head."""
    return shape.hidden_size // shape.heads


def linears(shape: Architecture) -> dict[str, tuple[int, int]]:
    """The matrices of one layer by name: inputs, outputs."""
    hidden, inner, narrow = shape.hidden_size, shape.intermediate_size, shape.kv_heads * head_size(shape)
    return {
        "q_proj": (hidden, hidden),
        "k_proj": (hidden, narrow),
        "v_proj": (hidden, narrow),
        "o_proj": (hidden, hidden),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
    }


def parameters(shape: Architecture) -> int:
    """Every weight: embeddings, layers with two norms each, the last norm, and the head unless it is tied."""
    embedding = shape.vocab_size * shape.hidden_size
    layer = sum(inputs * outputs for inputs, outputs in linears(shape).values()) + 2 * shape.hidden_size
    return embedding * (1 if shape.tied_embeddings else 2) + shape.layers * layer + shape.hidden_size


def lora_parameters(shape: Architecture, lora: Lora) -> int:
    """Weights of a LoRA on its target matrices in every layer (LoRA)."""
    known = linears(shape)
    return shape.layers * sum(lora.rank * sum(known[name]) for name in lora.targets if name in known)


def multiplied(shape: Architecture) -> int:
    """Weights that each token is multiplied with: all matrices and the head, not the embedding that is looked up."""
    layer = sum(inputs * outputs for inputs, outputs in linears(shape).values())
    return shape.layers * layer + shape.vocab_size * shape.hidden_size


def forward_flops(shape: Architecture, length: float, adapter: int = 0) -> float:
    """Of one token in a row of `length` (a third of PaLM's training count); `adapter`: weights of a LoRA beside them."""
    return 2 * (multiplied(shape) + adapter) + 4 * shape.layers * shape.hidden_size * length


def training_flops(shape: Architecture, length: float, adapter: int = 0, recompute: bool = False) -> float:
    """Of one token, forward and backward. A LoRA's frozen matrices need no gradient of their own, the third third of 6N.

    `recompute`: gradient checkpointing runs the layers forward once more (Megatron, sec. 5).
    """
    weights = 6 * multiplied(shape) if not adapter else 4 * multiplied(shape) + 6 * adapter
    attention = 12 * shape.layers * shape.hidden_size * length
    again = forward_flops(shape, length, adapter) - 2 * shape.vocab_size * shape.hidden_size if recompute else 0
    return weights + attention + again


def state_bytes(trained: int, precision: str, zero_stage: int = 0, world: int = 1, frozen: int = 0) -> dict[str, float]:
    """Weights, gradients and optimiser state of one device (ZeRO), for `trained` weights beside `frozen` ones.

    Adam keeps two fp32 moments and, in 16 bit or under any ZeRO stage, an fp32 copy of the trained weights.
    """
    width = PRECISION_BYTES[precision]
    split = {stage: world if zero_stage >= stage else 1 for stage in (1, 2, 3)}
    copy = 4 if width == 2 or zero_stage else 0
    return {
        "weights": (trained + frozen) * width / split[3],
        "gradients": trained * width / split[2],
        "optimiser": trained * (8 + copy) / split[1],
    }


def nf4_bytes(shape: Architecture, precision: str) -> float:
    """Of a whole model with the layers' matrices in 4 bits, constants included (QLoRA, sec. 3: 4.127 bits)."""
    matrices = shape.layers * sum(inputs * outputs for inputs, outputs in linears(shape).values())
    return matrices * 4.127 / 8 + (parameters(shape) - matrices) * PRECISION_BYTES[precision]


def activation_bytes(
    shape: Architecture, precision: str, lora: Lora | None = None, recompute: bool = False, zero_stage: int = 0
) -> float:
    """Of one token: what the layers keep for the backward pass, as Megatron counts it, for today's kernels.

    The attention kernel keeps no scores. Norms work in fp32. A frozen matrix keeps its input under ZeRO-3 only (the linear of
    DeepSpeed 0.19, `runtime/zero/linear.py`), a LoRA on it always, a second time after dropout. With `recompute` only the
    input of every layer is kept, and one layer in full.
    """
    layer = _layer_bytes(shape, PRECISION_BYTES[precision], lora, zero_stage)
    return shape.layers * shape.hidden_size * PRECISION_BYTES[precision] + layer if recompute else shape.layers * layer


def _layer_bytes(shape: Architecture, width: int, lora: Lora | None, zero_stage: int) -> float:
    hidden, inner, narrow = shape.hidden_size, shape.intermediate_size, shape.kv_heads * head_size(shape)
    norms = 2 * (4 * hidden + 4)
    attention = width * (2 * hidden + 2 * narrow) + 4 * shape.heads
    gate = width * 3 * inner
    if lora is None:
        # The norms' outputs before and after their weight, and the input of down_proj.
        return norms + attention + gate + width * (4 * hidden + inner)
    return norms + attention + gate + width * _frozen_inputs(shape, lora, zero_stage)


def _frozen_inputs(shape: Architecture, lora: Lora, zero_stage: int) -> int:
    """Elements of one token in one layer that frozen matrices and the LoRA on them keep."""
    known = linears(shape)
    targets = [name for name in lora.targets if name in known]
    # What a LoRA reads itself; with dropout that is a copy, beside which only ZeRO-3 keeps what was copied.
    read = known if zero_stage == 3 else [] if lora.dropout else targets
    # Matrices that share an input; o_proj reads what the attention kernel keeps.
    shared = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "mlp", "up_proj": "mlp", "down_proj": "down_proj"}
    kept = sum({shared[name]: known[name][0] for name in read if name in shared}.values())
    # The dropped input and its mask, for each matrix. The mask is counted in full width, as on a CPU.
    dropped = 2 * sum(known[name][0] for name in targets) if lora.dropout else 0
    return kept + dropped + lora.rank * len(targets)


def logit_bytes(shape: Architecture, precision: str) -> float:
    """Of one token with a label, at the peak: logits, their fp32 copy in 16 bit, and log-probabilities or their gradient."""
    return shape.vocab_size * (8 if precision == "fp32" else 10)


def gradient_bytes(shape: Architecture, precision: str) -> float:
    """Of one token while one layer is gone through backwards: gradients of its states and of the gated MLP's three."""
    return PRECISION_BYTES[precision] * (2 * shape.hidden_size + 3 * shape.intermediate_size)


def cache_bytes(shape: Architecture, precision: str) -> float:
    """Of one token in decoding: keys and values of every layer."""
    return 2 * shape.layers * shape.kv_heads * head_size(shape) * PRECISION_BYTES[precision]

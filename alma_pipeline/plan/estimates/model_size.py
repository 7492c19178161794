"""Parameters, FLOPs and bytes of a decoder-only transformer, from its shape alone. Knows neither nodes nor plans.

Exact for Llama-shaped models (grouped keys and values, gated MLP, no biases), close for their relatives. Sources by name:
  Kaplan    Kaplan et al. 2020, arXiv 2001.08361, sec. 2.1: 2 FLOPs per parameter and token forward, twice that backward
  PaLM      Chowdhery et al. 2022, arXiv 2204.02311, App. B: 6N + 12 L H Q T FLOPs per token, attention included
  ZeRO      Rajbhandari et al. 2020, arXiv 1910.02054, sec. 3.1 and Fig. 1: 2 + 2 + 12 bytes per parameter, and their sharding
  Megatron  Korthikanti et al. 2022, arXiv 2205.05198, sec. 4.1: activations counted tensor by tensor
  LoRA      Hu et al. 2021, arXiv 2106.09685: r (in + out) parameters per adapted matrix
  QLoRA     Dettmers et al. 2023, arXiv 2305.14314: 4-bit NormalFloat with double quantisation
"""

from alma_pipeline.schema import PRECISION_BYTES, Architecture, Lora


def head_size(shape: Architecture) -> int:
    """Dimensions of one attention head."""
    return shape.hidden_size // shape.heads


def linears(shape: Architecture) -> dict[str, tuple[int, int]]:
    """The matrices of one layer by name, as (inputs, outputs)."""
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
    """All weights: embeddings, layers with two norms each, the final norm, and the head unless it is tied."""
    embedding = shape.vocab_size * shape.hidden_size
    layer = sum(inputs * outputs for inputs, outputs in linears(shape).values()) + 2 * shape.hidden_size
    return embedding * (1 if shape.tied_embeddings else 2) + shape.layers * layer + shape.hidden_size


def lora_parameters(shape: Architecture, lora: Lora) -> int:
    """Weights of a LoRA on its target matrices in every layer (LoRA); targets that a layer does not have are ignored."""
    known = linears(shape)
    return shape.layers * sum(lora.rank * sum(known[name]) for name in lora.targets if name in known)


def largest_matrix(shape: Architecture, lora: Lora | None = None) -> int:
    """Numbers of the largest matrix that is trained: of the model, or of a LoRA on it."""
    known = linears(shape)
    if lora is not None:
        return lora.rank * max((max(known[name]) for name in lora.targets if name in known), default=0)
    return max(shape.vocab_size * shape.hidden_size, *(inputs * outputs for inputs, outputs in known.values()))


def multiplied(shape: Architecture) -> int:
    """Weights that every token is multiplied by: all matrices and the head, but not the embedding, which is looked up."""
    layer = sum(inputs * outputs for inputs, outputs in linears(shape).values())
    return shape.layers * layer + shape.vocab_size * shape.hidden_size


def forward_flops(shape: Architecture, length: float, adapter: int = 0) -> float:
    """FLOPs per token in a sequence of `length` tokens (a third of PaLM's count for training). `adapter`: weights of a LoRA."""
    return 2 * (multiplied(shape) + adapter) + 4 * shape.layers * shape.hidden_size * length


def training_flops(shape: Architecture, length: float, adapter: int = 0, recompute: bool = False) -> float:
    """FLOPs per token, forward and backward (PaLM).

    With a LoRA the frozen matrices get no weight gradients, which are a third of 6N. `recompute`: gradient checkpointing runs
    the layers forward a second time (Megatron, sec. 5).
    """
    weights = 6 * multiplied(shape) if not adapter else 4 * multiplied(shape) + 6 * adapter
    attention = 12 * shape.layers * shape.hidden_size * length
    again = forward_flops(shape, length, adapter) - 2 * shape.vocab_size * shape.hidden_size if recompute else 0
    return weights + attention + again


def state_bytes(trained: int, precision: str, zero_stage: int = 0, world: int = 1, frozen: int = 0) -> dict[str, float]:
    """Bytes of weights, gradients and optimiser state per device (ZeRO), for `trained` and `frozen` weights.

    Adam keeps two fp32 moments and, in 16 bits or with any ZeRO stage, an fp32 copy of the trained weights.
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
    """Bytes of a model whose layers' matrices have 4 bits; constants included, 4.127 bits per weight (QLoRA, sec. 3)."""
    matrices = shape.layers * sum(inputs * outputs for inputs, outputs in linears(shape).values())
    return matrices * 4.127 / 8 + (parameters(shape) - matrices) * PRECISION_BYTES[precision]


def activation_bytes(
    shape: Architecture, precision: str, lora: Lora | None = None, recompute: bool = False, zero_stage: int = 0
) -> float:
    """Bytes per token that the layers keep for the backward pass: Megatron's count, adapted to current kernels.

    The attention kernel keeps no scores. Norms compute in fp32. A frozen matrix keeps its input with ZeRO-3 only (the linear of
    DeepSpeed 0.19, `runtime/zero/linear.py`); a LoRA always keeps it, and a second copy after dropout. With `recompute` every
    layer keeps only its input, except for the one that is being recomputed.
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
    """Elements per token and layer that frozen matrices and the LoRA on them keep."""
    known = linears(shape)
    targets = [name for name in lora.targets if name in known]
    # The inputs that are kept as they are: all of them with ZeRO-3, else those that a LoRA without dropout reads.
    read = known if zero_stage == 3 else [] if lora.dropout else targets
    # Matrices with the same input keep it once; o_proj reads what the attention kernel keeps anyway.
    shared = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "mlp", "up_proj": "mlp", "down_proj": "down_proj"}
    kept = sum({shared[name]: known[name][0] for name in read if name in shared}.values())
    # With dropout, each matrix keeps its own dropped input and its mask, counted in full width, as on a CPU.
    dropped = 2 * sum(known[name][0] for name in targets) if lora.dropout else 0
    return kept + dropped + lora.rank * len(targets)


def logit_bytes(shape: Architecture, precision: str) -> float:
    """Bytes per labelled token at the peak: logits, their fp32 copy in 16 bits, and log-probabilities or their gradient."""
    return shape.vocab_size * (8 if precision == "fp32" else 10)


def gradient_bytes(shape: Architecture, precision: str) -> float:
    """Bytes per token during one layer's backward pass: gradients of its hidden states and of the gated MLP's three."""
    return PRECISION_BYTES[precision] * (2 * shape.hidden_size + 3 * shape.intermediate_size)


def cache_bytes(shape: Architecture, precision: str) -> float:
    """Bytes per token in decoding: keys and values of every layer."""
    return 2 * shape.layers * shape.kv_heads * head_size(shape) * PRECISION_BYTES[precision]

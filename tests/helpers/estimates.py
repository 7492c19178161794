"""Shapes of published models, machines, and a node's estimate."""

from typing import Any

from alma_pipeline.plan.estimates.estimate import estimate
from alma_pipeline.plan.estimates.node_estimate import Counts, Estimate
from alma_pipeline.schema import Architecture, Hardware, Model
from alma_pipeline.schema.kinds import kind_config

LLAMA_7B = Architecture(hidden_size=4096, intermediate_size=11008, layers=32, heads=32, kv_heads=32, vocab_size=32000)
LLAMA_13B = Architecture(hidden_size=5120, intermediate_size=13824, layers=40, heads=40, kv_heads=40, vocab_size=32000)
SMOL = Architecture(
    hidden_size=576, intermediate_size=1536, layers=30, heads=9, kv_heads=3, vocab_size=49152, tied_embeddings=True
)
TINY = Architecture(hidden_size=256, intermediate_size=688, layers=4, heads=4, kv_heads=4, vocab_size=2000, tied_embeddings=True)
A100 = Hardware(
    name="a100",
    device="cuda",
    flops=312e12,
    utilisation=0.4,
    bandwidth=2.039e12,
    memory_gb=80,
    micro_batch_tokens=4096,
    gradient_checkpointing=False,
)
LAPTOP = Hardware(name="laptop", flops=1e11, utilisation=0.5, bandwidth=1e10, memory_gb=8, micro_batch_tokens=1024)


def model(shape: Architecture, **values: Any) -> Model:
    return Model(name="test", architecture=shape, **values)


def training(kind: str = "mono", **values: Any) -> Any:
    return kind_config(kind)(**({"seed": 1, "steps": 10, "global_batch_size": 8} | values))


def counted(examples: int, tokens: int, dev: int = 0) -> Counts:
    return Counts(examples=examples, tokens=tokens, exact=True, dev_examples=dev)


def of(config: Any, shape: Architecture, hardware: Hardware, counts: Counts) -> Estimate:
    found = estimate(config.kind, config, model(shape, precision=config.precision), hardware, counts)
    assert found is not None
    return found

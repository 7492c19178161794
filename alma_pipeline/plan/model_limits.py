"""Checks that a node's settings fit the shape of its model: positions, vocabulary, matrices. Reads no weights."""

from collections.abc import Iterator, Mapping

from alma_pipeline.errors import suggestion
from alma_pipeline.plan.estimates import model_size
from alma_pipeline.plan.node import Node
from alma_pipeline.schema import Architecture, Decoding, NodeConfig, Training, Translating

LIKE_LLAMA = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "cohere"})
"""Model types whose matrices have Llama's names; those of other types are known once the model is loaded."""
HEAD = "lm_head"


def problems(node: Node, nodes: Mapping[str, Node]) -> Iterator[str]:
    """A text for each setting of a node that its model cannot carry out. `nodes`: all nodes of the plan, by name."""
    shape = base_shape(nodes)
    if shape is None:
        return
    # The prompts of samples are those of a corpus, whose own setting limits them.
    corpus = nodes.get(node.inputs.get("corpus", "")) if isinstance(node.config, Decoding) else None
    prompt = _sequence(corpus.config, corpus.setting)[:1] if corpus else []
    yield from of_settings(node.config, node.setting, shape, dict(prompt))


def base_shape(nodes: Mapping[str, Node]) -> Architecture | None:
    """The shape of the model that all nodes share; None for a plan without a model."""
    return next((node.config.architecture for node in nodes.values() if node.kind == "base"), None)  # type: ignore[attr-defined]


def of_settings(config: NodeConfig, setting: str, shape: Architecture, prompt: Mapping[str, int] | None = None) -> Iterator[str]:
    """The same for settings alone. `setting`: their key, such as stages.translate; `prompt`: a key elsewhere that adds tokens."""
    yield from _too_long({**(prompt or {}), **dict(_sequence(config, setting))}, shape)
    if isinstance(config, Translating) and config.decoding == "beam" and config.num_beams > shape.vocab_size:
        yield (
            f"{setting}.num_beams={config.num_beams}: expected at most {shape.vocab_size}, the size of the model's vocabulary "
            "(model.architecture.vocab_size)"
        )
    if isinstance(config, Training) and config.adapter != "none" and shape.model_type in LIKE_LLAMA:
        known = [*model_size.linears(shape), HEAD]
        if not config.lora.targets:
            matrices = ", ".join(sorted(known))
            yield f"{setting}.lora.targets is empty, but {setting}.adapter={config.adapter} trains a LoRA; known: {matrices}"
        for name in config.lora.targets:
            if name not in known:
                yield f"{setting}.lora.targets: the model has no matrix '{name}'; {suggestion(name, known)}"


def _sequence(config: NodeConfig, setting: str) -> list[tuple[str, int]]:
    return [(f"{setting}.{name}", tokens) for name, tokens in config.sequence().items()]


def _too_long(parts: Mapping[str, int], shape: Architecture) -> Iterator[str]:
    """A text if these settings together, in tokens, exceed the model's positions."""
    total = sum(parts.values())
    if total > shape.max_positions:
        named = " and ".join(f"{name}={value}" for name, value in parts.items())
        together = f" make {total} tokens" if len(parts) > 1 else ""
        yield (
            f"{named}{together}: expected at most {shape.max_positions} tokens, the positions of the model "
            f"(model.architecture.max_positions); lower {' or '.join(parts)}"
        )

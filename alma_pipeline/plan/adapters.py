"""Checks that each node's adapter fits the checkpoint of its parent: a full model, or a LoRA on one.

The plan checks it, since a worker would find out only after the parent has been trained. Reads no tensors.
"""

import json
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any

from alma_pipeline.plan.node import Node
from alma_pipeline.plan.step import Step
from alma_pipeline.schema import Architecture, Decoding, Training
from alma_pipeline.schema.training import lora_mismatch
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store

ON_A_LORA = ("continue", "merge_then_new")
ON_A_FULL_MODEL = ("none", "new")
ENDS = ("lm_head", "embed_tokens")
"""Names of the output head and of the input embeddings, which are one matrix in a model with tied weights."""


def problems(nodes: list[Node], released: Set[str]) -> Iterator[str]:
    """A problem for each node that does not fit its parent.

    Parents with a published checkpoint (`released`) are left to the worker, since that checkpoint may be merged.
    """
    known = {node.name: node for node in nodes}
    for node in nodes:
        parent = known.get(node.inputs.get("init", ""))
        if parent and _adapter(node) and parent.name not in released:
            yield from _misfit(node, parent)


def _misfit(node: Node, parent: Node) -> Iterator[str]:
    own, before = _adapter(node), _adapter(parent)
    setting = f"{node.setting}.adapter={own}"
    leaves_lora = before not in ("", "none")
    # A LoRA is required, but the parent is a full model: trained in full, or a base.
    if own in ON_A_LORA and not leaves_lora:
        verb = "continues" if own == "continue" else "merges"
        all_weights = f" ({parent.setting}.adapter=none)" if before else ""
        either = f", or {parent.setting}.adapter=new to train a LoRA there" if before else ""
        yield (
            f"{setting} {verb} the LoRA of its parent, but {parent.name} produces a full model{all_weights}; "
            f"set {node.setting}.adapter=new for a fresh LoRA, {node.setting}.adapter=none to train all weights{either}"
        )
    # A full model is required, but the parent is a LoRA.
    elif own in ON_A_FULL_MODEL and leaves_lora:
        yield (
            f"{setting} starts from a full model, but its parent {parent.name} produces a LoRA "
            f"({parent.setting}.adapter={before}); set {node.setting}.adapter=continue to train that LoRA further, "
            "or merge_then_new to merge it and train a fresh one"
        )


def _adapter(node: Node) -> str:
    """The setting; empty for nodes that do not train."""
    return node.config.adapter if isinstance(node.config, Training) else ""


def changed_rules(node: Node, draft: Mapping[str, Step]) -> dict[str, int]:
    """2, where adapters are merged into 16 bits: the frequencies of rotary positions stay in fp32, as they are in training.

    Before, they were rounded with the weights, by up to 0.4 %, and angles at later positions were wrong by whole degrees.
    """
    config, merges = node.config, False
    if isinstance(config, Training):
        merges = config.adapter == "merge_then_new" and config.precision != "fp32"
    elif isinstance(config, Decoding) and config.engine == "native" and config.quantization == "none":
        merges = config.precision != "fp32" and any(_leaves_lora(draft[source]) for source in node.inputs.values())
    return {"rotary": 2} if merges else {}


def _leaves_lora(step: Step) -> bool:
    """Whether the step's checkpoint is an adapter: as stored, as published, or as it is to be trained."""
    form = _form(step)
    return form == "adapter" if form else _adapter(step.node) not in ("", "none")


def _form(step: Step) -> str | None:
    """`full` or `adapter`, as stored or as published; None if the step is still to be trained, or makes no checkpoint."""
    if step.record and not step.works:
        return step.record.checkpoint.get("form")
    return step.released.form if step.released else None


def stored_problems(step: Step, draft: Mapping[str, Step], shape: Architecture, store: Store) -> Iterator[str]:
    """What the stored parent and base of a step that trains show: an adopted parent may be another than the settings say.

    `shape` is that of the model, for a base that is not stored yet.
    """
    node = step.node
    if step.verdict not in ("run", "resume") or not (own := _adapter(node)) or "init" not in node.inputs:
        return
    # An adopted parent can have another form, and its LoRA another shape.
    parent = draft[node.inputs["init"]]
    record = None if parent.works else parent.record
    form = _form(parent)
    setting, adopted = f"{node.setting}.adapter", f"but {parent.node.name} was adopted as a"
    if own in ON_A_LORA and form == "full":
        yield f"{setting}={own} needs a LoRA, {adopted} full model; set {setting}=new or none"
    elif own in ON_A_FULL_MODEL and form == "adapter":
        yield f"{setting}={own} needs a full model, {adopted} LoRA; set {setting}=continue or merge_then_new"
    elif own == "continue" and form == "adapter" and record:
        yield from _other_shape(node, record)
    elif own == "continue" and parent.works and form is None:
        yield from _other_settings(node, parent.node)
    yield from _tied_ends(step, draft, shape, store)


def _other_shape(node: Node, parent: Record) -> Iterator[str]:
    """A LoRA cannot be continued in another shape."""
    assert isinstance(node.config, Training), "only a node that trains has an adapter"
    config, base = (_read(parent.path / name) for name in ("adapter_config.json", "base.json"))
    if config and (different := lora_mismatch(config, base.get("quantization", "none"), node.config)):
        yield f"{node.setting}.adapter=continue trains the LoRA of {parent.path.name} further, but {different}"


def _other_settings(node: Node, parent: Node) -> Iterator[str]:
    """The same for a LoRA that is not trained yet: its settings are known."""
    trained = parent.config
    assert isinstance(node.config, Training), "only a node that trains has an adapter"
    if not isinstance(trained, Training) or trained.adapter == "none":
        return
    lora = {"r": trained.lora.rank, "lora_alpha": trained.lora.alpha, "target_modules": trained.lora.targets}
    if different := lora_mismatch(lora, trained.quantization, node.config):
        yield f"{node.setting}.adapter=continue trains the LoRA of {parent.name} further, but {different}"


def _tied_ends(step: Step, draft: Mapping[str, Step], shape: Architecture, store: Store) -> Iterator[str]:
    """A LoRA on one end of a model with tied weights trains one end, and once merged changes both."""
    node, config = step.node, step.node.config
    assert isinstance(config, Training), "only a node that trains has an adapter"
    ends = [name for name in ENDS if name in config.lora.targets]
    if not ends or config.adapter == "none":
        return
    base = _base(draft[node.inputs["init"]], draft, store)
    tied = _read(base.path / "config.json").get("tie_word_embeddings", shape.tied_embeddings) if base else shape.tied_embeddings
    if tied:
        source = f"tie_word_embeddings in {base.path / 'config.json'}" if base else "model.architecture.tied_embeddings=true"
        yield (
            f"{node.setting}.lora.targets contains {', '.join(ends)}, but the model's output head is its input embeddings "
            f"({source}), so that merging this LoRA would change both; remove it, or train all weights with "
            f"{node.setting}.adapter=none"
        )


def _base(step: Step, draft: Mapping[str, Step], store: Store) -> Record | None:
    """The full model under a step's checkpoint; None if it is not stored yet."""
    if step.record and not step.works and step.record.checkpoint:
        return store.find(step.record.checkpoint["base_key"])
    source = step.node.inputs.get("init")
    return _base(draft[source], draft, store) if source else None


def _read(file: Path) -> dict[str, Any]:
    """A JSON file; empty if there is none, which the worker reports."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

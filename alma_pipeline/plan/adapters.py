"""Checks that each node's `adapter` setting fits the checkpoint of its parent: a full model, or a LoRA on one.

The plan checks it, since a worker would find out only after the parent has been trained. Reads no tensors.
"""

from collections.abc import Iterator, Set

from alma_pipeline.plan.node import Node
from alma_pipeline.schema import Training

ON_A_LORA = ("continue", "merge_then_new")
ON_A_FULL_MODEL = ("none", "new")


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

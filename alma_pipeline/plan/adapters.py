"""Whether each node's `adapter` setting fits what its parent leaves: a full model, or a LoRA on one.

Said at planning, for the worker would find out only when the parent has been trained. Nothing of tensors.
"""

from collections.abc import Iterator, Set

from alma_pipeline.plan.node import Node
from alma_pipeline.schema import Training

ON_A_LORA = ("continue", "merge_then_new")
ON_A_FULL_MODEL = ("none", "new")


def problems(nodes: list[Node], released: Set[str]) -> Iterator[str]:
    """A line for each node that does not fit its parent.

    A parent that may be taken from a published checkpoint is left to the worker: that may have been merged.
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
    if own in ON_A_LORA and not leaves_lora:
        verb = "goes on with" if own == "continue" else "merges"
        all_weights = f" ({parent.setting}.adapter=none)" if before else ""
        either = f", or {parent.setting}.adapter=new for a LoRA to go on with" if before else ""
        yield (
            f"{setting} {verb} the LoRA of its parent, but {parent.name} leaves a full model{all_weights}; "
            f"set {node.setting}.adapter=new for a fresh LoRA, {node.setting}.adapter=none to train all weights{either}"
        )
    elif own in ON_A_FULL_MODEL and leaves_lora:
        yield (
            f"{setting} starts from a full model, but its parent {parent.name} leaves a LoRA "
            f"({parent.setting}.adapter={before}); set {node.setting}.adapter=continue to train that LoRA further, "
            "or merge_then_new for a fresh one on the merged model"
        )


def _adapter(node: Node) -> str:
    """Empty for what does not train."""
    return node.config.adapter if isinstance(node.config, Training) else ""

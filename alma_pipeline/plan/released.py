"""Decides whether a published checkpoint can replace a node, and builds the plan step that adopts it. Downloads nothing."""

from collections.abc import Mapping
from typing import Any

from alma_pipeline.plan.node import Node
from alma_pipeline.plan.step import Cause, Step
from alma_pipeline.schema import Config, Released, WithLanguages
from alma_pipeline.schema.kinds import kind_config
from alma_pipeline.store.identity import differences, flatten, key_of, key_settings, payload
from alma_pipeline.store.store import Store
from alma_pipeline.units import shorten

NOT_COMPARED = ("languages", "seed")
"""A published checkpoint has one seed, and serves any of its languages."""


def adoption_obstacle(node: Node, draft: Mapping[str, Step], config: Config, released: Released) -> str:
    """Why the published checkpoint cannot replace the node; empty if it can."""
    policy, value = ("target", config.target) if node.target else ("upstream", config.upstream)
    obstacle = f"{policy}=train" if value == "train" else _difference(node, draft, released)
    return f"not adopting {released.repo}: {obstacle}" if obstacle else ""


def _difference(node: Node, draft: Mapping[str, Step], released: Released) -> str:
    """The first difference between the published training and this plan: of the node itself, then of its ancestors."""
    for name in _compared(node, draft):
        step = draft.get(name)
        compared = step.node if step else node
        # A person's own checkpoint among the ancestors: nobody published one trained from it.
        if step and step.requested_key and step.released is None:
            return f"{name} was adopted from elsewhere"
        stated = released.config.get(name.rpartition(".")[2])
        if stated is None:
            return f"it states no settings for {name}"
        changed = [
            change
            for change in differences(_comparable(stated), _comparable(key_settings(compared.config)))
            if not _is_unknown_commit(*change[:2])
        ]
        if changed:
            return ", ".join(f"{compared.setting}.{key} {shorten(old)} → {shorten(new)}" for key, old, new in changed[:3])
        spoken = set(compared.config.languages) - {"en"} if isinstance(compared.config, WithLanguages) else set()
        missing = sorted(spoken - set(released.languages))
        if missing:
            return f"it was not trained on {', '.join(missing)}"
    return ""


def _comparable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Flat settings without nulls: a model option states only what a release sets."""
    flat = flatten(values)
    return {name: value for name, value in flat.items() if value is not None and name.split(".")[0] not in NOT_COMPARED}


def _is_unknown_commit(name: str, theirs: Any) -> bool:
    """A release that states a branch leaves open which commit of the text it was trained on, so that any commit fits."""
    return name.endswith(".revision") and theirs == "main"


def _compared(node: Node, draft: Mapping[str, Step]) -> list[str]:
    """The node and its ancestors, nearest first, up to those that are adopted themselves or are the untrained base."""
    found = [node.name]
    frontier = list(node.inputs.values())
    while frontier:
        name = frontier.pop(0)
        step = draft[name]
        if name in found or step.verdict == "adopt" or step.released or step.node.kind == "base":
            continue
        found.append(name)
        frontier += step.node.inputs.values()
    return found


def adoption_step(node: Node, requested_key: str, released: Released, draft: Mapping[str, Step], store: Store) -> Step:
    """A step under the published checkpoint's own key, so that lineage never claims training that did not happen."""
    stands_on = {"init": full_model(draft, node)} if released.form == "adapter" else {}
    own = payload(kind_config("released")(), {role: draft[name].key for role, name in stands_on.items()})
    own |= {"config": {"repo": released.repo, "revision": released.revision}}
    key = key_of(own)
    record = store.find(key)
    lack = store.incomplete(key)
    return Step(
        node,
        key,
        own,
        "reuse" if record else "adopt",
        Cause.ADOPTED,
        f"{released.repo}@{released.revision[:12]}{f' again: {lack}' if lack else ''}",
        record,
        released=released,
        requested_key=requested_key,
        stands_on=stands_on,
    )


def full_model(draft: Mapping[str, Step], node: Node) -> str:
    """The node of the full model under a published adapter: the nearest published one among its ancestors, or the base."""
    name = node.inputs["init"]
    while (released := draft[name].released) is None or released.form == "adapter":
        if "init" not in draft[name].node.inputs:
            return name
        name = draft[name].node.inputs["init"]
    return name

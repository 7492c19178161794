"""When a published checkpoint serves a node, and as what it enters the plan. Fetches nothing."""

from collections.abc import Mapping
from typing import Any

from alma_pipeline.plan.node import Node
from alma_pipeline.plan.step import Step
from alma_pipeline.schema import Config, Released, WithLanguages
from alma_pipeline.schema.kinds import kind_config
from alma_pipeline.store.identity import differences, flatten, key_of, payload, settings
from alma_pipeline.store.store import Store
from alma_pipeline.units import short

NOT_COMPARED = ("languages", "seed")
"""A published checkpoint has the seed it has, and serves any of its languages."""


def why_not(node: Node, draft: dict[str, Step], config: Config, released: Released) -> str:
    """Empty when the released checkpoint serves; else the reason it does not."""
    policy = config.target if node.target else config.upstream
    if policy == "train":
        return f"{'target' if node.target else 'upstream'}=train (released: {released.repo})"
    for name in _deciding(node, draft, config):
        if name in draft and draft[name].requested_key and draft[name].released is None:
            return f"because {name} was adopted from elsewhere (released: {released.repo})"
        ours = _comparable(settings(draft[name].node.config if name in draft else node.config))
        theirs = released.config.get(name.rpartition(".")[2])
        if theirs is None:
            return f"because {released.repo} states no settings for {name}"
        changed = [change for change in differences(_comparable(theirs), ours) if not _is_unknown_commit(*change[:2])]
        if changed:
            where = (draft[name].node if name in draft else node).setting
            texts = ", ".join(f"{where}.{key} {short(a)} → {short(b)}" for key, a, b in changed[:3])
            return f"because {texts} (released: {released.repo})"
        settled = (draft[name].node if name in draft else node).config
        spoken = set(settled.languages) - {"en"} if isinstance(settled, WithLanguages) else set()
        missing = sorted(spoken - set(released.languages))
        if missing:
            return f"because {released.repo} was not trained on {', '.join(missing)}"
    return ""


def _comparable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Null counts as left out: a model option states only what a release sets."""
    flat = flatten(values)
    return {name: value for name, value in flat.items() if value is not None and name.split(".")[0] not in NOT_COMPARED}


def _is_unknown_commit(name: str, theirs: Any) -> bool:
    """Where a release states a branch, nobody knows which commit of the text it was trained on: ours is as good as any."""
    return name.endswith(".revision") and theirs == "main"


def _deciding(node: Node, draft: dict[str, Step], config: Config) -> list[str]:
    """The node and the nodes before it, up to those that are adopted themselves or are the untrained base."""
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


def adopted(node: Node, requested: str, released: Released, draft: dict[str, Step], store: Store) -> Step:
    """Under the published checkpoint's own key, so that lineage never claims training that did not happen."""
    stands_on = {"init": full_model(draft, node)} if released.form == "adapter" else {}
    own = payload(kind_config("released")(), {role: draft[name].key for role, name in stands_on.items()})
    own |= {"config": {"repo": released.repo, "revision": released.revision}}
    key = key_of(own)
    record = store.find(key)
    verdict = "reuse" if record else "adopt"
    reason = f"{released.repo}@{released.revision[:12]}"
    return Step(node, key, own, verdict, reason, record, None, released, requested, stands_on=stands_on)


def full_model(draft: dict[str, Step], node: Node) -> str:
    """The node of the full model below a published adapter: the nearest published one before it, else the base."""
    name = node.inputs["init"]
    while (released := draft[name].released) is None or released.form == "adapter":
        if "init" not in draft[name].node.inputs:
            return name
        name = draft[name].node.inputs["init"]
    return name

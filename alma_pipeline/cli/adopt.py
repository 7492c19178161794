"""`adopt`: makes an existing checkpoint, a folder or a hub repository, the output of a named node.

The checkpoint gets its own key, derived from its content. An alias under the key that the node asks for points to it, so later
plans find it and its record claims no training that did not happen. Replaces nothing that exists.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from alma_pipeline import instants
from alma_pipeline.cli.arguments import Arguments
from alma_pipeline.config import load
from alma_pipeline.config.compose import with_search_path
from alma_pipeline.console import LiteralConsole
from alma_pipeline.errors import UserError, suggestion
from alma_pipeline.execution import provenance
from alma_pipeline.execution.launch import Launcher
from alma_pipeline.execution.runner import Runner
from alma_pipeline.files import digest
from alma_pipeline.ml.models.end_tokens import stated_end_tokens
from alma_pipeline.paths import store_root
from alma_pipeline.plan.node import is_training
from alma_pipeline.plan.plan import Plan, make_plan
from alma_pipeline.plan.step import Cause, Step
from alma_pipeline.schema import Hardware, Released
from alma_pipeline.schema.kinds import kind_config
from alma_pipeline.store.identity import key_of, payload
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
IDENTITY_FILES = ("*.safetensors", "*.safetensors.index.json", "config.json", "adapter_config.json", "tokenizer*", "*.model")
"""Files whose content identifies a local folder."""


def main(arguments: Arguments) -> int:
    """Adopt one checkpoint. Raises UserError, having written nothing."""
    name, source = arguments.node, arguments.source
    config = load.load(with_search_path(arguments.overrides, arguments.config_dir))
    store = Store(store_root())
    # Without this node's published checkpoint, so that its step in the plan has the key it asks for.
    published = {node: entry for node, entry in config.model.released.items() if node != name}
    plan = make_plan(dataclasses.replace(config, model=dataclasses.replace(config.model, released=published)), store)
    step = _adoption_step(plan, name, source, arguments.adapter)
    store.check_writable()
    found = store.find(step.key) or _import(store, step, plan)
    _check_weights(store, step, found)
    alias = _add_alias(store, plan[name], found)
    LiteralConsole().print_line(f"{name} = {source}: {found.path}\n{alias.path.name} points to it")
    return 0


def _adoption_step(plan: Plan, name: str, source: str, as_adapter: bool) -> Step:
    """The node's step, turned into one that adopts `source`. Raises UserError if the node is built already or lacks its base."""
    # The node must exist, produce a checkpoint, and have none yet.
    known = {step.node.name: step for step in plan.steps}
    if name not in known:
        raise UserError(f"adopt {name}: no such node in this plan; {suggestion(name, list(known))}")
    step = known[name]
    if not (is_training(step.node) or step.node.kind == "base"):
        raise UserError(f"adopt {name}: its kind {step.node.kind} produces no checkpoint; expected a trained node, or base")
    if step.record is not None:
        raise UserError(
            f"{name} exists already: {step.record.path}; adopt replaces nothing. Change one of its settings, or move it away"
        )

    # A folder is identified by its files, a repository by its revision.
    folder = Path(source).expanduser()
    local = folder.is_dir()
    repo, _, revision = (str(folder.absolute()), "", "") if local else source.partition("@")
    if not local and (repo.count("/") != 1 or repo.startswith((".", "/", "~"))):
        raise UserError(f"adopt {name} {source}: expected an existing folder, or OWNER/NAME[@REVISION] on the hub")
    adapter = as_adapter or (local and not any((folder / file).is_file() for file in WEIGHTS))
    content = _content(folder, adapter) if local else {"repo": repo, "revision": revision or "main"}

    # The key comes from what is adopted, and from the base if that is an adapter.
    stands_on = _stands_on(plan, step) if adapter else {}
    own = payload(kind_config("released")(), {role: plan[node].key for role, node in stands_on.items()}) | {"config": content}
    entry = Released(repo=repo, revision=revision or "main", form="adapter" if adapter else "full")
    return dataclasses.replace(
        step,
        key=key_of(own),
        payload=own,
        verdict="adopt",
        cause=Cause.ADOPTED,
        reason=source,
        released=entry,
        stands_on=stands_on,
        named_base=_named_base(folder) if local and adapter else "",
        record=None,
        estimate=None,  # nothing is trained, and no resume points are written
    )


def _content(folder: Path, adapter: bool) -> dict[str, Any]:
    """What identifies a local checkpoint. Raises UserError for files that are missing or are Git LFS pointers."""
    from alma_pipeline.ml.models.hub import refuse_pointers

    refuse_pointers(folder, adapter)
    content: dict[str, Any] = {"files": _digests(folder)}
    # Of the generation settings only the end tokens are kept, where there are several.
    if not adapter and len(ends := stated_end_tokens(folder)) > 1:
        content["end_tokens"] = ends
    return content


def _named_base(folder: Path) -> str:
    """The model folder that a local adapter names as its base, seen from here or from the adapter; empty if there is none."""
    try:
        named = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        return ""  # the worker reports what is wrong with the adapter
    places = [Path(named).expanduser(), folder / named, folder.parent / named] if named else []
    found = [place for place in places if place.is_dir() and any(place.glob("model*.safetensors"))]
    return str(found[0].absolute()) if found else ""


def _stands_on(plan: Plan, step: Step) -> dict[str, str]:
    init = step.node.inputs.get("init")
    if init is None:
        raise UserError(f"adopt {step.node.name}: found an adapter, but this node is a full model; adopt a full model")
    if plan[init].record is None:
        raise UserError(
            f"adopt {step.node.name}: an adapter needs its base {init}, which does not exist yet; adopt or run that first"
        )
    return {"init": init}


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 by file name. Raises UserError for a folder without safetensors."""
    files = sorted({path for pattern in IDENTITY_FILES for path in folder.glob(pattern) if path.is_file()})
    if not any(path.suffix == ".safetensors" for path in files):
        raise UserError(f"{folder}: has no safetensors files; expected a model or an adapter as Hugging Face and PEFT write them")
    return {path.name: digest(path) for path in files}


def _import(store: Store, step: Step, plan: Plan) -> Record:
    """The artifact, built by the ordinary runner from a plan with this one step."""
    hardware = Hardware(name="adopt")
    logs = store.root / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    launcher = Launcher(hardware, logs)
    try:
        runner = Runner(store, hardware, launcher, [], provenance.capture())
        runner.run(Plan([*(other for other in plan.steps if other.record and other.node.name != step.node.name), step]))
    finally:
        launcher.close()
    return runner.done[step.node.name]


def _check_weights(store: Store, step: Step, found: Record) -> None:
    """Raises UserError if the artifact's weights are not those that its key was made of; it is then moved away."""
    stated: dict[str, str] = step.payload["config"].get("files", {})
    weights = {name: value for name, value in stated.items() if name.endswith(".safetensors") and name in found.digests}
    other = [name for name, value in weights.items() if found.digests[name] != value]
    if other:
        store.move_to_replaced(found.path)
        raise UserError(f"{step.reason}/{other[0]} changed while it was being adopted; nothing was adopted: try again")
    store.check_files(found)


def _add_alias(store: Store, asked: Step, found: Record) -> Record:
    """The alias: a record under the key the node asks for, holding the key of the checkpoint it gets."""
    work = store.begin(asked.node.name, asked.key)
    try:
        (work.path / "out").mkdir(exist_ok=True)
        record: dict[str, Any] = {"name": asked.node.name, "key": asked.key, "kind": asked.node.kind, "payload": asked.payload}
        record |= {"result": {}, "created": instants.now(), "seconds": 0.0, "alias_of": found.key}
        return store.commit(work, record)
    finally:
        work.close()

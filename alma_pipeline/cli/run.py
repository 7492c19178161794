"""One call of `run` or `plan`, or each job of a sweep: configuration, plan, execution, final tables."""

import json
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from alma_pipeline.cli.arguments import Command
from alma_pipeline.config import load as configuration
from alma_pipeline.config.compose import with_search_path
from alma_pipeline.config.load import ASIDE, ask_hydra
from alma_pipeline.config.locate import SEARCH_PATH
from alma_pipeline.console import Screen
from alma_pipeline.errors import UserError
from alma_pipeline.paths import store_root
from alma_pipeline.plan import pins
from alma_pipeline.plan.plan import Plan, Rerun, make_plan, to_json
from alma_pipeline.redact import redact, redacted
from alma_pipeline.schema import Config, Hardware
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store
from alma_pipeline.tracking.run_metadata import Sweep


@dataclass
class Session:
    """What the jobs of one command share: where they print, and the warm worker server."""

    verb: str
    rerun: Rerun
    as_json: bool
    why: list[str]
    """Nodes to explain in place of the plan."""
    console: Screen
    launchers: dict[Hardware, Any] = field(default_factory=dict)

    def launcher(self, hardware: Hardware, logs: Path) -> Any:
        """The launcher of this hardware, which keeps its fork server for the nodes to come."""
        from alma_pipeline.execution.launch import Launcher

        if hardware not in self.launchers:
            self.launchers[hardware] = Launcher(hardware, logs)
        return self.launchers[hardware]

    def close(self) -> None:
        """End the fork servers."""
        for launcher in self.launchers.values():
            launcher.close()


def main(command: Command) -> int:
    """Run or plan what the overrides of one job describe. Raises PipelineError kinds; the exit code otherwise."""
    overrides = with_search_path(command.overrides, command.flags.get("--config-dir", []))
    configuration.check_credentials(overrides)
    if any(name in command.flags for name in ASIDE):
        return ask_hydra([*command.hydra_words(), *overrides])
    _check_single(overrides)
    with opened(command) as session:
        tree, config = configuration.resolve(overrides)
        carry_out(session, config, tree, overrides, None)
    return 0


@contextmanager
def opened(command: Command) -> Iterator[Session]:
    """What the jobs of a command share, for as long as they run."""
    if "--why" in command.flags and "--json" in command.flags:
        raise UserError("--why and --json do not go together: the JSON plan has every setting, cause and reason")
    rerun = Rerun(*(tuple(command.flags.get(name, [])) for name in ("--force", "--from", "--only")))
    session = Session(command.verb, rerun, "--json" in command.flags, command.flags.get("--why", []), Screen())
    try:
        yield session
    finally:
        session.close()


def _check_single(overrides: list[str]) -> None:
    """Hydra's own settings do nothing in a single run, which it does not start: say so (B22). Raises UserError."""
    idle = [text for text in overrides if text.lstrip("+~").startswith(("hydra.", "hydra/")) and SEARCH_PATH not in text]
    if idle:
        raise UserError(f"{', '.join(idle)}: Hydra's own settings are for sweeps; add -m, or leave it out")


def carry_out(session: Session, config: Config, tree: DictConfig, overrides: list[str], sweep: Sweep | None) -> dict[str, Record]:
    """Plan, and for `run` make what is missing; the artifacts by node name."""
    from alma_pipeline.cli import tables

    store = Store(store_root())
    if session.verb == "plan":
        _print_plan(session, make_plan(config, store, session.rerun), config)
        return {}
    if session.verb == "data":
        return _preview(session, config, tree, store, overrides)
    plan = _pinned_plan(config, store, session.rerun)
    records = {step.node.name: step.record for step in plan.steps if step.record}
    if plan.work:
        store.check_writable()
        records = _run(session, config, tree, plan, store, overrides, sweep)
    else:
        session.console.print(tables.reused(plan))
    _print_results(session, plan, records, config)
    if not sweep and any(record.kind == "score" for record in records.values()):
        session.console.say(f"page of all this: {shlex.join(['alma-pipeline', 'report', *overrides])}")
    return records


def _pinned_plan(config: Config, store: Store, rerun: Rerun) -> Plan:
    """The plan of what is about to run, with commits for the branches that its work reads; the hub is asked for new ones."""
    plan = make_plan(config, store, rerun)
    while pins.resolve_branches(plan.work, store):  # a new commit is a new key, and there may be more to do
        plan = make_plan(config, store, rerun)
    return plan


def _preview(session: Session, config: Config, tree: DictConfig, store: Store, overrides: list[str]) -> dict[str, Record]:
    """Make the text that is missing and nothing else, then show some of it."""
    from alma_pipeline.cli import data

    names = data.text_nodes(make_plan(config, store, session.rerun))
    plan = _pinned_plan(config, store, Rerun(only=tuple(names)))
    records = {step.node.name: step.record for step in plan.steps if step.record}
    if plan.work:
        store.check_writable()
        records = _run(session, config, tree, plan, store, overrides, None)
    data.show(session.console, plan, records)
    return records


def _print_plan(session: Session, plan: Plan, config: Config) -> None:
    from alma_pipeline.cli import why
    from alma_pipeline.cli.plan_table import plan_table

    if session.as_json:
        print(json.dumps(redacted(to_json(plan)), indent=1, ensure_ascii=False))
    elif session.why:
        why.main(session.console, plan, session.why)
    else:
        session.console.print(plan_table(plan, config.hardware, session.console.width))


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # also where the permissions promised otherwise: a full or read-only file system
        raise UserError(
            f"the store cannot be written: {folder}: {error.strerror}; set ALMA_PIPELINE_STORE to a writable folder"
        ) from error


def _run(
    session: Session,
    config: Config,
    tree: DictConfig,
    plan: Plan,
    store: Store,
    overrides: list[str],
    sweep: Sweep | None,
) -> dict[str, Record]:
    from alma_pipeline.cli import progress
    from alma_pipeline.execution import engines, provenance, scorers
    from alma_pipeline.execution.runner import Runner
    from alma_pipeline.tracking import watcher

    watcher.check(config)
    scorers.check(plan, config.hardware)
    engines.check(plan, config.hardware)
    logs = store.root / "logs"
    _make(logs)
    launcher = session.launcher(config.hardware, logs)
    origin = provenance.capture()
    tracker = watcher.start(config, _plain(tree), plan, store, overrides, origin, sweep)
    status = "FAILED"
    runner = Runner(store, config.hardware, launcher, [tracker], origin)
    try:
        with progress.view(session.console, plan) as view:
            runner.watchers.append(view)
            runner.run(plan)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.close(status, plan, runner.done)
    return runner.done


def _plain(tree: DictConfig) -> dict[str, Any]:
    """The resolved configuration without the language table's unused lines and Hydra's own node."""
    value = OmegaConf.to_container(tree, resolve=True)
    assert isinstance(value, dict)
    used = {"en", *value["data"]["languages"]}
    value["languages"] = {code: entry for code, entry in value["languages"].items() if code in used}
    value.pop("hydra", None)
    return {str(key): child for key, child in value.items()}


def _print_results(session: Session, plan: Plan, records: dict[str, Record], config: Config) -> None:
    from alma_pipeline.cli import tables
    from alma_pipeline.report import caveats, findings
    from alma_pipeline.report.jobs import Job

    console = session.console
    training = tables.training_table(plan, records, console.width)
    for table in ([training] if training else []) + list(tables.score_tables(records, console.width)):
        console.say("")
        console.print(table)
    for line in findings.lines(plan, records):
        console.say(line)
    for note in caveats.told(Job([], config, plan, records)):
        console.say(note, "yellow")
    console.say("")
    for step, record in tables.targets(plan, records):
        console.say(f"{step.node.name}: {record.path}")
    if config.tracking.enabled:
        console.say(f"MLflow: {_ui_command(store_root())}")


def _ui_command(root: Path) -> str:
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        return redact(uri)
    return f"mlflow ui --host 127.0.0.1 --backend-store-uri sqlite:///{root}/mlflow.db"

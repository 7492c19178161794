"""One call of `run` or `plan`, or each job of a sweep: configuration, plan, execution, final tables."""

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from alma_pipeline import config as configuration
from alma_pipeline.cli import store_root
from alma_pipeline.errors import PipelineError
from alma_pipeline.plan import Forced, Plan, make_plan, to_json
from alma_pipeline.schema import Config, Hardware
from alma_pipeline.store import Record, Store

HYDRA_FLAGS = ("--cfg", "-c", "--info", "-i", "--hydra-help", "--resolve", "-r", "--package", "-p", "--version")
SWEEP_FLAGS = ("-m", "--multirun")


@dataclass
class Session:
    """What the jobs of one command share: the warm worker server, and the outcome of each job."""

    verb: str
    forced: Forced
    as_json: bool
    console: Console
    launchers: dict[Hardware, Any] = field(default_factory=dict)
    jobs: list[tuple[str, str, dict[str, Record]]] = field(default_factory=list)
    """(overrides, status, artifacts by node) of each sweep job."""

    def launcher(self, hardware: Hardware, logs: Path) -> Any:
        from alma_pipeline.launch import Launcher

        if hardware not in self.launchers:
            self.launchers[hardware] = Launcher(hardware, logs)
        return self.launchers[hardware]

    def close(self) -> None:
        for launcher in self.launchers.values():
            launcher.close()


@dataclass(frozen=True)
class Sweep:
    """Where a job stands in a sweep."""

    id: str
    job: int


def main(verb: str, flags: dict[str, list[str]], words: list[str]) -> int:
    """Run or plan what the overrides describe. Raises PipelineError kinds; the exit code otherwise."""
    forced = Forced(*(tuple(flags.get(name, [])) for name in ("--force", "--from", "--only")))
    session = Session(verb, forced, "--json" in flags, Console(highlight=False, soft_wrap=not sys.stdout.isatty()))
    try:
        if any(word.partition("=")[0] in HYDRA_FLAGS for word in words):
            return hydra_command(words)
        if any(word in SWEEP_FLAGS for word in words):
            return _sweep(session, words)
        overrides = searchpath(words)
        tree = configuration.tree(overrides)
        carry_out(session, configuration.from_tree(tree), tree, overrides, None)
        return 0
    finally:
        session.close()


def searchpath(words: list[str]) -> list[str]:
    """Overrides, with `--config-dir DIR` as the search path Hydra's compose understands."""
    overrides, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if name in ("--config-dir", "-cd"):
            folder = Path(value if equals else rest.pop(0)).absolute()
            overrides.append(f"hydra.searchpath=[file://{folder}]")
        else:
            overrides.append(word)
    return overrides


def hydra_command(words: list[str]) -> int:
    """Commands that are Hydra's own: `--cfg`, `--info`, completion."""
    return _hydra(words, lambda tree: None)


def _hydra(words: list[str], task: Any) -> int:
    """Hand over to Hydra's own command line, with its exceptions coming through to ours."""
    import hydra

    configuration.register()
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = [sys.argv[0], *words]
    hydra.main(version_base="1.3", config_path=str(configuration.CONF), config_name="config")(task)()
    return 0


def _sweep(session: Session, words: list[str]) -> int:
    """Hydra multirun: every job checked first, a failing one does not stop the others, a table at the end."""
    from alma_pipeline import sweep

    overrides = [word for word in words if word not in SWEEP_FLAGS]
    sweep.check(overrides)

    def job(tree: DictConfig) -> None:
        place, own = sweep.place()
        try:
            records = carry_out(session, configuration.from_tree(tree), tree, own, place)
            session.jobs.append((" ".join(own), "done", records))
        except PipelineError as error:
            session.console.print(f"job {place.job} failed: {error}", style="bold red")
            session.jobs.append((" ".join(own), f"failed: {str(error).splitlines()[0]}", {}))

    _hydra(words, job)
    session.console.print(sweep.table(session.jobs))
    return 1 if any(not records for _, _, records in session.jobs) else 0


def carry_out(session: Session, config: Config, tree: DictConfig, overrides: list[str], sweep: Sweep | None) -> dict[str, Record]:
    """Plan, and for `run` make what is missing; the artifacts by node name."""
    from alma_pipeline import tables

    store = Store(store_root())
    plan = make_plan(config, store, session.forced)
    if session.verb == "plan":
        _print_plan(session, plan, config)
        return {}
    store.check_writable()
    records = {step.node.name: step.record for step in plan.steps if step.record}
    if plan.work:
        records = _run(session, config, tree, plan, store, overrides, sweep)
    else:
        session.console.print(tables.reused(plan))
    _print_results(session, plan, records, config)
    return records


def _print_plan(session: Session, plan: Plan, config: Config) -> None:
    from alma_pipeline import tables

    if session.as_json:
        print(json.dumps(to_json(plan), indent=1, ensure_ascii=False))
    else:
        session.console.print(tables.plan_table(plan, config.hardware))


def _run(
    session: Session,
    config: Config,
    tree: DictConfig,
    plan: Plan,
    store: Store,
    overrides: list[str],
    sweep: Sweep | None,
) -> dict[str, Record]:
    from alma_pipeline import live, provenance, tracked
    from alma_pipeline.runner import Runner

    store.root.mkdir(parents=True, exist_ok=True)
    logs = store.root / "logs"
    logs.mkdir(exist_ok=True)
    launcher = session.launcher(config.hardware, logs)
    origin = provenance.capture()
    tracker = tracked.start(config, _plain(tree), plan, store, overrides, origin, sweep)
    status = "FAILED"
    runner = Runner(store, config.hardware, launcher, [tracker], origin)
    try:
        with live.view(session.console, plan) as view:
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
    from alma_pipeline import findings, tables

    console = session.console
    for table in (tables.training_table(plan, records), tables.score_table(records)):
        if table is not None:
            console.print("")
            console.print(table)
    for line in findings.lines(plan, records):
        console.print(line)
    console.print("")
    for step, record in tables.targets(plan, records):
        console.print(f"{step.node.name}: {record.path}")
    if config.tracking.enabled:
        console.print(f"MLflow: {_ui_command(store_root())}")


def _ui_command(root: Path) -> str:
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        from alma_pipeline.redact import redact

        return redact(uri)
    return f"mlflow ui --host 127.0.0.1 --backend-store-uri sqlite:///{root}/mlflow.db"

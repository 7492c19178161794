"""What the verbs run and data, and each job of a sweep, share: the composed request, warm workers, and executing a plan.

Prints progress, but no results.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from alma_pipeline.cli.arguments import Arguments
from alma_pipeline.config import load
from alma_pipeline.config.compose import with_search_path
from alma_pipeline.config.locate import SEARCH_PATH
from alma_pipeline.config.overrides import is_hydras
from alma_pipeline.console import LiteralConsole
from alma_pipeline.errors import UserError
from alma_pipeline.plan import disk_space, pins, requirements
from alma_pipeline.plan.plan import Plan, Rerun, make_plan
from alma_pipeline.plan.remade import made_again
from alma_pipeline.schema import Config, Hardware
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store

if TYPE_CHECKING:
    from alma_pipeline.tracking.run_metadata import SweepJob  # tracking is imported once there is work


@dataclass(frozen=True)
class Request:
    """One composed job: its overrides, and the configuration they give."""

    overrides: list[str]
    tree: DictConfig
    config: Config


@dataclass
class Session:
    """What the jobs of one command share: console, flags and warm worker servers."""

    rerun: Rerun
    console: LiteralConsole = field(default_factory=LiteralConsole)
    launchers: dict[Hardware, Any] = field(default_factory=dict)

    def launcher(self, hardware: Hardware, logs: Path) -> Any:
        """The launcher for this hardware; it keeps its fork server for later nodes."""
        from alma_pipeline.execution.launch import Launcher

        if hardware not in self.launchers:
            self.launchers[hardware] = Launcher(hardware, logs)
        return self.launchers[hardware]

    def close(self) -> None:
        """Stop the fork servers."""
        for launcher in self.launchers.values():
            launcher.close()


RunJob = Callable[[Session, Request, "SweepJob | None"], dict[str, Record]]
"""Carries out one job, as part of a sweep or alone; returns its artifacts by node name."""


@contextmanager
def opened(arguments: Arguments) -> Iterator[Session]:
    """A session, closed at the end."""
    session = Session(rerun(arguments))
    try:
        yield session
    finally:
        session.close()


def rerun(arguments: Arguments) -> Rerun:
    """The nodes named by --force, --from and --only."""
    return Rerun(tuple(arguments.force), tuple(arguments.from_), tuple(arguments.only))


def run_single(arguments: Arguments, job: RunJob) -> int:
    """Compose one job and carry it out. Raises ConfigError."""
    with opened(arguments) as session:
        job(session, single(arguments), None)
    return 0


def single(arguments: Arguments) -> Request:
    """The one job of a command without -m. Raises ConfigError, and UserError for settings that only a sweep reads (B22)."""
    given = overrides(arguments)
    unused = [text for text in given if is_hydras(text) and SEARCH_PATH not in text]
    if unused:
        raise UserError(f"{', '.join(unused)}: Hydra's own settings have an effect in sweeps only; add -m, or remove them")
    return Request(given, *load.resolve(given))


def overrides(arguments: Arguments) -> list[str]:
    """The settings with --config-dir among them. Raises ConfigError for a credential, UserError for a missing folder."""
    given = with_search_path(arguments.overrides, arguments.config_dir)
    load.check_credentials(given)
    return given


def pinned_plan(config: Config, store: Store, rerun: Rerun) -> Plan:
    """The plan of what is about to run. Branches that its work reads are resolved to commits, by asking the hub.

    Raises ConfigError for work that cannot be done.
    """
    plan = make_plan(config, store, rerun)
    requirements.check(plan, config.hardware)
    while pins.resolve_branches(plan.work, store):  # a new commit changes keys, which can add work
        plan = make_plan(config, store, rerun)
    return plan


def execute(session: Session, request: Request, plan: Plan, store: Store, sweep: "SweepJob | None") -> dict[str, Record]:
    """Run a plan's work with tracking and progress; all its artifacts by node name. Raises StageFailed and UserError."""
    from alma_pipeline.cli import progress
    from alma_pipeline.execution import downloads, preflight, provenance
    from alma_pipeline.execution.runner import Runner
    from alma_pipeline.tracking import watcher

    # Every check that can fail comes before the first node starts.
    for text in made_again(plan):
        session.console.print_line(text, "yellow")
    store.check_writable()
    config = request.config
    disk_space.check(plan, config, store)
    watcher.check_tracking(config, store.root)
    preflight.check(plan, config.hardware)
    downloads.download(downloads.scorers_of(plan), config.hardware, session.console.print_line)
    logs = _made(store.root / "logs")

    launcher = session.launcher(config.hardware, logs)
    origin = provenance.capture()
    tracker = watcher.start_tracking(config, _tracked(request.tree), plan, store, request.overrides, origin, sweep)
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


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # permissions can allow writing on a file system that is full or read-only
        raise UserError(
            f"the store cannot be written: {folder}: {error.strerror}; set ALMA_PIPELINE_STORE to a writable folder"
        ) from error
    return folder


def _tracked(tree: DictConfig) -> dict[str, Any]:
    """The resolved configuration without unused languages and Hydra's own node."""
    value = OmegaConf.to_container(tree, resolve=True)
    assert isinstance(value, dict)
    used = {"en", *value["data"]["languages"]}
    value["languages"] = {code: entry for code, entry in value["languages"].items() if code in used}
    value.pop("hydra", None)
    return {str(key): child for key, child in value.items()}

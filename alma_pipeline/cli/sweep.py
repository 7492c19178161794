"""A Hydra multirun: all jobs checked before the first runs, one after another, a table at the end.

A failing job does not stop the others (B24). `plan -m` prints each job's plan and writes nothing, not even a sweep folder.
"""

import json
import traceback
from dataclasses import dataclass, field
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from alma_pipeline.cli.arguments import Command
from alma_pipeline.cli.run import Session, carry_out, opened
from alma_pipeline.config import load as configuration
from alma_pipeline.config.check import from_tree, graph_problems
from alma_pipeline.config.compose import run_hydra, split, with_search_path
from alma_pipeline.config.hydra_errors import describe
from alma_pipeline.errors import ConfigError, PipelineError, UserError
from alma_pipeline.paths import store_root
from alma_pipeline.plan.plan import make_plan, to_json
from alma_pipeline.redact import redact, redacted
from alma_pipeline.schema import Config
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store
from alma_pipeline.tracking.run_metadata import Sweep


@dataclass(frozen=True)
class Planned:
    """A job that is to run."""

    overrides: list[str]
    tree: DictConfig
    config: Config


@dataclass
class Job:
    """How one job went."""

    overrides: str
    status: str = "interrupted"
    """`done`, `interrupted` or `failed: why`."""
    records: dict[str, Record] = field(default_factory=dict)


def main(command: Command) -> int:
    """Check every job, then plan or run them all; 1 when any failed."""
    overrides = with_search_path(command.overrides, command.flags.get("--config-dir", []))
    configuration.check_credentials(overrides)
    jobs = check(overrides)
    with opened(command) as session:
        return _plan(session, jobs) if session.verb == "plan" else _run(session, overrides)


def _run(session: Session, overrides: list[str]) -> int:
    done: list[Job] = []

    def task(tree: DictConfig) -> None:
        _job(session, tree, done)

    try:
        run_hydra(["--multirun", *overrides], task)
    except HydraException as error:
        raise ConfigError([describe(error)]) from error
    finally:
        if done:
            session.console.print(table(done))
    return 1 if any(job.status != "done" for job in done) else 0


def _job(session: Session, tree: DictConfig, done: list[Job]) -> None:
    place, own = _place()
    job = Job(" ".join(own))
    done.append(job)
    session.console.say(f"\njob {place.job}: {job.overrides}", style="bold")
    try:
        job.records = carry_out(session, from_tree(tree), tree, own, place)
        job.status = "done"
    except Exception as error:
        # Whatever it is, the other jobs run; what is not one of our own errors is a defect and shows where it is.
        if not isinstance(error, PipelineError):
            session.console.say(redact(traceback.format_exc()))
        text = redact(str(error)) or type(error).__name__
        session.console.say(f"job {place.job} failed: {text}", style="bold red")
        job.status = f"failed: {text.splitlines()[0]}"


def check(overrides: list[str]) -> list[Planned]:
    """The jobs of a grid. Raises ConfigError with the problems of all of them, before anything runs.

    Another sweeper (`hydra/sweeper=`) decides its jobs as it goes: there are none to check then.
    """
    own = [text for text in overrides if not _is_hydras(text)]
    hydras = [text for text in overrides if _is_hydras(text)]
    if any(text.startswith("hydra/launcher=") and text != "hydra/launcher=basic" for text in hydras):
        raise UserError(
            "hydra/launcher: the jobs of a sweep run one after another in this process and share its worker; leave it out. "
            "hardware=slurm sends every node to a cluster"
        )
    if any(text.startswith("hydra/sweeper=") and text != "hydra/sweeper=basic" for text in hydras):
        return []
    jobs = []
    found: list[str] = []
    for job in split(own):
        if any(problem.startswith(f"{text}:") for text in job for problem in found):
            continue  # told already; looking for it again takes seconds
        try:
            jobs.append(_checked(job, hydras))
        except ConfigError as error:
            found += [text for text in error.problems if text not in found]
    if found:
        raise ConfigError(found)
    return jobs


def _checked(job: list[str], hydras: list[str]) -> Planned:
    tree, config = configuration.resolve([*hydras, *job], hydra=True)
    launcher = OmegaConf.select(tree, "hydra.runtime.choices")["hydra/launcher"]
    if launcher != "basic":
        text = f"{' '.join(job)}: chooses hydra/launcher={launcher} in a file; a sweep has one launcher, and that is basic"
        raise ConfigError([text])
    problems = graph_problems(config)
    if problems:
        raise ConfigError(problems)
    return Planned(job, tree, config)


def _is_hydras(text: str) -> bool:
    return text.lstrip("+~").startswith(("hydra.", "hydra/"))


def _plan(session: Session, jobs: list[Planned]) -> int:
    if not jobs:
        raise UserError("plan -m: another sweeper than basic decides its jobs as it runs; nothing can be planned")
    plans = []
    for number, job in enumerate(jobs):
        if session.as_json:
            plan = make_plan(job.config, Store(store_root()), session.rerun)
            plans.append({"overrides": job.overrides, **to_json(plan)})
        else:
            session.console.say(f"\njob {number}: {' '.join(job.overrides)}", style="bold")
            carry_out(session, job.config, job.tree, job.overrides, None)
    if session.as_json:
        print(json.dumps(redacted(plans), indent=1, ensure_ascii=False))
    return 0


def _place() -> tuple[Sweep, list[str]]:
    """Where the running job stands, and its overrides."""
    hydra = HydraConfig.get()
    return Sweep(id=str(hydra.sweep.dir), job=int(hydra.job.num)), list(hydra.overrides.task)


def table(jobs: list[Job]) -> Table:
    """One line a job: overrides, how it ended, the average scores of its checkpoints."""
    result = Table(box=None, pad_edge=False, header_style="bold", title="\nsweep", title_justify="left")
    for name in ("job", "overrides", "status", "chrF++ over all directions"):
        result.add_column(name, overflow="fold")
    for number, job in enumerate(jobs):
        result.add_row(str(number), job.overrides, job.status, _scores(job.records))
    return result


def _scores(records: dict[str, Record]) -> str:
    found: list[str] = []
    for name, record in records.items():
        if record.kind == "score":
            average: dict[str, Any] = record.result["averages"].get("all") or {}
            if average.get("chrf++") is not None:
                found.append(f"{name.removesuffix('.score')} {average['chrf++']:.1f}")
    return ", ".join(found)

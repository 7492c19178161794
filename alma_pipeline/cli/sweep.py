"""A Hydra multirun: checks all jobs, runs them one after another, and ends with a table.

A failing job does not stop the others (B24). `plan -m` uses the check alone, so it writes no sweep folder.
"""

import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from alma_pipeline.cli.arguments import Arguments
from alma_pipeline.cli.session import Request, RunJob, Session, opened, overrides, rerun
from alma_pipeline.config import load
from alma_pipeline.config.check import from_tree, graph_problems
from alma_pipeline.config.compose import run_hydra, split
from alma_pipeline.config.hydra_errors import describe
from alma_pipeline.config.overrides import is_hydras
from alma_pipeline.errors import ConfigError, PipelineError, UserError
from alma_pipeline.paths import store_root
from alma_pipeline.plan import requirements
from alma_pipeline.plan.plan import Rerun, make_plan
from alma_pipeline.redact import redact
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store
from alma_pipeline.tracking.run_metadata import SweepJob


@dataclass
class Job:
    """How one job ended."""

    overrides: str
    status: str = "interrupted"
    """`done`, `interrupted` or `failed: why`."""
    records: dict[str, Record] = field(default_factory=dict)


def main(arguments: Arguments, run_job: RunJob) -> int:
    """Check every job, then run them all; 1 if any failed. Raises ConfigError before the first runs."""
    given = overrides(arguments)
    _check_plans(check(given), rerun(arguments))
    done: list[Job] = []
    with opened(arguments) as session:

        def task(tree: DictConfig) -> None:
            _run(session, tree, run_job, done)

        try:
            run_hydra(["--multirun", *given], task)
        except HydraException as error:
            raise ConfigError([describe(error)]) from error
        except OSError as error:  # those of the jobs are caught with each job
            if not error.filename:  # standard output is a closed pipe, or its disk is full
                raise
            folder = Path(error.filename).absolute()
            raise UserError(
                f"the sweep's folder cannot be written: {folder}: {error.strerror}; set hydra.sweep.dir=FOLDER, or start the "
                "command in another folder"
            ) from error
        finally:
            if done:
                session.console.print(table(done))
    return 1 if any(job.status != "done" for job in done) else 0


def _run(session: Session, tree: DictConfig, run_job: RunJob, done: list[Job]) -> None:
    sweep, own = _running()
    job = Job(" ".join(own))
    done.append(job)  # before it runs, so that the table lists it even if it is interrupted
    session.console.print_line(f"\njob {sweep.job}: {job.overrides}", style="bold")
    try:
        job.records = run_job(session, Request(own, tree, from_tree(tree)), sweep)
        job.status = "done"
    except Exception as error:
        # The other jobs run whatever the error; one that is not ours is a bug, so its traceback is printed.
        if not isinstance(error, PipelineError):
            session.console.print_line(redact(traceback.format_exc()))
        text = redact(str(error)) or type(error).__name__
        session.console.print_line(f"job {sweep.job} failed: {text}", style="bold red")
        job.status = f"failed: {text.splitlines()[0]}"


def check(given: list[str]) -> list[Request]:
    """Compose the jobs of a grid. Raises ConfigError with the problems of all of them, before anything runs.

    Empty for any sweeper but basic (`hydra/sweeper=`), which chooses its jobs while it runs.
    """
    own = [text for text in given if not is_hydras(text)]
    hydras = [text for text in given if is_hydras(text)]
    if any(text.startswith("hydra/launcher=") and text != "hydra/launcher=basic" for text in hydras):
        raise UserError(
            "hydra/launcher: not supported, because the jobs of a sweep share one process and its worker; remove it. "
            "hardware=slurm runs every node on a cluster"
        )
    if any(text.startswith("hydra/sweeper=") and text != "hydra/sweeper=basic" for text in hydras):
        return []
    jobs = []
    found: list[str] = []
    for job in split(own):
        if any(problem.startswith(f"{text}:") for text in job for problem in found):
            continue  # reported already; diagnosing it again takes seconds
        try:
            jobs.append(_composed(job, hydras))
        except ConfigError as error:
            found += [text for text in error.problems if text not in found]
    if found:
        raise ConfigError(found)
    return jobs


def _check_plans(requests: list[Request], again: Rerun) -> None:
    """Raises ConfigError with everything that the work of any job needs and does not have."""
    store = Store(store_root())
    found: list[str] = []
    for request in requests:
        try:
            requirements.check(make_plan(request.config, store, again), request.config.hardware)
        except ConfigError as error:
            found += error.problems
    if found:
        raise ConfigError(list(dict.fromkeys(found)))


def _composed(job: list[str], hydras: list[str]) -> Request:
    tree, config = load.resolve([*hydras, *job], hydra=True)
    launcher = OmegaConf.select(tree, "hydra.runtime.choices")["hydra/launcher"]
    if launcher != "basic":
        text = f"{' '.join(job)}: a file chooses hydra/launcher={launcher}; sweeps support only basic"
        raise ConfigError([text])
    problems = graph_problems(config)
    if problems:
        raise ConfigError(problems)
    return Request(job, tree, config)


def _running() -> tuple[SweepJob, list[str]]:
    """Which job of which sweep is running, and its overrides."""
    hydra = HydraConfig.get()
    return SweepJob(id=str(hydra.sweep.dir), job=int(hydra.job.num)), list(hydra.overrides.task)


def table(jobs: list[Job]) -> Table:
    """One row per job: its overrides, how it ended, and the average scores of its checkpoints."""
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

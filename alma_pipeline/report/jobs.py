"""The jobs that a report covers: each job that the overrides describe, planned against the store. Runs nothing."""

from dataclasses import dataclass

from alma_pipeline.config import load as configuration
from alma_pipeline.errors import ConfigError
from alma_pipeline.plan.plan import Plan, make_plan
from alma_pipeline.schema import Config
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store


@dataclass(frozen=True)
class ReportJob:
    """One resolved configuration with its plan and the finished artifacts."""

    overrides: list[str]
    config: Config
    plan: Plan
    records: dict[str, Record]
    """By node name, for nodes whose artifact is in the store."""


def plan_jobs(overrides: list[str], store: Store) -> list[ReportJob]:
    """The jobs of these overrides; `seed=1,2,3` or `stages.cpo.beta=0.1,0.2` gives several.

    Raises ConfigError with the problems of all jobs, each listed once.
    """
    from alma_pipeline.config import compose

    # Hydra's own settings are not part of the grid; every job gets them.
    hydras = [text for text in overrides if text.startswith("hydra.")]
    own = [text for text in overrides if text not in hydras]
    jobs: list[ReportJob] = []
    problems: list[str] = []
    for words in compose.split(own):
        try:
            _, config = configuration.resolve([*hydras, *words])
            jobs.append(plan_job(words, config, store))
        except ConfigError as error:
            # Jobs of a sweep usually fail alike.
            problems += [text for text in error.problems if text not in problems]
    if problems:
        raise ConfigError(problems)
    return jobs


def plan_job(overrides: list[str], config: Config, store: Store) -> ReportJob:
    """Plan one job against the store."""
    plan = make_plan(config, store)
    return ReportJob(overrides, config, plan, {step.node.name: step.record for step in plan.steps if step.record})

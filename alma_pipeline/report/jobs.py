"""What is reported: each job that the overrides describe, and what the store holds of its nodes. Runs nothing."""

from dataclasses import dataclass

from alma_pipeline.config import load as configuration
from alma_pipeline.errors import ConfigError
from alma_pipeline.plan.plan import Plan, make_plan
from alma_pipeline.schema import Config
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store


@dataclass(frozen=True)
class ReportJob:
    """One request with one value for every setting."""

    overrides: list[str]
    config: Config
    plan: Plan
    records: dict[str, Record]
    """By node name, of the nodes whose artifact is there."""


def plan_jobs(overrides: list[str], store: Store) -> list[ReportJob]:
    """The jobs of overrides, of which `seed=1,2,3` or `stages.cpo.beta=0.1,0.2` makes several. Raises ConfigError."""
    from alma_pipeline.config import compose

    hydras = [text for text in overrides if text.startswith("hydra.")]
    own = [text for text in overrides if text not in hydras]
    jobs: list[ReportJob] = []
    problems: list[str] = []
    for words in compose.split(own):
        try:
            _, config = configuration.resolve([*hydras, *words])
            jobs.append(plan_job(words, config, store))
        except ConfigError as error:
            problems += [text for text in error.problems if text not in problems]
    if problems:
        raise ConfigError(problems)
    return jobs


def plan_job(overrides: list[str], config: Config, store: Store) -> ReportJob:
    """One job against the store."""
    plan = make_plan(config, store)
    return ReportJob(overrides, config, plan, {step.node.name: step.record for step in plan.steps if step.record})

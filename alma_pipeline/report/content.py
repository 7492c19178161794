"""All that a report says, gathered once: what pages, papers and terminals are written from."""

import hashlib
import re
import shlex
import time
from dataclasses import dataclass

from alma_pipeline.errors import UserError
from alma_pipeline.report import findings
from alma_pipeline.report.caveats import marked, notes, stops
from alma_pipeline.report.cost import Cost, Sum, costs, energy, sums
from alma_pipeline.report.curves import Curve, curves
from alma_pipeline.report.guard_rates import Confusion, Rate, confusions, group_confusions, rates
from alma_pipeline.report.jobs import Job
from alma_pipeline.report.lengths import Lengths, lengths
from alma_pipeline.report.recipe_graph import Picture, picture
from alma_pipeline.report.reproduce import Origin, Source, origins, packages, sources
from alma_pipeline.report.samples import Sample, samples
from alma_pipeline.report.scoreboard import Board, boards, tests_of
from alma_pipeline.report.significance import PairedTests, method
from alma_pipeline.report.systems import Evaluation, System, evaluations, group_of, other_groups, systems
from alma_pipeline.schema.metrics import MAIN, metric_label
from alma_pipeline.store.store import Store

PICTURED = "all"
"""The part of the directions whose mean by the main metric a node of the picture shows."""
SIGNIFICANCE = "significance.json"


@dataclass(frozen=True)
class GroupScore:
    """A group's adapter on the directions of a group, its own or another."""

    adapter: str
    group: int
    value: float
    own: bool


@dataclass(frozen=True)
class Content:
    """All that a report tells, before it is a page or tables."""

    name: str
    """For a file: what was asked for, and a digest of exactly that."""
    title: str
    subtitle: str
    command: str
    """The settings of the request, as one types them."""
    made: str
    done: int
    nodes: int
    seeds: int
    significance: str
    """Which of sacrebleu's paired tests was made: bootstrap or randomisation."""
    method: str
    """How the differences were tested, in words; empty where nothing was compared."""
    picture: Picture
    systems: list[System]
    boards: list[Board]
    groups: list[GroupScore]
    guards: list[str]
    rates: list[tuple[System, list[Rate | None]]]
    confusions: list[Confusion]
    lengths: list[Lengths]
    notes: list[str]
    """What the marks at names of systems stand for."""
    stops: list[str]
    findings: list[str]
    curves: list[Curve]
    samples: list[Sample]
    costs: list[Cost]
    sums: list[Sum]
    energy: str
    """What the figures of energy are; empty where there are none."""
    sources: list[Source]
    origins: list[Origin]
    packages: dict[str, str]


def content(overrides: list[str], jobs: list[Job], store: Store) -> Content:
    """Everything there is to say. Raises UserError where the store has no score of what was asked."""
    found = marked(systems(jobs), jobs)
    if not found:
        words = shlex.join(["alma-pipeline", *_typed(overrides, jobs)])
        raise UserError(f"{store.root} holds no scores of this recipe, so there is nothing to report; make them first: {words}")
    job = max(jobs, key=lambda each: len(each.records))
    tests = PairedTests(store.root / "reports" / SIGNIFICANCE, job.config.evaluation.significance)
    found_boards = boards(found, tests)
    tests.keep()
    title = _title(job, found)
    guards, found_rates = rates(found)
    found_costs = costs(jobs)
    return Content(
        name=re.sub(r"[^\w.]+", "-", f"{title} {_digest(jobs)}"),
        title=title,
        subtitle=f"data {job.config.data.name}, budget {job.config.budget.name}, evaluation {job.config.evaluation.name}",
        command=shlex.join(_typed(overrides, jobs)),
        made=time.strftime("%Y-%m-%d %H:%M"),
        done=len({record.key for each in jobs for record in each.records.values()}),
        nodes=len({step.key for each in jobs for step in each.plan.steps}),
        seeds=max(len(system.seeds) for system in found),
        significance=tests.test,
        method=method(tests.test, tests_of(row.cells for board in found_boards for row in board.rows)),
        picture=picture(job, _mean_scores(job)),
        systems=found,
        boards=found_boards,
        groups=_groups(job),
        guards=guards,
        rates=found_rates,
        confusions=[*confusions(found), *group_confusions(found, job)],
        lengths=lengths(found),
        notes=[*notes(found), *_missing(jobs)],
        stops=stops(jobs, store),
        findings=findings.sentences(job.plan, job.records),
        curves=curves(jobs),
        samples=[sample for test in dict.fromkeys(system.test for system in found) for sample in samples(found, test)],
        costs=found_costs,
        sums=list(sums(found_costs)),
        energy=energy(found_costs),
        sources=sources(found),
        origins=origins(job),
        packages=packages(job),
    )


def _typed(overrides: list[str], jobs: list[Job]) -> list[str]:
    """As one types them: several jobs are a sweep."""
    return [*(["-m"] if len(jobs) > 1 else []), *overrides]


def _missing(jobs: list[Job]) -> list[str]:
    """Of several jobs, those whose targets have no scores: the means are without them."""
    found = []
    for job in jobs if len(jobs) > 1 else []:
        scored = {evaluation.checkpoint for evaluation in evaluations(job)}
        targets = [step.node.name for step in job.plan.steps if step.node.target]
        if lacking := [name for name in targets if name not in scored]:
            found.append(f"{shlex.join(job.overrides)}: no scores of {', '.join(lacking)}, so that nothing here counts them")
    return found


def _title(job: Job, found: list[System]) -> str:
    if all(system.given for system in found):
        return "Outputs that were given"
    return f"{' and '.join(job.config.targets)}, model {job.config.model.name}"


def _digest(jobs: list[Job]) -> str:
    """The same for the same targets, whatever the words they were asked for in."""
    keys = sorted(step.key for job in jobs for step in job.plan.steps if step.node.target)
    return hashlib.sha256(" ".join(keys).encode()).hexdigest()[:8]


def _mean_scores(job: Job) -> dict[str, str]:
    found: dict[str, str] = {}
    for evaluation in evaluations(job):
        value = evaluation.result["averages"].get(PICTURED, {}).get(MAIN)
        if value is not None:
            found.setdefault(evaluation.checkpoint, f"{metric_label(MAIN)} {value:.1f}")
    return found


def _groups(job: Job) -> list[GroupScore]:
    """Means over a group's directions; only where some adapter was asked about another group's."""
    found = [
        GroupScore(evaluation.checkpoint, group, value, evaluation.group == group)
        for evaluation, group in other_groups(job)
        if (value := evaluation.mean(_directions(job, evaluation, group), MAIN)) is not None
    ]
    compared = {score.adapter for score in found if not score.own}
    return [score for score in found if score.adapter in compared]


def _directions(job: Job, evaluation: Evaluation, group: int) -> list[str]:
    return [direction for direction in evaluation.result["directions"] if group_of(job, direction) == group]

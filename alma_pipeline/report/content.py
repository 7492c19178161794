"""All that a report says, gathered once: what pages, papers and terminals are written from."""

import hashlib
import re
import shlex
import time
from dataclasses import dataclass

from alma_pipeline.errors import UserError
from alma_pipeline.report import findings
from alma_pipeline.report.caveats import early_stops, footnotes, mark_contaminated
from alma_pipeline.report.cost import CostTotal, NodeCost, cost_totals, energy_note, node_costs
from alma_pipeline.report.curves import Curve, curves
from alma_pipeline.report.guard_rates import GuardRate, LanguageConfusion, group_confusions, guard_rates, language_confusions
from alma_pipeline.report.jobs import ReportJob
from alma_pipeline.report.lengths import LengthTable, scores_by_length
from alma_pipeline.report.recipe_graph import RecipeGraph, draw_graph
from alma_pipeline.report.reproduce import ArtifactOrigin, ScoreSource, artifact_origins, package_versions, score_sources
from alma_pipeline.report.samples import SampleSegment, worst_samples
from alma_pipeline.report.scoreboard import Board, build_boards, kinds_of_tests
from alma_pipeline.report.significance import PairedTests, describe_tests
from alma_pipeline.report.systems import ScoredCheckpoint, System, group_of, on_all_groups, scored_checkpoints, systems
from alma_pipeline.schema.metrics import MAIN, metric_label
from alma_pipeline.store.store import Store

GRAPH_AVERAGE = "all"
"""The part of the directions whose mean by the main metric a node of the picture shows."""
P_VALUES_FILE = "significance.json"


@dataclass(frozen=True)
class GroupScore:
    """A group's adapter on the directions of a group, its own or another."""

    adapter: str
    group: int
    value: float
    own: bool


@dataclass(frozen=True)
class Report:
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
    picture: RecipeGraph
    systems: list[System]
    boards: list[Board]
    groups: list[GroupScore]
    guards: list[str]
    rates: list[tuple[System, list[GuardRate | None]]]
    confusions: list[LanguageConfusion]
    lengths: list[LengthTable]
    notes: list[str]
    """What the marks at names of systems stand for."""
    stops: list[str]
    findings: list[str]
    curves: list[Curve]
    samples: list[SampleSegment]
    costs: list[NodeCost]
    sums: list[CostTotal]
    energy: str
    """What the figures of energy are; empty where there are none."""
    sources: list[ScoreSource]
    origins: list[ArtifactOrigin]
    packages: dict[str, str]


def build_report(overrides: list[str], jobs: list[ReportJob], store: Store) -> Report:
    """Everything there is to say. Raises UserError where the store has no score of what was asked."""
    found = mark_contaminated(systems(jobs), jobs)
    if not found:
        words = shlex.join(["alma-pipeline", *_typed(overrides, jobs)])
        raise UserError(f"{store.root} holds no scores of this recipe, so there is nothing to report; make them first: {words}")
    job = max(jobs, key=lambda each: len(each.records))
    tests = PairedTests(store.root / "reports" / P_VALUES_FILE, job.config.evaluation.significance)
    found_boards = build_boards(found, tests)
    tests.keep()
    title = _title(job, found)
    guards, found_rates = guard_rates(found)
    found_costs = node_costs(jobs)
    return Report(
        name=re.sub(r"[^\w.]+", "-", f"{title} {_digest(jobs)}"),
        title=title,
        subtitle=f"data {job.config.data.name}, budget {job.config.budget.name}, evaluation {job.config.evaluation.name}",
        command=shlex.join(_typed(overrides, jobs)),
        made=time.strftime("%Y-%m-%d %H:%M"),
        done=len({record.key for each in jobs for record in each.records.values()}),
        nodes=len({step.key for each in jobs for step in each.plan.steps}),
        seeds=max(len(system.seeds) for system in found),
        significance=tests.test,
        method=describe_tests(tests.test, kinds_of_tests(row.cells for board in found_boards for row in board.rows)),
        picture=draw_graph(job, _mean_scores(job)),
        systems=found,
        boards=found_boards,
        groups=_groups(job),
        guards=guards,
        rates=found_rates,
        confusions=[*language_confusions(found), *group_confusions(found, job)],
        lengths=scores_by_length(found),
        notes=[*footnotes(found), *_missing(jobs)],
        stops=early_stops(jobs, store),
        findings=findings.findings(job.plan, job.records),
        curves=curves(jobs),
        samples=[sample for test in dict.fromkeys(system.test for system in found) for sample in worst_samples(found, test)],
        costs=found_costs,
        sums=list(cost_totals(found_costs)),
        energy=energy_note(found_costs),
        sources=score_sources(found),
        origins=artifact_origins(job),
        packages=package_versions(job),
    )


def _typed(overrides: list[str], jobs: list[ReportJob]) -> list[str]:
    """As one types them: several jobs are a sweep."""
    return [*(["-m"] if len(jobs) > 1 else []), *overrides]


def _missing(jobs: list[ReportJob]) -> list[str]:
    """Of several jobs, those whose targets have no scores: the means are without them."""
    found = []
    for job in jobs if len(jobs) > 1 else []:
        scored = {evaluation.checkpoint for evaluation in scored_checkpoints(job)}
        targets = [step.node.name for step in job.plan.steps if step.node.target]
        if lacking := [name for name in targets if name not in scored]:
            found.append(f"{shlex.join(job.overrides)}: no scores of {', '.join(lacking)}, so that nothing here counts them")
    return found


def _title(job: ReportJob, found: list[System]) -> str:
    if all(system.given for system in found):
        return "Outputs that were given"
    return f"{' and '.join(job.config.targets)}, model {job.config.model.name}"


def _digest(jobs: list[ReportJob]) -> str:
    """The same for the same targets, whatever the words they were asked for in."""
    keys = sorted(step.key for job in jobs for step in job.plan.steps if step.node.target)
    return hashlib.sha256(" ".join(keys).encode()).hexdigest()[:8]


def _mean_scores(job: ReportJob) -> dict[str, str]:
    found: dict[str, str] = {}
    for evaluation in scored_checkpoints(job):
        value = evaluation.result["averages"].get(GRAPH_AVERAGE, {}).get(MAIN)
        if value is not None:
            found.setdefault(evaluation.checkpoint, f"{metric_label(MAIN)} {value:.1f}")
    return found


def _groups(job: ReportJob) -> list[GroupScore]:
    """Means over a group's directions; only where some adapter was asked about another group's."""
    found = [
        GroupScore(evaluation.checkpoint, group, value, evaluation.group == group)
        for evaluation, group in on_all_groups(job)
        if (value := evaluation.mean(_directions(job, evaluation, group), MAIN)) is not None
    ]
    compared = {score.adapter for score in found if not score.own}
    return [score for score in found if score.adapter in compared]


def _directions(job: ReportJob, evaluation: ScoredCheckpoint, group: int) -> list[str]:
    return [direction for direction in evaluation.result["directions"] if group_of(job, direction) == group]

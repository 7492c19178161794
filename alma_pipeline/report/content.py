"""The report as data, built once from plans and records; page, paper and terminal are rendered from it."""

import hashlib
import re
import shlex
from dataclasses import dataclass
from datetime import UTC, datetime

from alma_pipeline import instants
from alma_pipeline.errors import UserError
from alma_pipeline.report import findings
from alma_pipeline.report.caveats import early_stops, footnotes, mark_contaminated, unscored_notes
from alma_pipeline.report.cost import CostTotal, NodeCost, cost_totals, energy_note, node_costs
from alma_pipeline.report.curves import Curve, curves, lost_curves
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
"""The average whose main metric a node of the recipe graph shows."""
P_VALUES_FILE = "significance.json"


@dataclass(frozen=True)
class GroupScore:
    """One adapter's mean score over the directions of one language group, its own or another."""

    adapter: str
    group: int
    value: float
    own: bool


@dataclass(frozen=True)
class Report:
    """Everything a report shows."""

    name: str
    """File name without suffix: the title and a digest of the targets' keys."""
    title: str
    subtitle: str
    command: str
    """The settings as typed on the command line."""
    made: str
    """Time of the report, `YYYY-MM-DD HH:MM`."""
    done: int
    """Nodes with an artifact, of `nodes`."""
    nodes: int
    seeds: int
    significance: str
    """sacrebleu's paired test: bootstrap or randomisation."""
    method: str
    """Description of the significance tests; empty if nothing was compared."""
    graph: RecipeGraph
    systems: list[System]
    boards: list[Board]
    groups: list[GroupScore]
    guards: list[str]
    rates: list[tuple[System, list[GuardRate | None]]]
    confusions: list[LanguageConfusion]
    lengths: list[LengthTable]
    notes: list[str]
    """Footnotes to marked systems and empty cells, and jobs that have no scores."""
    stops: list[str]
    findings: list[str]
    curves: list[Curve]
    samples: list[SampleSegment]
    costs: list[NodeCost]
    totals: list[CostTotal]
    energy_note: str
    """What the energy figures include; empty if there are none."""
    sources: list[ScoreSource]
    origins: list[ArtifactOrigin]
    packages: dict[str, str]


def build_report(overrides: list[str], jobs: list[ReportJob], store: Store) -> Report:
    """Build the report of these jobs. Raises UserError if the store has no scores of them."""
    found = mark_contaminated(systems(jobs), jobs)
    if not found:
        command = shlex.join(["alma-pipeline", *_typed(overrides, jobs)])
        raise UserError(f"{store.root} has no scores for this recipe, so there is nothing to report; run it first: {command}")
    # One job represents the settings that all jobs share: the most complete one, since others may not have run.
    job = max(jobs, key=lambda each: len(each.records))
    # Boards come first: they run the significance tests, whose p-values the store caches.
    tests = PairedTests(store.root / "reports" / P_VALUES_FILE, job.config.evaluation.significance)
    boards = build_boards(found, tests)
    tests.save()
    title = _title(job, found)
    guards, rates = guard_rates(found)
    costs = node_costs(jobs)
    return Report(
        name=re.sub(r"[^\w.]+", "-", f"{title} {_digest(jobs)}"),
        title=title,
        subtitle=f"data {job.config.data.name}, budget {job.config.budget.name}, evaluation {job.config.evaluation.name}",
        command=shlex.join(_typed(overrides, jobs)),
        made=instants.shown(datetime.now(UTC)),
        done=len({record.key for each in jobs for record in each.records.values()}),
        nodes=len({step.key for each in jobs for step in each.plan.steps}),
        seeds=max(len(system.seeds) for system in found),
        significance=tests.test,
        method=describe_tests(tests.test, kinds_of_tests(row.cells for board in boards for row in board.rows)),
        graph=draw_graph(job, _mean_scores(job)),
        systems=found,
        boards=boards,
        groups=_groups(job),
        guards=guards,
        rates=rates,
        confusions=[*language_confusions(found), *group_confusions(found, job)],
        lengths=scores_by_length(found),
        notes=_notes(found, jobs),
        stops=early_stops(jobs, store),
        findings=findings.findings(job.plan, job.records),
        curves=curves(jobs),
        samples=[sample for test in dict.fromkeys(system.test for system in found) for sample in worst_samples(found, test)],
        costs=costs,
        totals=list(cost_totals(costs)),
        energy_note=energy_note(costs),
        sources=score_sources(found),
        origins=artifact_origins(job),
        packages=package_versions(job),
    )


def _typed(overrides: list[str], jobs: list[ReportJob]) -> list[str]:
    """The overrides as typed: several jobs are a sweep, so `-m` precedes them."""
    return [*(["-m"] if len(jobs) > 1 else []), *overrides]


def _notes(found: list[System], jobs: list[ReportJob]) -> list[str]:
    """What limits the scores, and what is missing from the page."""
    unscored = unscored_notes(each for system in found for each in system.evaluations)
    return [*footnotes(found), *unscored, *_unscored_jobs(jobs), *lost_curves(jobs)]


def _unscored_jobs(jobs: list[ReportJob]) -> list[str]:
    """Of several jobs, those with unscored targets: no mean includes them."""
    found = []
    for job in jobs if len(jobs) > 1 else []:
        scored = {evaluation.checkpoint for evaluation in scored_checkpoints(job)}
        targets = [step.node.name for step in job.plan.steps if step.node.target]
        if lacking := [name for name in targets if name not in scored]:
            found.append(f"{shlex.join(job.overrides)}: no scores of {', '.join(lacking)}; not included in this report")
    return found


def _title(job: ReportJob, found: list[System]) -> str:
    if all(system.from_files for system in found):
        return "Outputs of other systems"
    return f"{' and '.join(job.config.targets)}, model {job.config.model.name}"


def _digest(jobs: list[ReportJob]) -> str:
    """Eight hex digits of the targets' keys; the same however the request was written."""
    keys = sorted(step.key for job in jobs for step in job.plan.steps if step.node.target)
    return hashlib.sha256(" ".join(keys).encode()).hexdigest()[:8]


def _mean_scores(job: ReportJob) -> dict[str, str]:
    """Checkpoint to its mean main metric over all directions, as text: `chrF++ 41.2`."""
    found: dict[str, str] = {}
    for evaluation in scored_checkpoints(job):
        value = evaluation.result["averages"].get(GRAPH_AVERAGE, {}).get(MAIN)
        if value is not None:
            found.setdefault(evaluation.checkpoint, f"{metric_label(MAIN)} {value:.1f}")
    return found


def _groups(job: ReportJob) -> list[GroupScore]:
    """Mean scores by adapter and group, for adapters that also translated another group's directions."""
    found = [
        GroupScore(evaluation.checkpoint, group, value, evaluation.group == group)
        for evaluation, group in on_all_groups(job)
        if (value := evaluation.mean(_directions(job, evaluation, group), MAIN)) is not None
    ]
    compared = {score.adapter for score in found if not score.own}
    return [score for score in found if score.adapter in compared]


def _directions(job: ReportJob, evaluation: ScoredCheckpoint, group: int) -> list[str]:
    return [direction for direction in evaluation.result["directions"] if group_of(job, direction) == group]

"""`run`: builds what is missing for the target, then prints its training, its scores and where they are."""

import shlex
from typing import TYPE_CHECKING

from alma_pipeline.cli import tables
from alma_pipeline.cli.arguments import Arguments
from alma_pipeline.cli.session import Request, Session, execute, pinned_plan, run_single
from alma_pipeline.paths import store_root
from alma_pipeline.plan.plan import Plan
from alma_pipeline.redact import redact
from alma_pipeline.schema import Config
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store

if TYPE_CHECKING:
    from alma_pipeline.tracking.run_metadata import SweepJob


def main(arguments: Arguments) -> int:
    """Run one job, or with -m a sweep. Raises PipelineError."""
    if arguments.multirun:
        from alma_pipeline.cli import sweep

        return sweep.main(arguments, job)
    return run_single(arguments, job)


def job(session: Session, request: Request, sweep: "SweepJob | None") -> dict[str, Record]:
    """Plan, build what is missing, and print the results; the artifacts by node name."""
    from alma_pipeline.tracking.tracker import deliver_waiting

    store = Store(store_root())
    plan = pinned_plan(request.config, store, session.rerun)
    for note in plan.notes:
        session.console.print_line(note, "yellow")
    records = {step.node.name: step.record for step in plan.steps if step.record}
    if plan.work:
        records = execute(session, request, plan, store, sweep)
    else:
        session.console.print(tables.reused(plan))
        deliver_waiting(store.root, request.config.tracking)
    _print_results(session, plan, records, request.config)
    if not sweep and any(record.kind == "score" for record in records.values()):
        session.console.print_line(f"full report: {shlex.join(['alma-pipeline', 'report', *request.overrides])}")
    return records


def _print_results(session: Session, plan: Plan, records: dict[str, Record], config: Config) -> None:
    from alma_pipeline.report import caveats, findings
    from alma_pipeline.report.jobs import ReportJob
    from alma_pipeline.tracking import database

    # What was measured.
    console = session.console
    training = tables.training_table(plan, records, console.width)
    for table in ([training] if training else []) + list(tables.score_tables(records, console.width)):
        console.print_line("")
        console.print(table)

    # What it means, and what limits it.
    for line in findings.terminal_lines(plan, records):
        console.print_line(line)
    for note in caveats.contamination_notes(ReportJob([], config, plan, records)):
        console.print_line(note, "yellow")

    # Where it is.
    console.print_line("")
    for step, record in tables.targets(plan, records):
        console.print_line(f"{step.node.name}: {record.path}")
    if config.tracking.enabled:
        console.print_line(f"MLflow: {redact(database.where(store_root()))}")

"""`report`: tables in the terminal and a page in the store and in MLflow, or tables for a paper on standard output."""

from pathlib import Path

from alma_pipeline import output_file
from alma_pipeline.cli.arguments import Arguments
from alma_pipeline.cli.session import overrides
from alma_pipeline.console import LiteralConsole
from alma_pipeline.errors import UserError
from alma_pipeline.paths import store_root
from alma_pipeline.redact import redact
from alma_pipeline.report import paper, terminal
from alma_pipeline.report.content import Report, build_report
from alma_pipeline.report.jobs import ReportJob, plan_jobs
from alma_pipeline.store.store import Store
from alma_pipeline.streams import write_utf8


def main(arguments: Arguments) -> int:
    """Report on what the overrides describe. Raises ConfigError, and UserError if the store has no scores of it."""
    root = store_root()
    store = Store(root)
    output = Path(arguments.output).expanduser() if arguments.output else None
    as_page = arguments.format in (None, "html")
    # A report can take minutes of resampling, so its file is checked first.
    if output:
        output_file.check(output)
    jobs = plan_jobs(overrides(arguments), store)
    report = build_report(arguments.overrides, jobs, store)
    if as_page:
        _show(report)
        path = output or root / "reports" / f"{report.name}.html"
        try:
            _write_page(report, path)
        except UserError as error:
            if output:
                raise
            LiteralConsole().print_line(f"no page: {error}", "yellow")  # a store that is read-only has tables to show
            return 0
        _track(root, jobs, path)
        return 0
    text = paper.latex(report) if arguments.format == "latex" else paper.markdown(report)
    if output:
        output_file.write(output, text)
    else:
        write_utf8(text)
    return 0


def _show(report: Report) -> None:
    screen = LiteralConsole()
    for board in report.boards:
        terminal.print_board(screen, board)
    if report.method:
        screen.print_line(
            f"\n▲ better and ▼ worse than its parent or its baseline, significantly; ≈ not significant ({report.method})",
            "dim",
        )
    for sentence in (*report.notes, *report.stops):
        screen.print_line(sentence, "yellow")
    for sentence in report.findings:
        screen.print_line(f"  {sentence}")


def _write_page(report: Report, path: Path) -> None:
    from alma_pipeline.report import page

    output_file.write(path, page.render(report))
    LiteralConsole().print_line(f"\nreport: {path}")


def _track(root: Path, jobs: list[ReportJob], path: Path) -> None:
    """Log the page to the MLflow run that built the newest target, beside the scores."""
    from alma_pipeline.tracking import runs

    targets = [
        record for job in jobs for step in job.plan.steps if step.node.target and (record := job.records.get(step.node.name))
    ]
    tracked = [record for record in targets if record.mlflow_run]
    if not jobs[0].config.tracking.enabled or not tracked:
        return
    newest = max(tracked, key=lambda record: record.created)
    message = runs.log_report(root, jobs[0].config.tracking.experiment, newest.mlflow_run, path)
    LiteralConsole().print_line(redact(message))

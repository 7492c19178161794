"""`report`: the tables in the terminal, the page in the store and in MLflow, or tables for a paper on standard output."""

import os
from pathlib import Path

from alma_pipeline.cli.arguments import Command
from alma_pipeline.config import load as configuration
from alma_pipeline.console import Screen
from alma_pipeline.errors import UserError
from alma_pipeline.redact import redact
from alma_pipeline.report import paper, terminal
from alma_pipeline.report.content import Content, content
from alma_pipeline.report.jobs import Job, gather
from alma_pipeline.store.store import Store


def main(root: Path, command: Command) -> int:
    """Report what the overrides describe. Raises UserError where the store has no scores of it, and ConfigError."""
    from alma_pipeline.config.compose import with_search_path

    overrides = with_search_path(command.overrides, command.flags.get("--config-dir", []))
    configuration.check_credentials(overrides)
    store = Store(root)
    jobs = gather(overrides, store)
    told = content(command.overrides, jobs, store)
    kind = command.flags.get("--format", ["html"])[-1]
    output = Path(command.flags["--output"][-1]).expanduser() if "--output" in command.flags else None
    if kind == "html":
        _show(told)
        path = output or root / "reports" / f"{told.name}.html"
        _write_page(told, path)
        _track(root, jobs, path)
        return 0
    text = paper.latex(told) if kind == "latex" else paper.markdown(told)
    if output:
        write(output, text)
    else:
        print(text, end="")
    return 0


def _show(told: Content) -> None:
    screen = Screen()
    for board in told.boards:
        terminal.show(screen, board)
    if told.method:
        screen.say(
            f"\n▲ better and ▼ worse than the system it was trained from or is held against, beyond chance; "
            f"≈ may be chance ({told.method})",
            "dim",
        )
    for sentence in (*told.notes, *told.stops):
        screen.say(sentence, "yellow")
    for sentence in told.findings:
        screen.say(f"  {sentence}")


def _write_page(told: Content, path: Path) -> None:
    from alma_pipeline.report import page

    write(path, page.render(told))
    Screen().say(f"\nreport: {path}")


def write(path: Path, text: str) -> None:
    """Whole or not at all. Raises UserError for a place that cannot be written."""
    draft = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; --output FILE names another place") from error


def _track(root: Path, jobs: list[Job], path: Path) -> None:
    """Beside the scores it is about: on the run of the invocation that made the newest target."""
    from alma_pipeline.tracking import runs

    targets = [
        record for job in jobs for step in job.plan.steps if step.node.target and (record := job.records.get(step.node.name))
    ]
    tracked = [record for record in targets if record.mlflow_run]
    if not jobs[0].config.tracking.enabled or not tracked:
        return
    newest = max(tracked, key=lambda record: record.created)
    said = runs.log_report(root, jobs[0].config.tracking.experiment, newest.mlflow_run, path)
    Screen().say(redact(said))

"""`plan`: prints what would run and why; with --diff, in what two artifacts differ. Writes nothing."""

import json
from pathlib import Path
from typing import Any

from rich.table import Table

from alma_pipeline.cli import session, why
from alma_pipeline.cli.arguments import Arguments
from alma_pipeline.cli.plan_table import plan_table
from alma_pipeline.cli.session import Request
from alma_pipeline.console import LiteralConsole
from alma_pipeline.errors import UserError
from alma_pipeline.execution import preflight
from alma_pipeline.paths import store_root
from alma_pipeline.plan import disk_space, requirements
from alma_pipeline.plan.plan import Plan, make_plan, to_json
from alma_pipeline.plan.reasons import every_difference
from alma_pipeline.plan.remade import made_again
from alma_pipeline.redact import redact_values
from alma_pipeline.store.lookup import find_artifact
from alma_pipeline.store.store import Store
from alma_pipeline.streams import write_utf8
from alma_pipeline.tracking.watcher import check_tracking


def main(arguments: Arguments) -> int:
    """Print the plan of one job, with -m of each job of a sweep. Raises ConfigError."""
    if arguments.diff:
        return diff(store_root(), *arguments.diff)
    if arguments.why and arguments.json:
        raise UserError("--why and --json do not go together: the JSON plan has every setting, cause and reason")
    if arguments.multirun:
        return _sweep(arguments)
    request = session.single(arguments)
    check_tracking(request.config, store_root())
    if arguments.json:
        _print_json(_as_json(request, arguments))
    else:
        _print_table(request, arguments, LiteralConsole())
    return 0


def _sweep(arguments: Arguments) -> int:
    from alma_pipeline.cli import sweep

    requests = sweep.check(session.overrides(arguments))
    if not requests:
        raise UserError("plan -m: a sweeper other than basic chooses its jobs while it runs, so they cannot be planned")
    for request in requests:
        check_tracking(request.config, store_root())
    if arguments.json:
        _print_json([{"overrides": request.overrides, **_as_json(request, arguments)} for request in requests])
        return 0
    console = LiteralConsole()
    for number, request in enumerate(requests):
        console.print_line(f"\njob {number}: {' '.join(request.overrides)}", style="bold")
        _print_table(request, arguments, console)
    return 0


def _plan(request: Request, arguments: Arguments) -> Plan:
    """The plan of one job. Raises ConfigError for work that cannot be done."""
    plan = make_plan(request.config, Store(store_root()), session.rerun(arguments))
    requirements.check(plan, request.config.hardware)
    return plan


def _as_json(request: Request, arguments: Arguments) -> dict[str, Any]:
    return to_json(_plan(request, arguments))


def _print_json(value: Any) -> None:
    write_utf8(json.dumps(redact_values(value), indent=1, ensure_ascii=False) + "\n")


def _print_table(request: Request, arguments: Arguments, console: LiteralConsole) -> None:
    plan = _plan(request, arguments)
    if arguments.why:
        why.explain(console, plan, arguments.why)
    else:
        console.print(plan_table(plan, request.config.hardware, console.width))
        # A plan may be made on another machine than the run, so what is missing here is a note, not an error.
        try:
            preflight.check(plan, request.config.hardware)
        except UserError as error:
            console.print_line(f"missing on this machine: {error}", "yellow")
        for text in disk_space.shortages(plan, request.config, Store(store_root())):
            console.print_line(text, style="bold red")
        made_again(plan)


def diff(root: Path, first: str, second: str) -> int:
    """Print every setting and input in which two artifacts differ. Raises UserError for an unknown or ambiguous name."""
    store = Store(root)
    a, b = find_artifact(store, first), find_artifact(store, second)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", a.path.name, b.path.name):
        table.add_column(name, overflow="fold")
    for row in every_difference(a.payload, b.payload):
        table.add_row(*row)
    LiteralConsole().print(table if table.row_count else "no difference in settings or inputs")
    return 0

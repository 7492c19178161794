"""`plan --why NODE`: every setting, version and input in which a node differs from its nearest earlier artifact."""

from collections.abc import Iterable

from rich.table import Table

from alma_pipeline.console import LiteralConsole
from alma_pipeline.errors import UserError, suggestion
from alma_pipeline.plan.plan import Cause, Plan, Step
from alma_pipeline.plan.reasons import every_difference

ALONE = {
    Cause.COMPLETE: "An artifact with exactly these settings and inputs exists.",
    Cause.ADOPTED: "A checkpoint trained elsewhere serves in place of training.",
    Cause.UNFINISHED: "An interrupted attempt with exactly these settings and inputs left a resume point.",
    Cause.INCOMPLETE: "Its settings and inputs are the same, but files of its artifact are gone.",
    Cause.NOT_NEEDED: "",
    Cause.ROUND_STOPPED: "Later rounds of preferences are skipped once the dev score falls.",
}
"""Causes that explain themselves: no comparison with an earlier artifact is printed."""


def explain(console: LiteralConsole, plan: Plan, names: Iterable[str]) -> None:
    """Explain the verdicts of these nodes. Raises UserError for an unknown node."""
    known = [step.node.name for step in plan.steps]
    for name in names:
        if name not in known:
            raise UserError(f"--why {name}: no such node in this plan; {suggestion(name, known)}")
    for name in names:
        _explain(console, plan, plan[name])


def _explain(console: LiteralConsole, plan: Plan, step: Step) -> None:
    console.print_line(f"{step.node.name}: {_verdict(step)}", style="bold")
    if step.cause in ALONE:
        for text in (ALONE[step.cause], str(step.record.path) if step.record else ""):
            if text:
                console.print_line(text)
    else:
        _compare(console, step)
    if step.inputs:
        console.print_line("inputs")
    # What becomes of each input, so that a changed one can be traced further.
    for role, source in step.inputs.items():
        console.print_line(f"  {role} ({source}): {_verdict(plan[source])}")
    console.print_line("")


def _verdict(step: Step) -> str:
    return f"{step.verdict}: {step.reason}" if step.reason else step.verdict


def _compare(console: LiteralConsole, step: Step) -> None:
    if step.earlier is None:
        console.print_line("The store has no earlier artifact of this node.")
        return
    console.print_line(f"nearest earlier artifact: {step.earlier.path}")
    found = every_difference(step.earlier.payload, step.payload, step.node.setting)
    if not found:
        console.print_line("no difference in settings, version or inputs")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "before", "now"):
        table.add_column(name, overflow="fold")
    for row in found:
        table.add_row(*row)
    console.print(table)

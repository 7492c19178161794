"""`data`: prepares the text of a run, then shows how one example of each stage is tokenised and which tokens bear loss.

Imports no tokenizer: a subprocess splits the examples into pieces.
"""

import dataclasses
import json
import subprocess
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.text import Text

from alma_pipeline import start
from alma_pipeline.cli.arguments import Arguments
from alma_pipeline.cli.session import Request, Session, execute, pinned_plan, run_single
from alma_pipeline.console import LiteralConsole
from alma_pipeline.errors import ConfigError, PipelineError
from alma_pipeline.paths import store_root
from alma_pipeline.plan.node import is_training
from alma_pipeline.plan.plan import Plan, make_plan
from alma_pipeline.plan.step import Rerun, Step
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store

if TYPE_CHECKING:
    from alma_pipeline.tracking.run_metadata import SweepJob

MAX_SHOWN = 120
"""Tokens shown of each part of an example."""
MASKED, LABELLED = ("grey58", "grey35"), ("bold green", "bold cyan")
"""Two alternating shades each, so that token boundaries are visible."""


def main(arguments: Arguments) -> int:
    """Prepare and show the text of one job, or with -m of each job of a sweep. Raises PipelineError."""
    if arguments.multirun:
        from alma_pipeline.cli import sweep

        return sweep.main(arguments, job)
    return run_single(arguments, job)


def job(session: Session, request: Request, sweep: "SweepJob | None") -> dict[str, Record]:
    """Build the text that is missing and nothing else, then print examples; the artifacts by node name."""
    from alma_pipeline.tracking.tracker import deliver_waiting

    store = Store(store_root())
    names = chosen_nodes(make_plan(request.config, store, session.rerun), session.rerun)
    plan = pinned_plan(request.config, store, dataclasses.replace(session.rerun, only=tuple(names)))
    for note in plan.notes:
        session.console.print_line(note, "yellow")
    records = {step.node.name: step.record for step in plan.steps if step.record}
    if plan.work:
        records = execute(session, request, plan, store, None)
    else:
        deliver_waiting(store.root, request.config.tracking)
    shown = {name: record for name, record in records.items() if name in names or not session.rerun.only}
    store.check_files(*shown.values())
    show(session.console, plan, shown)
    return records


def chosen_nodes(plan: Plan, rerun: Rerun) -> list[str]:
    """The nodes to make: with --only those, and the base, whose tokenizer shows them. Raises ConfigError for other nodes."""
    known = text_nodes(plan)
    problems = [
        f"{flag} {name}: data prepares text and nothing else; expected one of {', '.join(known)}"
        for flag, name in rerun.unknown(known)
    ]
    if problems:
        raise ConfigError(problems)
    return [name for name in known if not rerun.only or name in rerun.only or plan[name].node.kind == "base"]


def text_nodes(plan: Plan) -> list[str]:
    """The nodes needed to show examples: the base for its tokenizer, corpora, and released preferences."""
    return [step.node.name for step in plan.steps if step.node.kind in ("base", "corpus") or _is_released(step)]


def _is_released(step: Step) -> bool:
    return step.node.kind == "preferences" and not step.node.inputs


def show(console: LiteralConsole, plan: Plan, records: Mapping[str, Record]) -> None:
    """Print an example of every stage whose text exists. Raises PipelineError if tokenising fails."""
    base = next((records[step.node.name] for step in plan.steps if step.node.kind == "base" and step.node.name in records), None)
    users = _users(plan)
    # One subprocess tokenises all examples.
    requests = [
        _request(step, records[step.node.name], base)
        for step in plan.steps
        if base and step.node.name in users and step.node.name in records
    ]
    for name in users:
        if name not in records and name not in text_nodes(plan):
            console.print_line(
                f"{name}: built from the model's own candidates; `run` builds it, then there is something to show", "dim"
            )
    for answer in _tokenised(requests):
        console.print_line("")
        console.print_line(f"{', '.join(users[answer['node']])}, from {answer['node']}", "bold")
        for part in answer["parts"]:
            _print(console, part)


def _users(plan: Plan) -> dict[str, list[str]]:
    """Each text node's readers: the training stages it is an input of."""
    found: dict[str, list[str]] = {}
    for step in plan.steps:
        for role, name in step.node.inputs.items():
            if role in ("corpus", "preferences") and is_training(step.node):
                found.setdefault(name, []).append(step.node.name)
    return found


def _request(step: Step, record: Record, base: Record) -> dict[str, Any]:
    config: Any = step.node.config
    form = "preferences" if step.node.kind == "preferences" else config.form
    languages = {code: dataclasses.asdict(language) for code, language in config.languages.items()}
    paths = {"folder": str(record.path), "tokenizer": str(base.path)}
    return {"node": step.node.name, "form": form, "prompt": config.prompt, "languages": languages, **paths}


def _tokenised(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    command = start.command("alma_pipeline.ml.data.preview")
    done = subprocess.run(
        command, input=json.dumps(requests), capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if done.returncode:
        raise PipelineError(f"the examples could not be tokenised:\n{done.stderr.strip()[-2000:]}")
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def _print(console: LiteralConsole, part: Mapping[str, Any]) -> None:
    pieces, prompt = part["pieces"], part["prompt"]
    console.print_line(f"  {part['title']}: {prompt} tokens without loss, {len(pieces) - prompt} with")
    for name, places, shades in (("no loss", range(prompt), MASKED), ("loss", range(prompt, len(pieces)), LABELLED)):
        line = Text(f"  {name:8}")
        for place in places[:MAX_SHOWN]:
            line.append(pieces[place].replace("\n", "⏎"), shades[place % 2])
            line.append("|", "dim")
        console.print(line.append("…" if len(places) > MAX_SHOWN else ""), soft_wrap=True)

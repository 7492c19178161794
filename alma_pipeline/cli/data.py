"""The verb `data`: prepare the text of a run, then show how one example of each stage is tokenised and what bears loss.

Imports no tokenizer: a process of its own answers which pieces there are.
"""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from rich.text import Text

from alma_pipeline.console import Screen
from alma_pipeline.errors import PipelineError
from alma_pipeline.plan.node import is_training
from alma_pipeline.plan.plan import Plan
from alma_pipeline.plan.step import Step
from alma_pipeline.store.record import Record

SHOWN = 120
"""Tokens of a part that are shown."""
MASKED, LABELLED = ("grey58", "grey35"), ("bold green", "bold cyan")
"""Two shades each, in turn, so that a token's ends can be seen."""


def text_nodes(plan: Plan) -> list[str]:
    """What must exist before anything can be shown: the base for its tokenizer, corpora, and preferences that are released."""
    return [step.node.name for step in plan.steps if step.node.kind in ("base", "corpus") or _is_released(step)]


def _is_released(step: Step) -> bool:
    return step.node.kind == "preferences" and not step.node.inputs


def show(console: Screen, plan: Plan, records: Mapping[str, Record]) -> None:
    """Print the examples of every stage whose text exists. Raises PipelineError where the pieces cannot be made."""
    base = next((records[step.node.name] for step in plan.steps if step.node.kind == "base" and step.node.name in records), None)
    users = _users(plan)
    requests = [
        _request(step, records[step.node.name], base)
        for step in plan.steps
        if base and step.node.name in users and step.node.name in records
    ]
    for name in users:
        if name not in records:
            console.say(f"{name}: made from the model's own candidates; there is nothing to show before `run` has made it", "dim")
    for answer in _asked(requests):
        console.say("")
        console.say(f"{', '.join(users[answer['node']])}, from {answer['node']}", "bold")
        for part in answer["parts"]:
            _print(console, part)


def _users(plan: Plan) -> dict[str, list[str]]:
    """Text node to the training stages that read it."""
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


def _asked(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "alma_pipeline.ml.data.preview"]
    done = subprocess.run(command, input=json.dumps(requests), capture_output=True, text=True, check=False)
    if done.returncode:
        raise PipelineError(f"the examples could not be tokenised:\n{done.stderr.strip()[-2000:]}")
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def _print(console: Screen, part: Mapping[str, Any]) -> None:
    pieces, prompt = part["pieces"], part["prompt"]
    console.say(f"  {part['title']}: {prompt} tokens without loss, {len(pieces) - prompt} with")
    for name, places, shades in (("no loss", range(prompt), MASKED), ("loss", range(prompt, len(pieces)), LABELLED)):
        line = Text(f"  {name:8}")
        for place in places[:SHOWN]:
            line.append(pieces[place].replace("\n", "⏎"), shades[place % 2])
            line.append("|", "dim")
        console.print(line.append("…" if len(places) > SHOWN else ""), soft_wrap=True)

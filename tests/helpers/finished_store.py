"""A store as a finished recipe leaves it, with scores that sacrebleu computed from the hypotheses in it."""

import json
import random
from functools import cache
from typing import Any

from sacrebleu.metrics import BLEU, CHRF

from alma_pipeline.config import load as configuration
from alma_pipeline.plan.node import is_training
from alma_pipeline.plan.plan import Plan, Step, make_plan
from alma_pipeline.schema import Config, Language
from alma_pipeline.store.store import Store
from helpers.artifacts import put

LANGUAGES = {"de": ("der", "Hund", "sieht", "die", "Katze"), "zh": ("我", "们", "看", "见", "猫")}
ENGLISH = ("the", "dog", "sees", "a", "cat")
SEGMENTS = 12
SKILL = {
    "good": 0.8,
    "bad": 0.2,
    "base": 0.1,
    "parallel_scratch": 0.4,
    "parallel": 0.6,
    "cpo": 0.9,
    "group_parallel": 0.6,
    "arpo": 0.7,
}
"""Share of words that a checkpoint, or another system, gets right."""
PREFERENCES = {"rewards/margins": 0.2, "rewards/accuracies": 0.6, "logps/margins": 2.0}
PROVENANCE = {
    "argv": ["/somewhere/__main__.py", "stage=all"],
    "python": "3.11.7",
    "packages": {"torch": "2.13.0"},
    "git": {"commit": "c0ffee" * 6, "branch": "main", "dirty": True},
}


@cache
def composed(*overrides: str) -> Config:
    """The whole recipe on two languages, one of them without spaces and with a BLEU tokenizer of its own."""
    return configuration.load([*overrides, "data.languages=[de,zh]", "tracking=none"])


def finish(store: Store, *overrides: str, but: str = "") -> Plan:
    """Make every artifact of the recipe except `but` and what is after it; the plan as it is then."""
    plan = make_plan(composed(*overrides), store)
    for step in plan.steps:
        if step.works and not (but and step.node.name.startswith(but)):
            _put(store, step, plan)
    return make_plan(composed(*overrides), Store(store.root))


def _put(store: Store, step: Step, plan: Plan) -> None:
    files: dict[str, str] = {}
    result: dict[str, Any] = {}
    if step.node.kind in ("corpus", "preferences"):
        result = {"counts": {"train_examples": 640, "dev_examples": 10}}
    elif is_training(step.node):
        result, files = _trained(step)
    elif step.node.kind in ("translate", "system_outputs"):
        rows = list(_hypotheses(step, plan))
        files = {"hypotheses.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)}
        result = {"output_tokens": 500, "seconds": 2.0}
    elif step.node.kind == "score":
        source = store.find(plan[step.node.inputs["hypotheses"]].key)
        assert source
        with open(source.path / "hypotheses.jsonl", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        result = scored(rows, languages_of(step))
        files = {"segments.jsonl": "".join(json.dumps(row | {"scores": {"quality": quality(row)}}) + "\n" for row in rows)}
    record = {"kind": step.node.kind, "payload": step.payload, "result": result, "provenance": PROVENANCE}
    put(store, step.node.name, step.key, record | {"hardware": {"devices": 1, "nodes": 1, "device": "cpu"}}, files or None)


def _trained(step: Step) -> tuple[dict[str, Any], dict[str, str]]:
    more = PREFERENCES if step.node.kind in ("cpo", "arpo") else {}
    lines = [
        {
            "time": float(i),
            "step": i,
            "total": 20,
            "metrics": {"train/loss": 3 - i / 10} | {f"train/{name}": value * i / 20 for name, value in more.items()},
        }
        for i in range(1, 21)
    ]
    dev = [
        {
            "time": 0.0,
            "step": i,
            "total": 20,
            "metrics": {"dev/loss": 3 - i / 20} | {f"dev/{name}": value for name, value in more.items()},
        }
        for i in (0, 20)
    ]
    result = {
        "steps": 20,
        "tokens": 5_000,
        "seconds": 4.0,
        "tokens_per_second": 1_250.0,
        "layout": "packed",
        "peak_memory_bytes": 10**8,
        "before": {"loss": 3.0} | more,
        "after": {"loss": 2.0} | more,
        "checkpoint": {"form": "full"},
    }
    return result, {"metrics.jsonl": "".join(json.dumps(line) + "\n" for line in [*dev[:1], *lines, *dev[1:]])}


def languages_of(step: Step) -> dict[str, Language]:
    languages: dict[str, Language] = vars(step.node.config)["languages"]
    return languages


def _hypotheses(step: Step, plan: Plan) -> Any:
    checkpoint = plan[step.node.inputs.get("checkpoint", step.node.name)]
    codes = [code for code in languages_of(step) if code != "en"]
    for direction in [pair for code in codes for pair in (f"{code}-en", f"en-{code}")]:
        source, target = (ENGLISH if code == "en" else LANGUAGES[code] for code in direction.split("-"))
        space = "" if direction.endswith("zh") else " "
        for number in range(SEGMENTS):
            draw = random.Random(f"{direction}{number}")
            words = [draw.randrange(5) for _ in range(8)]
            luck = random.Random(f"{checkpoint.key}{direction}{number}")
            skill = SKILL[checkpoint.node.name.removesuffix(".outputs").rpartition(".")[2]]
            kept = [word if luck.random() < skill else luck.randrange(5) for word in words]
            yield {
                "id": f"{direction}:{number}",
                "direction": direction,
                "source": " ".join(source[word] for word in words),
                "reference": space.join(target[word] for word in words),
                "hypothesis": space.join(target[word] for word in kept),
            }


def quality(row: dict[str, str]) -> float:
    """A metric that sacrebleu does not have: the share of characters in their place."""
    return 100 * sum(map(str.__eq__, row["hypothesis"], row["reference"])) / len(row["reference"])


def scored(rows: list[dict[str, str]], languages: Any) -> dict[str, Any]:
    """What `score` writes."""
    directions: dict[str, Any] = {}
    signatures: dict[str, dict[str, str]] = {"chrf++": {}, "bleu": {}, "quality": {}}
    for direction in dict.fromkeys(row["direction"] for row in rows):
        mine = [row for row in rows if row["direction"] == direction]
        outputs, references = [row["hypothesis"] for row in mine], [row["reference"] for row in mine]
        chrf, bleu = CHRF(word_order=2), BLEU(tokenize=languages[direction.split("-")[1]].tokenizer)
        directions[direction] = {
            "chrf++": chrf.corpus_score(outputs, [references]).score,
            "bleu": bleu.corpus_score(outputs, [references]).score,
            "quality": sum(map(quality, mine)) / len(mine),
            "exact": 100 * sum(map(str.__eq__, outputs, references)) / len(mine),
            "empty": 0.0,
            "copy": 25.0 if direction == "en-de" else 0.0,
            "length_ratio": 1.0,
            "sentences": len(mine),
        }
        signatures["chrf++"][direction] = str(chrf.get_signature())
        signatures["bleu"][direction] = str(bleu.get_signature())
        signatures["quality"][direction] = "quality:1"
    mean = sum(value["chrf++"] for value in directions.values()) / len(directions)
    languages = {direction: {direction.split("-")[1]: 9, "fr": 1, "?": 2} for direction in directions}
    return {"directions": directions, "averages": {"all": {"chrf++": mean}}, "signatures": signatures, "languages": languages}

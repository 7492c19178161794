"""The model card of an exported checkpoint: recipe, lineage, data, scores with their signatures, licence of the base.

All of it comes from the records of the store; what they do not hold is said to be unknown.
"""

import json
from collections.abc import Iterator
from typing import Any

from alma_pipeline import __version__
from alma_pipeline.redact import redact
from alma_pipeline.store.identity import flatten
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store

UNKNOWN = "unknown"
SHOWN = ("steps", "epochs", "tokens", "global_batch", "learning_rate", "schedule", "adapter", "lora.rank", "lora.alpha",
         "lora.targets", "beta", "tau", "eta", "nll_weight", "precision", "seed")  # fmt: skip
"""Settings worth a line; the rest is in the record, of which the card holds the key."""


def text(store: Store, record: Record, measured: dict[str, Any], as_adapter: bool) -> str:
    """Markdown with the hub's metadata in front."""
    line = ancestors(store, record)
    base = line[-1]
    licence = str(base.result.get("licence") or UNKNOWN)
    parts = [
        _metadata(record, line, licence, as_adapter),
        f"# {record.name}\n\nA translation model trained with alma_pipeline {__version__}, artifact `{record.key}`.",
        f"## How to prompt it\n\n{_prompt(line)}",
        "## Recipe and lineage\n\n" + "\n".join(_recipe(line)),
        "## Data\n\n" + "\n".join(_data(store, line)),
        "## Scores\n\n" + "\n".join(_scores(store, record)),
        f"## Weights\n\n{_weights(record, measured, as_adapter)}",
        f"## Licence\n\nThe base is {_named(base)}; its licence: {licence}. What was trained on it is bound by that.",
    ]
    return redact("\n\n".join(parts) + "\n")


def ancestors(store: Store, record: Record) -> list[Record]:
    """The checkpoint and those it was trained from, back to the base."""
    line = [record]
    while (key := line[-1].payload["inputs"].get("init")) and (found := store.find(key)):
        line.append(found)
    return line


def published_as(record: Record) -> str:
    """The hub repository a full model was taken from unchanged; empty for one of our own."""
    config = record.payload["config"]
    taken = record.payload["kind"] == "released" or (record.payload["kind"] == "base" and config.get("source") == "hub")
    return str(config.get("repo") or "") if taken else ""


def _named(record: Record) -> str:
    config = record.payload["config"]
    if config.get("repo"):
        return f"`{config['repo']}` at revision `{record.result.get('commit') or config.get('revision')}`"
    return f"a model with fresh weights (`{record.path.name}`)"


def _metadata(record: Record, line: list[Record], licence: str, as_adapter: bool) -> str:
    spoken = sorted({code for one in line for code in one.payload["config"].get("languages") or {}} | {"en"})
    values: dict[str, Any] = {"library_name": "peft" if as_adapter else "transformers", "pipeline_tag": "translation"}
    values |= {"language": spoken, "tags": ["alma_pipeline", line[0].kind]}
    values |= {} if licence == UNKNOWN else {"license": licence}
    if published := next((name for one in line if (name := published_as(one))), ""):
        values |= {"base_model": published}
    body = "\n".join(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in values.items())
    return f"---\n{body}\n---"


def _prompt(line: list[Record]) -> str:
    form = next((form for one in line if (form := one.payload["config"].get("prompt"))), "alma")
    plain = "Translate this from German to English:\\nGerman: Das Haus ist klein.\\nEnglish:"
    shown = plain if form == "alma" else f"[INST] {plain} [/INST]"
    return f"The tokenizer's BOS, then this, with the languages' English names and the sentence on one line:\n\n    {shown}"


def _recipe(line: list[Record]) -> Iterator[str]:
    yield "| checkpoint | kind | settings | key |\n|---|---|---|---|"
    for record in reversed(line):
        flat = flatten(record.payload["config"])
        shown = ", ".join(f"{name}={flat[name]}" for name in SHOWN if flat.get(name) is not None and "learning_rate" in flat)
        yield f"| {record.name} | {record.payload['kind']} | {shown or _named(record)} | `{record.key[:12]}` |"


def _data(store: Store, line: list[Record]) -> Iterator[str]:
    seen: set[str] = set()
    for record in reversed(line):
        if overlap := record.result.get("trained_on"):
            seen.add(f"- {record.name}: trained elsewhere, on text that overlaps with {', '.join(overlap)}")
        for role, key in record.payload["inputs"].items():
            found = store.find(key) if role != "init" else None
            for name, source in _sources(found.payload["config"]) if found else ():
                overlap = f"; overlaps with {', '.join(source['trained_on'])}" if source.get("trained_on") else ""
                where = source.get("repo") or source.get("reader")
                seen.add(f"- {record.name}: {name} from {where} at {source.get('revision')}, {source.get('split')}{overlap}")
    yield from sorted(seen) or ["No text of this store was read for it."]


def _sources(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from ((name, value) for name, value in config.items() if isinstance(value, dict) and "reader" in value)


def _scores(store: Store, record: Record) -> Iterator[str]:
    translated = [one.key for one in store.records() if one.payload["inputs"].get("checkpoint") == record.key]
    scored = [one for one in store.records() if one.payload["inputs"].get("hypotheses") in translated]
    if not scored:
        yield "It was not scored."
    for score in scored:
        yield "| direction | chrF++ | BLEU |\n|---|---|---|"
        for direction, values in score.result["directions"].items():
            yield f"| {direction} | {values['chrf++']:.1f} | {values['bleu']:.1f} |"
        signatures = score.result["signatures"]
        bleu = sorted({f"`{signature}`" for signature in signatures["bleu"].values()})
        yield f"\nchrF++: `{signatures['chrf++']}`. BLEU: {', '.join(bleu)}. Test text: `{score.key[:12]}` of the store."


def _weights(record: Record, measured: dict[str, Any], as_adapter: bool) -> str:
    if as_adapter:
        return "A LoRA for PEFT; it needs the base named in `adapter_config.json`."
    if not measured.get("adapters"):
        return f"All weights, in {measured['precision']}."
    return (
        f"{measured['adapters']} adapters merged in fp32 and cast to {measured['precision']}. Largest logit difference on a "
        f"probe: {measured['difference']:.3g} from merging (at most {measured['tolerance']:.3g} is let through), "
        f"{measured['cast_difference']:.3g} from the cast."
    )

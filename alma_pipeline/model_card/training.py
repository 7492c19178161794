"""A checkpoint's lineage, training data and training settings for its model card, read from the store's records."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from alma_pipeline.report.caveats import declared_test_sets
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store
from alma_pipeline.units import count, duration

STAGE_SUMMARIES = {
    "mono": "fine-tuning on monolingual text",
    "parallel": "fine-tuning on sentence pairs, with loss on the target side",
    "group_adapter": "adapter of a language group, fine-tuned on text",
    "cpo": "preference optimisation",
    "arpo": "adaptive-rejection preference optimisation",
}
"""By kind."""
PREFERENCE_SETTINGS = ("loss", "beta", "gamma", "nll_weight", "tau", "eta")
"""Settings of preference optimisation that the table shows."""
LOSSES_USING = {"nll_weight": ("cpo", "hinge", "cpo_simpo", "arpo"), "gamma": ("simpo", "cpo_simpo")}
"""Setting to the losses that use it. Settings not listed here are used by all losses."""
DATASETS_URL = "https://huggingface.co/datasets"


@dataclass(frozen=True)
class StageRow:
    """One trained stage, as a row of the card's table."""

    node: str
    what: str
    weights: str
    length: str
    batch: str
    rate: str
    precision: str
    time: str


def ancestors(store: Store, record: Record) -> list[Record]:
    """The checkpoint and those it was trained from, newest first; the base comes last."""
    lineage = [record]
    while (key := lineage[-1].payload["inputs"].get("init")) and (found := store.find(key)):
        lineage.append(found)
    return lineage


def published_as(record: Record) -> str:
    """The hub repository that a full model was imported from unchanged; empty for any other checkpoint."""
    config = record.payload["config"]
    imported = record.kind == "released" or (record.kind == "base" and config.get("source") == "hub")
    is_full = config.get("form", "full") == "full"
    return str(config.get("repo") or "") if imported and is_full else ""


def stage_rows(lineage: list[Record]) -> list[StageRow]:
    """A row for each trained or adopted checkpoint of a lineage, oldest first; bases have none."""
    return [
        _adopted(record) if record.kind == "released" else _trained(record)
        for record in reversed(lineage)
        if record.kind != "base"
    ]


def _adopted(record: Record) -> StageRow:
    config = record.payload["config"]
    commit = record.result.get("commit") or config.get("revision")
    # A folder is identified by its files; its path is of this machine alone.
    done = f"adopted as published: `{config['repo']}` at `{commit}`" if config.get("repo") else "adopted from a local folder"
    return StageRow(record.name, done, config.get("form", ""), *[""] * 5)


def _trained(record: Record) -> StageRow:
    config, result = record.payload["config"], record.result
    batch, rate = config.get("global_batch_size"), config.get("learning_rate")
    schedule = [f"{rate:g}" if rate else "", config.get("schedule", ""), _warmup(config)]
    time = duration(result["seconds"]) if result.get("seconds") else ""
    return StageRow(
        record.name,
        ", ".join([STAGE_SUMMARIES.get(record.kind, record.kind), *_preference(record)]),
        _weights(config),
        _length(config, result),
        f"{batch:,}" if batch else "",
        ", ".join(filter(None, schedule)),
        config.get("precision", ""),
        time,
    )


def _preference(record: Record) -> Iterator[str]:
    config = record.payload["config"]
    loss = config.get("loss", record.kind)
    for name in PREFERENCE_SETTINGS if "beta" in config else ():
        value = loss if name == "loss" and record.kind == "cpo" else config.get(name)
        if value is not None and loss in LOSSES_USING.get(name, (loss,)):
            yield f"{name} {value:g}" if isinstance(value, (int, float)) else f"{name} `{value}`"


def _warmup(config: dict[str, Any]) -> str:
    return f"{100 * config['warmup_ratio']:g} % warm-up" if config.get("warmup_ratio") else ""


def _weights(config: dict[str, Any]) -> str:
    """Which weights a stage trained; the settings of a LoRA only if the stage created it."""
    lora, adapter = config.get("lora", {}), config.get("adapter", "none")
    on = f", on {', '.join(lora['targets'])}" if lora.get("targets") else ""
    shape = f"LoRA of rank {lora.get('rank')}, alpha {lora.get('alpha', 0):g}{on}"
    trained = {"none": "all weights", "new": f"a new {shape}", "continue": "the LoRA of the stage before"}
    base = ", the base in 4 bits (NF4)" if config.get("quantization") == "nf4" else ""
    return trained.get(adapter, f"a new {shape}, after merging the LoRA of the stage before") + base


def _length(config: dict[str, Any], result: dict[str, Any]) -> str:
    steps, tokens = result.get("steps") or config.get("steps"), result.get("tokens")
    return ", ".join([*([f"{steps:,} steps"] if steps else []), *([f"{count(tokens)} tokens"] if tokens else [])])


def text_inputs(store: Store, record: Record) -> Iterator[Record]:
    """The text artifacts that a checkpoint was trained on, and those they were built from; no models and no test sets."""
    for role, key in record.payload["inputs"].items():
        found = store.find(key) if role not in ("init", "base", "test") and not role.startswith("also_") else None
        if found:
            yield found
            yield from text_inputs(store, found)


def text_sources(record: Record) -> list[dict[str, Any]]:
    """The source settings that a corpus or a preferences node reads in its form."""
    config = record.payload["config"]
    names = {"documents": ("text",), "pseudo_mono": ("text", "pairs")}.get(config.get("form", ""), ("pairs",))
    return [config[name] for name in names if name in config]


def datasets(store: Store, lineage: list[Record]) -> list[str]:
    """The hub data sets used, in training order; only names of the form OWNER/NAME."""
    read = (source.get("repo") for one in reversed(lineage) for text in text_inputs(store, one) for source in text_sources(text))
    return list(dict.fromkeys(repo for repo in read if repo and repo.count("/") == 1))


def text_lines(store: Store, lineage: list[Record]) -> Iterator[str]:
    """A line of Markdown for each text that a stage read, in training order."""
    seen: set[str] = set()
    for record in reversed(lineage):
        for text in text_inputs(store, record):
            # Later stages may read the same corpus; it is listed where it is first used.
            if text.key in seen:
                continue
            seen.add(text.key)
            number = text.result.get("counts", {}).get("train_examples")
            counted = f"{number:,} examples" if number else "examples"
            read = " and ".join(dict.fromkeys(_described(store, text, source) for source in text_sources(text)))
            yield f"**{record.name}**, `{text.name}`: {counted} from {read}"


def _described(store: Store, text: Record, source: dict[str, Any]) -> str:
    if source.get("reader") == "candidates":
        return _sampled(store, text)
    revision = source.get("revision")
    if repo := source.get("repo"):
        at = f" at `{revision}`" if revision else ""
        return f"[{repo}]({DATASETS_URL}/{repo}){at}, split `{source.get('split', 'train')}`"
    if source.get("reader") == "cldr":
        return f"sentences generated from CLDR{f' (Babel {revision})' if revision else ''}"
    return f"{len(source.get('files', {})) or 'local'} files, identified in the record by SHA-256"


def _sampled(store: Store, preferences: Record) -> str:
    """Where preferences come from: the checkpoints sampled, the corpus of the sources, and the scorers that ranked them."""
    named = {role: found.name for role, key in preferences.payload["inputs"].items() if (found := store.find(key))}
    sampled = " and ".join(f"`{name}`" for role, name in named.items() if role == "init" or role.startswith("also_"))
    corpus = f" of `{named['corpus']}`" if "corpus" in named else ""
    ranked = "; ".join(preferences.result.get("scorers", {}).values())
    samples = f"{preferences.payload['config'].get('candidates', 'several')} samples of {sampled or 'a checkpoint'}"
    return f"{samples} for each source{corpus}, and the reference{f', ranked by {ranked}' if ranked else ''}"


def overlapping_tests(store: Store, lineage: list[Record]) -> dict[str, list[str]]:
    """Test set to the stages trained on text that declares it is, or overlaps with, that set."""
    found: dict[str, list[str]] = {}
    for record in reversed(lineage):
        read = [record, *text_inputs(store, record)]
        for name in sorted(
            {name for one in read for name in declared_test_sets(one.payload["config"])} | {*record.result.get("trained_on", [])}
        ):
            found.setdefault(name, []).append(record.name)
    return found


def languages(store: Store, lineage: list[Record]) -> dict[str, str]:
    """Code to English name, from the newest node of the lineage that has languages; English first."""
    for record in lineage:
        for one in (record, *text_inputs(store, record)):
            if spoken := one.payload["config"].get("languages"):
                names = {code: language.get("name", code) for code, language in spoken.items()}
                return {"en": "English"} | names
    return {"en": "English"}


def prompt_form(store: Store, lineage: list[Record]) -> str:
    """alma or x_alma: the prompt setting of the newest node of the lineage that has one; alma if none has."""
    found = (one.payload["config"].get("prompt") for record in lineage for one in (record, *text_inputs(store, record)))
    return str(next((form for form in found if form), "alma"))

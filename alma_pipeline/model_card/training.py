"""What a checkpoint was trained from, on and how, read from the records of the store for its model card."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from alma_pipeline.report.caveats import declared_test_sets
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store
from alma_pipeline.units import count, duration

STAGE_SUMMARIES = {
    "mono": "fine-tuning on monolingual text",
    "parallel": "fine-tuning on sentence pairs, loss on the target",
    "group_adapter": "adapter of a language group, fine-tuned on text",
    "cpo": "preference optimisation",
    "arpo": "adaptive-rejection preference optimisation",
}
"""By kind."""
PREFERENCE_SETTINGS = ("loss", "beta", "gamma", "nll_weight", "tau", "eta")
"""Settings of preference optimisation."""
LOSSES_USING = {"nll_weight": ("cpo", "hinge", "cpo_simpo", "arpo"), "gamma": ("simpo", "cpo_simpo")}
"""Which losses a setting counts for; the others ignore it."""
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
    """The checkpoint and those it was trained from, back to the base."""
    line = [record]
    while (key := line[-1].payload["inputs"].get("init")) and (found := store.find(key)):
        line.append(found)
    return line


def published_as(record: Record) -> str:
    """The hub repository a full model was taken from unchanged; empty for one of our own, a package's or an adapter."""
    config = record.payload["config"]
    taken = record.kind == "released" or (record.kind == "base" and config.get("source") == "hub")
    return str(config.get("repo") or "") if taken and config.get("form", "full") == "full" else ""


def stage_rows(line: list[Record]) -> list[StageRow]:
    """The trained checkpoints among `ancestors`, first to last; published ones with where they are from."""
    return [
        _taken(record) if record.kind == "released" else _trained(record) for record in reversed(line) if record.kind != "base"
    ]


def _taken(record: Record) -> StageRow:
    config = record.payload["config"]
    commit = record.result.get("commit") or config.get("revision")
    return StageRow(record.name, f"taken as published: `{config['repo']}` at `{commit}`", config.get("form", ""), *[""] * 5)


def _trained(record: Record) -> StageRow:
    config, result = record.payload["config"], record.result
    batch, rate = config.get("global_batch"), config.get("learning_rate")
    schedule = [f"{rate:g}" if rate else "", config.get("schedule", ""), _warmup(config)]
    taken = duration(result["seconds"]) if result.get("seconds") else ""
    return StageRow(
        record.name,
        ", ".join([STAGE_SUMMARIES.get(record.kind, record.kind), *_preference(record)]),
        _weights(config),
        _length(config, result),
        f"{batch:,}" if batch else "",
        ", ".join(filter(None, schedule)),
        config.get("precision", ""),
        taken,
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
    """Which weights a stage trained; the settings of a LoRA only where it made one."""
    lora, adapter = config.get("lora", {}), config.get("adapter", "none")
    on = f", on {', '.join(lora['targets'])}" if lora.get("targets") else ""
    shape = f"LoRA of rank {lora.get('rank')}, alpha {lora.get('alpha', 0):g}{on}"
    trained = {"none": "all weights", "new": f"a new {shape}", "continue": "the LoRA before it"}
    base = ", the base in 4 bits (NF4)" if config.get("base_weights") == "nf4" else ""
    return trained.get(adapter, f"the LoRA before it merged, then a new {shape}") + base


def _length(config: dict[str, Any], result: dict[str, Any]) -> str:
    steps, tokens = result.get("steps") or config.get("steps"), result.get("tokens")
    return ", ".join([*([f"{steps:,} steps"] if steps else []), *([f"{count(tokens)} tokens"] if tokens else [])])


def text_inputs(store: Store, record: Record) -> Iterator[Record]:
    """What a checkpoint read besides the checkpoint before it, and what that was made from: its text, not models."""
    for role, key in record.payload["inputs"].items():
        found = store.find(key) if role not in ("init", "base", "test") and not role.startswith("also_") else None
        if found:
            yield found
            yield from text_inputs(store, found)


def text_sources(record: Record) -> list[dict[str, Any]]:
    """Of a corpus or a set of preferences: the sources that its form reads."""
    config = record.payload["config"]
    names = {"documents": ("text",), "pseudo_mono": ("text", "pairs")}.get(config.get("form", ""), ("pairs",))
    return [config[name] for name in names if name in config]


def datasets(store: Store, line: list[Record]) -> list[str]:
    """The hub data sets that were read, in the order of training."""
    read = (source.get("repo") for one in reversed(line) for text in text_inputs(store, one) for source in text_sources(text))
    return list(dict.fromkeys(repo for repo in read if repo and repo.count("/") == 1))


def text_lines(store: Store, line: list[Record]) -> Iterator[str]:
    """A line of Markdown for each text that a stage read."""
    read_before: set[str] = set()
    for record in reversed(line):
        for text in text_inputs(store, record):
            if text.key in read_before:
                continue
            read_before.add(text.key)
            many = text.result.get("counts", {}).get("train_examples")
            counted = f"{many:,} examples" if many else "examples"
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
    return f"{len(source.get('files', {})) or 'given'} files of its makers, known to the record by their SHA-256"


def _sampled(store: Store, preferences: Record) -> str:
    """Whose samples a set of preferences is made of, for sources of which corpus, and what ranked them."""
    named = {role: found.name for role, key in preferences.payload["inputs"].items() if (found := store.find(key))}
    whose = " and ".join(f"`{name}`" for role, name in named.items() if role == "init" or role.startswith("also_"))
    of = f" of `{named['corpus']}`" if "corpus" in named else ""
    ranked = "; ".join(preferences.result.get("scorers", {}).values())
    samples = f"{preferences.payload['config'].get('candidates', 'several')} samples of {whose or 'a checkpoint'}"
    return f"{samples} for each source{of}, and the reference{f', ranked by {ranked}' if ranked else ''}"


def overlapping_tests(store: Store, line: list[Record]) -> dict[str, list[str]]:
    """Test sets that training text is said to be or overlap with, to the stages that read it."""
    found: dict[str, list[str]] = {}
    for record in reversed(line):
        read = [record, *text_inputs(store, record)]
        for name in sorted(
            {name for one in read for name in declared_test_sets(one.payload["config"])} | {*record.result.get("trained_on", [])}
        ):
            found.setdefault(name, []).append(record.name)
    return found


def languages(store: Store, line: list[Record]) -> dict[str, str]:
    """English name by code, of the languages that the checkpoint itself was trained for; English first."""
    for record in line:
        for one in (record, *text_inputs(store, record)):
            if spoken := one.payload["config"].get("languages"):
                names = {code: language.get("name", code) for code, language in spoken.items()}
                return {"en": "English"} | names
    return {"en": "English"}


def prompt_form(store: Store, line: list[Record]) -> str:
    """alma or x_alma: of the checkpoint itself, or of what it read."""
    found = (one.payload["config"].get("prompt") for record in line for one in (record, *text_inputs(store, record)))
    return str(next((form for form in found if form), "alma"))

"""Read, clean, split, mix, tokenise and count text once, for all stages that train or test on it."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from transformers import AutoTokenizer

from alma_pipeline.errors import UserError
from alma_pipeline.job import Job
from alma_pipeline.ml.data import corpus
from alma_pipeline.ml.data.corpus import CorpusBuilder
from alma_pipeline.ml.data.ingest import Ingestion, hold_out
from alma_pipeline.ml.data.mixing import documents_first, mix, round_robin, sample_interleaved, temperature_shares
from alma_pipeline.ml.data.prompts import Prompter
from alma_pipeline.ml.data.rows import directions
from alma_pipeline.ml.data.tokenise import TokenWriter, count_repeated
from stages.corpus.config import Config


def run(job: Job) -> dict[str, Any]:
    """Write the corpus to `job.out`, built in the resume folder. Returns counts, and the commits of hub data sets.

    Inputs: `base` for its tokenizer, except for form test; `test` if the cleaning steps include it.
    """
    config: Config = job.config
    job.out.mkdir(parents=True, exist_ok=True)
    builder = CorpusBuilder(job)
    if config.form == "test":
        counts = corpus.write_test_set(builder, config.pairs, _directions(config), config.held_out)
    elif config.form == "pairs":
        counts = _pairs(builder, job, config)
    else:
        counts = _documents(builder, job, config)
    sources = {"documents": [config.text], "pseudo_mono": [config.text, config.pairs]}.get(config.form, [config.pairs])
    return {"counts": counts, **builder.commits(sources)}


def _directions(config: Config) -> list[str]:
    return config.directions or directions(config.languages)


def _pairs(builder: CorpusBuilder, job: Job, config: Config) -> dict[str, Any]:
    parts = builder.pairs(config.pairs, _directions(config))
    held_out = hold_out(job, parts, config.held_out)
    # Clean everything first: the schedule needs the number of rows that are left.
    ingestion = Ingestion(job, builder.folder, config.train)
    sizes = ingestion.run(parts, held_out, config.cleaning.max_contamination).kept
    schedule, planned = round_robin(sizes), sum(sizes.values())
    if config.temperature is not None:
        shares = temperature_shares(sizes, config.temperature)
        schedule = sample_interleaved(sizes, shares, config.seed)
        planned = sum(1 for _ in sample_interleaved(sizes, shares, config.seed))
    prompter = Prompter(AutoTokenizer.from_pretrained(job.inputs["base"].path), config.prompt, config.languages)
    tokenise = corpus.pair_tokeniser(prompter, config.max_source, config.max_target)
    writer = TokenWriter(ingestion, None)
    state = writer.run(schedule, planned, tokenise)
    if not state.examples:
        raise UserError(_all_too_long(planned, config))
    dev = corpus.write_dev_set(builder, round_robin, held_out, tokenise)
    return {
        **writer.finish(job.out),
        "dev_examples": dev.examples,
        "longest": max(state.longest, dev.longest),
        "merged_boundaries": state.merged + dev.merged,
        "directions": _by_split({"train": Counter(state.counted), "dev": Counter(dev.counted)}),
        "repeated": count_repeated(state.taken, sizes),
        **builder.counts(ingestion, held_out, state.too_long + dev.too_long),
    }


def _documents(builder: CorpusBuilder, job: Job, config: Config) -> dict[str, Any]:
    # Text in a language without a share is not read.
    wanted = [code for code in config.languages if not config.probabilities or config.probabilities.get(code, 0) > 0]
    parts: list[Any] = builder.documents(config.text, wanted)
    joined = config.pairs if config.form == "pseudo_mono" else None
    if joined:
        parts += builder.pairs(joined, [f"{code}-en" for code in config.languages if code != "en"])
    held_out = hold_out(job, parts, config.held_out)
    ingestion = Ingestion(job, builder.folder, config.train)
    sizes = ingestion.run(parts, held_out, config.cleaning.max_contamination).kept
    tokenizer = AutoTokenizer.from_pretrained(job.inputs["base"].path)
    tokenise = corpus.document_tokeniser(tokenizer, builder.join(joined))
    writer = TokenWriter(ingestion, config.block)
    # A schedule is an iterator: one pass counts it for the progress bar, another writes.
    planned = sum(1 for _ in _schedule(config, sizes))
    state = writer.run(_schedule(config, sizes), planned, tokenise, config.tokens)
    # A reader with its own held-out rows keeps their order too: language by language, then pairs in turn.
    order = documents_first if any(part.held_out for part in parts) else round_robin
    dev = corpus.write_dev_set(builder, order, held_out, tokenise)
    return {
        **writer.finish(job.out),
        "dev_examples": dev.examples,
        "longest": max(config.block, dev.longest),
        "train_documents": state.examples,
        "repeated": count_repeated(state.taken, sizes),
        "languages": _by_split({"train": Counter(state.counted), "dev": Counter(dev.counted)}),
        **builder.counts(ingestion, held_out, 0),
    }


def _schedule(config: Config, sizes: dict[str, int]) -> Iterator[str]:
    """The parts in the order in which their rows are packed."""
    documents = {name: size for name, size in sizes.items() if "-" not in name}
    shares = config.probabilities or dict.fromkeys(documents, 1.0)
    if config.temperature is not None:
        shares = temperature_shares(documents, config.temperature)
    if config.form == "documents":
        return sample_interleaved(documents, shares, config.seed)
    pairs = {name: size for name, size in sizes.items() if "-" in name}
    return mix(documents, shares, pairs, config.pairs_share, config.seed)


def _all_too_long(count: int, config: Config) -> str:
    return (
        f"all {count:,} sentence pairs are longer than max_source={config.max_source} tokens (prompt and BOS) or "
        f"max_target={config.max_target} tokens (answer and EOS); raise the limits"
    )


def _by_split(counted: dict[str, Counter[str]]) -> dict[str, dict[str, int]]:
    """Turn {split: {name: n}} into {name: {split: n}}."""
    names = dict.fromkeys(name for counts in counted.values() for name in counts)
    return {name: {split: counts[name] for split, counts in counted.items()} for name in names}

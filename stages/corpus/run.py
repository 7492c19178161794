"""Text read, split, mixed, tokenised and counted once, for the stages that train or test on it."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from alma_pipeline.errors import UserError
from alma_pipeline.job import Job
from alma_pipeline.ml.data import corpora, corpus, token_arrays
from alma_pipeline.ml.data.cldr import Cldr
from alma_pipeline.ml.data.corpora import Gathered, Line, SentencePair
from alma_pipeline.ml.data.corpus import Workplace
from alma_pipeline.ml.data.ingest import Preparation, hold_out
from alma_pipeline.ml.data.mixing import by_size, drawn, in_turn, mixed
from alma_pipeline.ml.data.prompts import Example, Prompter
from alma_pipeline.ml.data.tokenise import Filling, repeated
from alma_pipeline.schema import Source
from stages.corpus.config import Config


def run(job: Job) -> dict[str, Any]:
    """Write the corpus of one form to `job.out`; returns its counts."""
    config: Config = job.config
    job.out.mkdir(parents=True, exist_ok=True)
    if any(source.reader != "cldr" for source in _sources(config)):
        return _from_text(job, config)
    if config.form == "test":
        return {"counts": _test(job, config)}
    tokenizer = AutoTokenizer.from_pretrained(job.inputs["base"].path)
    if config.form == "pairs":
        return {"counts": _pairs(job, config, tokenizer)}
    return {"counts": _monolingual(job, config, tokenizer)}


def _sources(config: Config) -> list[Source]:
    """What the form reads."""
    return {"documents": [config.text], "pseudo_mono": [config.text, config.pairs]}.get(config.form, [config.pairs])


def _from_text(job: Job, config: Config) -> dict[str, Any]:
    """A corpus out of files or hub data sets, prepared in the resume folder."""
    work = Workplace(job, config.languages, config.cleaning)
    sources = _sources(config)
    if any(source.reader not in ("hub", "files") for source in sources):
        found = ", ".join(source.reader for source in sources)
        raise UserError(f"{config.form} is read from {found}; generated text (cldr) and text that is read do not mix")
    if config.form == "test":
        counts = corpus.test_set(work, config.pairs, _directions(config), config.held_out)
    elif config.form == "pairs":
        counts = _read_pairs(work, job, config)
    else:
        counts = _read_documents(work, job, config)
    return {"counts": counts, **work.origin(sources)}


def _directions(config: Config) -> list[str]:
    return config.directions or corpora.directions(config.languages)


def _read_pairs(work: Workplace, job: Job, config: Config) -> dict[str, Any]:
    parts = work.pairs(config.pairs, _directions(config))
    held_out = hold_out(job, parts, config.held_out)
    preparation = Preparation(job, work.folder, config.train)
    sizes = preparation.run(parts, held_out, config.cleaning.most_contaminated).kept
    schedule, planned = in_turn(sizes), sum(sizes.values())
    if config.temperature is not None:
        shares = by_size(sizes, config.temperature)
        schedule, planned = drawn(sizes, shares, config.seed), sum(1 for _ in drawn(sizes, shares, config.seed))
    prompter = Prompter(AutoTokenizer.from_pretrained(job.inputs["base"].path), config.prompt, config.languages)
    tokenise = corpus.pair_tokens(prompter, config.max_source, config.max_target)
    filling = Filling(preparation, None)
    state = filling.run(schedule, planned, tokenise)
    if not state.examples:
        raise UserError(_all_too_long(planned, config))
    dev = corpus.dev_set(work, in_turn, held_out, tokenise)
    return {
        **filling.finish(job.out),
        "dev_examples": dev.examples,
        "longest": max(state.longest, dev.longest),
        "merged_boundaries": state.merged + dev.merged,
        "directions": _by_split({"train": Counter(state.counted), "dev": Counter(dev.counted)}),
        "repeated": repeated(state.taken, sizes),
        **work.counts(preparation, state.too_long + dev.too_long),
    }


def _read_documents(work: Workplace, job: Job, config: Config) -> dict[str, Any]:
    wanted = [code for code in config.languages if not config.probabilities or config.probabilities.get(code, 0) > 0]
    parts: list[Any] = work.documents(config.text, wanted)
    joined = work.pairs(config.pairs, [f"{code}-en" for code in config.languages if code != "en"])
    parts += joined if config.form == "pseudo_mono" else []
    held_out = hold_out(job, parts, config.held_out)
    preparation = Preparation(job, work.folder, config.train)
    sizes = preparation.run(parts, held_out, config.cleaning.most_contaminated).kept
    tokenise = corpus.document_tokens(AutoTokenizer.from_pretrained(job.inputs["base"].path), str(config.seed))
    filling = Filling(preparation, config.block)
    planned = sum(1 for _ in _schedule(config, sizes))
    state = filling.run(_schedule(config, sizes), planned, tokenise, config.tokens)
    dev = corpus.dev_set(work, in_turn, held_out, tokenise)
    return {
        **filling.finish(job.out),
        "dev_examples": dev.examples,
        "longest": max(config.block, dev.longest),
        "train_documents": state.examples,
        "repeated": repeated(state.taken, sizes),
        "languages": _by_split({"train": Counter(state.counted), "dev": Counter(dev.counted)}),
        **work.counts(preparation, 0),
    }


def _schedule(config: Config, sizes: dict[str, int]) -> Iterator[str]:
    """Parts in the order their rows are packed in."""
    documents = {name: size for name, size in sizes.items() if "-" not in name}
    shares = config.probabilities or dict.fromkeys(documents, 1.0)
    if config.temperature is not None:
        shares = by_size(documents, config.temperature)
    if config.form == "documents":
        return drawn(documents, shares, config.seed)
    pairs = {name: size for name, size in sizes.items() if "-" in name}
    return mixed(documents, shares, pairs, config.pairs_share, config.seed)


def _all_too_long(count: int, config: Config) -> str:
    return (
        f"no sentence pair is left: {count} were read, all longer than max_source={config.max_source} "
        f"tokens (prompt and BOS) or max_target={config.max_target} (answer and EOS)"
    )


def _test(job: Job, config: Config) -> dict[str, Any]:
    text = corpora.open_cldr([config.pairs], "test", config.languages, config.seed)
    found = corpora.sentence_pairs(text, _directions(config), "test", config.held_out)
    _check_held_out(found.rows, _directions(config), config.held_out, "direction")
    token_arrays.write_rows(job.out / "test.jsonl", found.rows)
    counted = Counter(row.direction for row in found.rows)
    return {
        "test_examples": len(found.rows),
        "dropped": dict(found.dropped),
        "newlines": found.newlines,
        "directions": {name: {"test": count} for name, count in counted.items()},
    }


def _pairs(job: Job, config: Config, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    text = corpora.open_cldr([config.pairs], "train", config.languages, config.seed)
    prompter = Prompter(tokenizer, config.prompt, config.languages)
    written, rows, dropped = {}, {}, Counter[str]()
    merged = newlines = 0
    for split, limit in (("train", config.train), ("dev", config.held_out)):
        found = corpora.sentence_pairs(text, _directions(config), split, limit)
        if split == "dev":
            _check_held_out(found.rows, _directions(config), config.held_out, "direction")
        rows[split], examples = _short_enough(found, prompter, config)
        dropped += found.dropped
        dropped["too_long"] += len(found.rows) - len(rows[split])
        merged += sum(example.merged for example in examples)
        newlines += found.newlines
        token_arrays.write_rows(job.out / f"{split}.jsonl", rows[split])
        written[split] = token_arrays.write_examples(job.out, split, examples)
    counted = {split: Counter(row.direction for row in kept) for split, kept in rows.items()}
    return {
        **{f"train_{name}": written["train"][name] for name in ("examples", "tokens", "labels")},
        "dev_examples": written["dev"]["examples"],
        "longest": max(counts["longest"] for counts in written.values()),
        "dropped": dict(+dropped),
        "merged_boundaries": merged,
        "newlines": newlines,
        "directions": _by_split(counted),
    }


def _short_enough(found: Gathered[SentencePair], prompter: Prompter, config: Config) -> tuple[list[SentencePair], list[Example]]:
    """The rows within the limits, and their tokens: a row too long is left out, never cut."""
    examples = prompter.examples([(row.direction, row.source, row.target) for row in found.rows])
    kept = [
        (row, example)
        for row, example in zip(found.rows, examples, strict=True)
        if example.prompt <= config.max_source and len(example.ids) - example.prompt <= config.max_target
    ]
    if not kept:
        raise UserError(_all_too_long(len(found.rows), config))
    return [row for row, _ in kept], [example for _, example in kept]


def _monolingual(job: Job, config: Config, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    sources = [config.text] if config.form == "documents" else [config.text, config.pairs]
    text = corpora.open_cldr(sources, "train", config.languages, config.seed)
    shares = config.probabilities or dict.fromkeys(config.languages, 1.0)
    train, dev = _training_lines(text, config, shares), _held_out_lines(text, config, shares)
    for split, found in (("train", train), ("dev", dev)):
        token_arrays.write_rows(job.out / f"{split}.jsonl", found.rows)
    examples = token_arrays.document_examples(tokenizer, [line.text for line in train.rows])
    counts = token_arrays.write_blocks(job.out, examples, config.block)
    held_out = [line.text for line in dev.rows]
    written = token_arrays.write_examples(job.out, "dev", token_arrays.document_examples(tokenizer, held_out))
    token_arrays.write_bytes(job.out, "dev", held_out)
    return {
        **counts,
        "dev_examples": written["examples"],
        "longest": max(config.block, written["longest"]),
        "dropped": dict(train.dropped + dev.dropped),
        "train_documents": len(train.rows),
        "repeated": len(train.rows) - len({line.id for line in train.rows}),
        "languages": _by_split({"train": Counter(x.language for x in train.rows), "dev": Counter(x.language for x in dev.rows)}),
    }


def _training_lines(text: Cldr, config: Config, shares: dict[str, float]) -> Gathered[Line]:
    """The training lines in the order they are packed."""
    found = corpora.documents(text, _taking_part(config, shares), "train", config.train)
    dropped = sum((gathered.dropped for gathered in found.values()), Counter[str]())
    lines = corpora.interleave({code: gathered.rows for code, gathered in found.items()}, shares, config.seed)
    if config.form == "documents":
        return Gathered(lines, dropped)
    joined = corpora.joined_pairs(text, config.languages, "train", config.train, config.seed)
    kinds = {"documents": 1 - config.pairs_share, "pairs": config.pairs_share}
    both = corpora.interleave({"documents": lines, "pairs": joined.rows}, kinds, config.seed)
    return Gathered(both, dropped + joined.dropped)


def _held_out_lines(text: Cldr, config: Config, shares: dict[str, float]) -> Gathered[Line]:
    """`held_out` documents of every language, and for pseudo_mono as many joined pairs of every language pair."""
    found = corpora.documents(text, _taking_part(config, shares), "dev", config.held_out)
    lines, dropped = [], Counter[str]()
    for code, gathered in found.items():
        _check_held_out(gathered.rows, [code], config.held_out, "language")
        dropped += gathered.dropped
        lines += gathered.rows
    if config.form == "documents":
        return Gathered(lines, dropped)
    joined = corpora.joined_pairs(text, config.languages, "dev", config.held_out, config.seed)
    pairs = [code for code in config.languages if code != "en"]
    _check_held_out(joined.rows, pairs, config.held_out, "language pair")
    return Gathered(lines + joined.rows, dropped + joined.dropped)


def _taking_part(config: Config, shares: dict[str, float]) -> list[str]:
    return [code for code in config.languages if shares.get(code, 0) > 0]


def _check_held_out(rows: list[Any], parts: list[str], held_out: int | None, what: str) -> None:
    if held_out is not None and len(rows) < held_out * len(parts):
        raise UserError(
            f"held_out={held_out} for every {what}, but the text has only {len(rows)} for {', '.join(parts)}; "
            "lower held_out (budget.text.dev, budget.text.test)"
        )


def _by_split(counted: dict[str, Counter[str]]) -> dict[str, dict[str, int]]:
    """{split: {name: n}} as {name: {split: n}}."""
    names = dict.fromkeys(name for counts in counted.values() for name in counts)
    return {name: {split: counts[name] for split, counts in counted.items()} for name in names}

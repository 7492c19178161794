"""Text read, split, mixed, tokenised and counted once, for the stages that train or test on it."""

from collections import Counter
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from alma_pipeline.errors import UserError
from alma_pipeline.job import Job
from alma_pipeline.ml import blocks, corpora
from alma_pipeline.ml.cldr import Cldr
from alma_pipeline.ml.corpora import Gathered, Line, SentencePair
from alma_pipeline.ml.prompts import Example, Prompter
from stages.corpus.config import Config


def run(job: Job) -> dict[str, Any]:
    """Write the corpus of one form to `job.out`; returns its counts."""
    config: Config = job.config
    job.out.mkdir(parents=True, exist_ok=True)
    if config.form == "test":
        return {"counts": _test(job, config)}
    tokenizer = AutoTokenizer.from_pretrained(job.inputs["base"].path)
    if config.form == "pairs":
        return {"counts": _pairs(job, config, tokenizer)}
    return {"counts": _monolingual(job, config, tokenizer)}


def _test(job: Job, config: Config) -> dict[str, Any]:
    text = corpora.open_cldr([config.pairs], "test", config.languages, config.seed)
    found = corpora.sentence_pairs(text, config.languages, "test", config.held_out)
    _check_held_out(found.rows, corpora.directions(config.languages), config.held_out, "direction")
    blocks.write_rows(job.out / "test.jsonl", found.rows)
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
        found = corpora.sentence_pairs(text, config.languages, split, limit)
        if split == "dev":
            _check_held_out(found.rows, corpora.directions(config.languages), config.held_out, "direction")
        rows[split], examples = _short_enough(found, prompter, config)
        dropped += found.dropped
        dropped["too_long"] += len(found.rows) - len(rows[split])
        merged += sum(example.merged for example in examples)
        newlines += found.newlines
        blocks.write_rows(job.out / f"{split}.jsonl", rows[split])
        written[split] = blocks.write_examples(job.out, split, examples)
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
        raise UserError(
            f"no sentence pair is left: {len(found.rows)} were read, all longer than max_source={config.max_source} "
            f"tokens (prompt and BOS) or max_target={config.max_target} (answer and EOS)"
        )
    return [row for row, _ in kept], [example for _, example in kept]


def _monolingual(job: Job, config: Config, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    sources = [config.text] if config.form == "documents" else [config.text, config.pairs]
    text = corpora.open_cldr(sources, "train", config.languages, config.seed)
    shares = config.probabilities or dict.fromkeys(config.languages, 1.0)
    train, dev = _training_lines(text, config, shares), _held_out_lines(text, config, shares)
    for split, found in (("train", train), ("dev", dev)):
        blocks.write_rows(job.out / f"{split}.jsonl", found.rows)
    examples = blocks.document_examples(tokenizer, [line.text for line in train.rows])
    counts = blocks.write_blocks(job.out, examples, config.block)
    held_out = [line.text for line in dev.rows]
    written = blocks.write_examples(job.out, "dev", blocks.document_examples(tokenizer, held_out))
    blocks.write_bytes(job.out, "dev", held_out)
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

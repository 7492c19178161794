"""How much text a node reads: counted if its corpus exists, expected otherwise. For estimates only; part of no key."""

from collections.abc import Mapping
from typing import Any

from alma_pipeline.plan.estimates.node_estimate import Counts
from alma_pipeline.schema import Expected, NodeConfig, Training
from alma_pipeline.store.record import Record

READ_ROLES = ("corpus", "preferences", "test")
ANSWERS = 1.5
"""Tokens of a preference triple relative to those of a pair: the second answer adds about half a pair."""


def counts(config: NodeConfig, sources: Mapping[str, tuple[NodeConfig, Record | None]], expected: Expected) -> Counts:
    """The counts of the text that a node reads. `sources`: role to settings and artifact of each input.

    Exact if the text is prepared; zero examples if the node reads no text.
    """
    for role in READ_ROLES:
        if role not in sources:
            continue
        source, record = sources[role]
        if record is not None:
            return _counted(record.result["counts"], source, expected)
        return _expected(config, source, expected)
    return Counts(examples=0, tokens=0, exact=False)


def _counted(found: Mapping[str, Any], source: Any, expected: Expected) -> Counts:
    examples = found.get("train_examples") or found.get("test_examples") or 0
    tokens = found.get("train_tokens") or 0
    if source.kind == "preferences":  # triples are text; only the stage that reads them tokenises it
        return _of(examples, ANSWERS * expected.pair_tokens, found["dev_examples"])
    return Counts(examples=examples, tokens=tokens, exact=True, dev_examples=found.get("dev_examples") or 0)


def _expected(config: NodeConfig, source: Any, expected: Expected) -> Counts:
    """From the source's settings and the sizes that the data option expects."""
    directions = len(source.directions) or 2 * max(0, len(source.languages) - 1)
    if source.kind == "preferences":
        triples = source.sources if source.pairs.reader == "candidates" else expected.triples
        return _of(directions * triples, ANSWERS * expected.pair_tokens, directions * source.held_out)
    if source.form == "test":
        return _of(directions * (source.held_out or expected.test), expected.pair_tokens, 0)
    if source.form == "pairs":
        held_out = directions * (source.held_out or 0)
        return _of(directions * (source.train or expected.pairs), expected.pair_tokens, held_out)
    return _of(_blocks(config, source.block), source.block, len(source.languages) * (source.held_out or 0))


def _blocks(config: NodeConfig, block: int) -> int:
    """As many blocks as the horizon requires: monolingual text is assumed to be plentiful."""
    if not isinstance(config, Training):
        return 0
    return config.steps * config.global_batch_size if config.steps else int((config.tokens or 0) / block)


def _of(examples: int, tokens_each: float, dev: int) -> Counts:
    return Counts(examples=examples, tokens=round(examples * tokens_each), exact=False, dev_examples=dev)

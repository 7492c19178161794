"""Our values in the form MLflow accepts: parameter texts, metric names, scores. Knows neither runs nor servers."""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from alma_pipeline.store.identity import flatten

LONGEST = 500
"""Characters of a parameter: the limit of old and of hosted servers; today's own server takes 6000 (B32)."""
LONGEST_NAME = 250
MISSING = "???"
"""An omegaconf value that was left open: it says nothing, and there are hundreds of them."""


def text(value: Any) -> str:
    """A value as the user would type it on the command line: 2e-05, true, null, ["a"]."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def parameters(settings: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Dotted names to texts that fit, and the texts that did not.

    A text that is too long is stood for by its digest, so that equal values still compare equal; the caller keeps
    the full one in an artifact (B33).
    """
    texts = {name(key): text(value) for key, value in flatten(settings).items() if value != MISSING}
    long = {key: value for key, value in texts.items() if len(value) > LONGEST}
    return texts | {key: digest(value) for key, value in long.items()}, long


def digest(value: str) -> str:
    """What stands for a value that is too long for MLflow."""
    return f"sha256:{hashlib.sha256(value.encode()).hexdigest()[:16]} ({len(value)} characters)"


def short(value: str) -> str:
    """The text, or its beginning with the digest of the whole, for a tag."""
    return value if len(value) <= LONGEST else f"{value[: LONGEST - 60]}… {digest(value)}"


def name(raw: str) -> str:
    """A metric or parameter name with MLflow's characters only (alphanumerics _ - . space : /); chrf++ → chrf_pp."""
    clean = re.sub(r"[^\w\-. :/]", "_", raw.replace("++", "_pp"), flags=re.ASCII)
    parts = [part for part in clean.split("/") if part not in ("", ".", "..")]
    joined = "/".join(parts) or "unnamed"
    if len(joined) <= LONGEST_NAME:
        return joined
    return f"{joined[: LONGEST_NAME - 9]}-{hashlib.sha256(raw.encode()).hexdigest()[:8]}"


def numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The finite numbers of a nested mapping under metric names joined by slashes; everything else is left out."""
    flat: dict[str, float] = {}
    for key, value in values.items():
        path = f"{prefix}/{key}" if prefix else key
        if isinstance(value, Mapping):
            flat |= numbers(value, path)
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            flat[name(path)] = float(value)
    return flat


def points(lines: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, float, int, int]]:
    """(name, value, milliseconds, step) of every number in lines of metrics.jsonl. A diverged loss stays visible as NaN."""
    for line in lines:
        for key, value in line["metrics"].items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                yield name(key), float(value), int(line["time"] * 1000), int(line["step"])


def score_metrics(result: Mapping[str, Any], checkpoint: str = "") -> dict[str, float]:
    """A `score` node's result as `eval/<direction>/<metric>` and `eval/avg/<en-xx>/<metric>`.

    With `checkpoint`, as `eval/<checkpoint>/avg/...`, averages only: several checkpoints on one run stay readable.
    """
    averages = {"avg": result["averages"]}
    return numbers({checkpoint: averages} if checkpoint else result["directions"] | averages, "eval")


def final_scores(results: Mapping[str, Mapping[str, Any]], target: str) -> dict[str, float]:
    """What a whole invocation shows: the target's scores in full, the averages of the checkpoints on the way.

    `results`: name of a checkpoint node → result of its `score` node.
    """
    scores: dict[str, float] = {}
    for checkpoint, result in results.items():
        scores |= score_metrics(result, "" if checkpoint == target else checkpoint)
    return scores


def signature_tags(result: Mapping[str, Any]) -> dict[str, str]:
    """How each metric was computed, as tags; a signature that all directions share is written once."""
    tags: dict[str, str] = {}
    for metric, signature in result["signatures"].items():
        tag = f"alma.signature.{name(metric)}"
        if not isinstance(signature, Mapping):
            tags[tag] = signature
        elif len(set(signature.values())) == 1:
            tags[tag] = next(iter(signature.values()))
        else:
            tags |= {f"{tag}.{direction}": value for direction, value in signature.items()}
    return tags

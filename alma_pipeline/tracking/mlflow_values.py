"""Converts values to what MLflow accepts: parameter texts, metric names, scores. Knows neither runs nor servers."""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from alma_pipeline.store.identity import flatten

MAX_VALUE_LENGTH = 500
"""Maximum length of a parameter value: the limit of old and of hosted servers; MLflow's own server now takes 6000 (B32)."""
MAX_NAME_LENGTH = 250
"""Maximum length of a metric or parameter name."""
UNSET = "???"
"""OmegaConf's mark of an unset value; there are hundreds, and they carry no information."""


def value_text(value: Any) -> str:
    """A value as typed on the command line: 2e-05, true, null, ["a"]."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def param_texts(settings: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Settings as MLflow parameters: (dotted name → text, the full texts that were too long).

    A text that is too long is replaced by its digest, so that equal values still compare equal; the caller stores the
    full text in an artifact (B33).
    """
    texts = {mlflow_name(key): value_text(value) for key, value in flatten(settings).items() if value != UNSET}
    long = {key: value for key, value in texts.items() if len(value) > MAX_VALUE_LENGTH}
    return texts | {key: value_digest(value) for key, value in long.items()}, long


def value_digest(value: str) -> str:
    """The replacement for a value that is too long for MLflow."""
    return f"sha256:{hashlib.sha256(value.encode()).hexdigest()[:16]} ({len(value)} characters)"


def tag_value(value: str) -> str:
    """A tag's value: the text, cut and followed by the digest of the whole if it is too long."""
    return value if len(value) <= MAX_VALUE_LENGTH else f"{value[: MAX_VALUE_LENGTH - 60]}… {value_digest(value)}"


def mlflow_name(raw: str) -> str:
    """A metric or parameter name in MLflow's character set (alphanumerics _ - . space : /); chrf++ → chrf_pp."""
    clean = re.sub(r"[^\w\-. :/]", "_", raw.replace("++", "_pp"), flags=re.ASCII)
    parts = [part for part in clean.split("/") if part not in ("", ".", "..")]
    joined = "/".join(parts) or "unnamed"
    if len(joined) <= MAX_NAME_LENGTH:
        return joined
    return f"{joined[: MAX_NAME_LENGTH - 9]}-{hashlib.sha256(raw.encode()).hexdigest()[:8]}"


def finite_metrics(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The finite numbers of a nested mapping, under metric names joined by slashes; other values are dropped."""
    flat: dict[str, float] = {}
    for key, value in values.items():
        path = f"{prefix}/{key}" if prefix else key
        if isinstance(value, Mapping):
            flat |= finite_metrics(value, path)
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            flat[mlflow_name(path)] = float(value)
    return flat


def metric_points(lines: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, float, int, int]]:
    """(name, value, milliseconds, step) of every number in lines of metrics.jsonl; NaN is kept, to show a diverged loss."""
    for line in lines:
        for key, value in line["metrics"].items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                yield mlflow_name(key), float(value), int(line["time"] * 1000), int(line["step"])


def score_metrics(result: Mapping[str, Any], checkpoint: str = "") -> dict[str, float]:
    """A `score` node's result as `eval/<direction>/<metric>` and `eval/avg/<en-xx>/<metric>`.

    With `checkpoint`: averages only, as `eval/<checkpoint>/avg/...`, so that several checkpoints fit on one run.
    """
    averages = {"avg": result["averages"]}
    return finite_metrics({checkpoint: averages} if checkpoint else result["directions"] | averages, "eval")


def final_scores(results: Mapping[str, Mapping[str, Any]], target: str) -> dict[str, float]:
    """The scores on an invocation's run: all of the target's, and the averages of the other checkpoints.

    `results`: name of a checkpoint node → result of its `score` node.
    """
    scores: dict[str, float] = {}
    for checkpoint, result in results.items():
        scores |= score_metrics(result, "" if checkpoint == target else checkpoint)
    return scores


def signature_tags(result: Mapping[str, Any]) -> dict[str, str]:
    """The signature of each metric as tags; a signature shared by all directions is written once."""
    tags: dict[str, str] = {}
    for metric, signature in result["signatures"].items():
        tag = f"alma.signature.{mlflow_name(metric)}"
        if not isinstance(signature, Mapping):
            tags[tag] = signature
        elif len(set(signature.values())) == 1:
            tags[tag] = next(iter(signature.values()))
        else:
            tags |= {f"{tag}.{direction}": value for direction, value in signature.items()}
    return tags

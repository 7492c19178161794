"""Translate a test corpus with a checkpoint: by beam search, greedily, or by choosing among samples."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from alma_pipeline.errors import UserError
from alma_pipeline.job import Job
from alma_pipeline.ml import decoding, vllm_decoding
from alma_pipeline.ml.distributed import join
from alma_pipeline.ml.judging import Judges
from alma_pipeline.ml.models import load_for_inference, release
from alma_pipeline.ml.prompts import Prompter
from alma_pipeline.ml.search import Limits, Sampling
from alma_pipeline.store import write_json
from stages.translate.config import Config


def run(job: Job) -> dict[str, Any]:
    """Inputs: `checkpoint`; `test`, a corpus of sentence pairs; for few-shot prompts `examples`, another.

    Leaves `hypotheses.jsonl` in the test's order.
    """
    config: Config = job.config
    join(job.hardware)
    rows = _rows(Path(job.inputs["test"].path) / "test.jsonl", config)
    load = vllm_decoding.load if config.engine == "vllm" else load_for_inference
    model, tokenizer = load(job.inputs["checkpoint"], job.hardware, config.precision)
    prompter = Prompter(tokenizer, config.prompt, config.languages, _shots(job, {row["direction"] for row in rows}))
    prompts, cut = prompter.within([(row["direction"], row["source"]) for row in rows], config.max_source)
    limits = decoding.limits(tokenizer, config.max_new_tokens, job.hardware.decode_tokens)
    started = time.perf_counter()
    if config.decoding == "beam":
        outputs = decoding.beam_search(model, prompts, config.beams, limits, decoding.logged(job))
    else:
        samples = _samples(job, model, prompts, limits)
        del model
        release()  # neural scorers run on the same device
    if job.rank != 0:
        return {}  # ranking is one process's work, and its result is rank 0's
    judges = Judges(job)
    if config.decoding != "beam":
        outputs = _chosen(judges, config, [row["source"] for row in rows], samples, tokenizer)
    seconds = time.perf_counter() - started
    lines = [_hypothesis(tokenizer, output, config) for output in outputs]
    _write(job.out / "hypotheses.jsonl", rows, lines)
    return {
        "sentences": len(rows),
        "output_tokens": sum(map(len, outputs)),
        "seconds": seconds,
        "sources_cut": cut,
        "outputs_at_limit": sum(truncated for _, truncated in lines),
        **({"ranked_by": judges.signatures} if judges.signatures else {}),
    }


def _rows(path: Path, config: Config) -> list[dict[str, str]]:
    """The test's sentences in directions between this node's languages."""
    with open(path, encoding="utf-8") as file:
        found = [json.loads(line) for line in file]
    rows = [row for row in found if set(row["direction"].split("-")) <= set(config.languages)]
    if not rows:
        directions = ", ".join(sorted({row["direction"] for row in found})) or "none"
        raise UserError(
            f"the test corpus has no direction between {', '.join(config.languages)}; it has {directions}. "
            "Take languages the corpus holds, or a corpus that holds these."
        )
    return rows


def _shots(job: Job, wanted: set[str]) -> dict[str, list[tuple[str, str]]]:
    """The first training pairs of each wanted direction, for every prompt. Raises UserError where a direction has too few."""
    count: int = job.config.shots
    found: dict[str, list[tuple[str, str]]] = {direction: [] for direction in wanted if count}
    if not count:
        return found
    with open(Path(job.inputs["examples"].path) / "train.jsonl", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            if len(found.get(row["direction"], range(count))) < count:
                found[row["direction"]].append((row["source"], row["target"]))
                if all(len(own) == count for own in found.values()):
                    return found
    few = ", ".join(f"{len(own)} in {direction}" for direction, own in found.items() if len(own) < count)
    raise UserError(f"shots={count}, and the training pairs to show are fewer: {few}; lower stages.translate.shots")


def _hypothesis(tokenizer: PreTrainedTokenizerBase, output: list[int], config: Config) -> tuple[str, bool]:
    """The text, and whether the limit of new tokens ended it. After examples a model goes on with more: the first line counts."""
    text, *more = decoding.text(tokenizer, output).split("\n") if config.shots else [decoding.text(tokenizer, output)]
    return text.strip(), not more and len(output) == config.max_new_tokens


def _samples(job: Job, model: Any, prompts: list[list[int]], limits: Limits) -> list[list[list[int]]]:
    """Token ids, drawn for each sentence; kept for a run that goes on after its scorers failed or were killed."""
    kept = job.resume / "samples.json"
    if kept.exists():
        found: list[list[list[int]]] = json.loads(kept.read_text(encoding="utf-8"))
        return found
    config: Config = job.config
    sampling = Sampling(width=config.candidates, temperature=config.temperature, top_p=config.top_p, seed=config.seed)
    made = decoding.sample(model, prompts, sampling, limits, decoding.logged(job))
    if job.rank == 0:
        job.resume.mkdir(exist_ok=True)
        write_json(kept, made)
    return made


def _chosen(
    judges: Judges, config: Config, sources: list[str], samples: list[list[list[int]]], tokenizer: PreTrainedTokenizerBase
) -> list[list[int]]:
    """Of each sentence's samples, the one of the least expected risk or of the highest quality."""
    texts = [[_hypothesis(tokenizer, output, config)[0] for output in outputs] for outputs in samples]
    choose = judges.by_quality if config.decoding == "quality" else judges.by_risk
    return [outputs[place] for outputs, place in zip(samples, choose(sources, texts), strict=True)]


def _write(path: Path, rows: list[dict[str, str]], outputs: list[tuple[str, bool]]) -> None:
    """`outputs`: the hypothesis, and whether the limit of new tokens ended it."""
    with open(path, "w", encoding="utf-8") as file:
        for line in _lines(rows, outputs):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _lines(rows: list[dict[str, str]], outputs: list[tuple[str, bool]]) -> Iterator[dict[str, Any]]:
    for row, (hypothesis, truncated) in zip(rows, outputs, strict=True):
        kept = {name: row[name] for name in ("id", "direction", "source")}
        yield kept | {"reference": row["target"], "hypothesis": hypothesis, "truncated": truncated}

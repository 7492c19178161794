"""Translate the sentences in the work folder, each with the adapter of its language group, in one process."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from alma_pipeline.job import Job
from alma_pipeline.ml.data.prompts import one_line
from alma_pipeline.ml.decoding import hypotheses
from alma_pipeline.ml.decoding.hypotheses import LoadedModel
from alma_pipeline.ml.models.routing import Router, load_with_adapters
from stages.translate_text.config import Config


def run(job: Job) -> dict[str, Any]:
    """Inputs: checkpoints by name, or one named `all` if there are no routes; `examples` for few-shot prompts. Also reads
    `sources.jsonl` in the work folder, lines of [direction, one-line source].

    Writes `translations.jsonl`, one object per source in the same order: its `text`, and whether the source was cut at
    `max_source` (`source_cut`), the translation at `max_new_tokens` (`translation_cut`), and whether its line breaks became
    spaces (`joined`, B45). With routes, even a single language is translated with its unmerged adapter, so that a mixed file and
    one file per language give the same translations.
    """
    hypotheses.init_process_group(job)
    with open(Path(job.work) / "sources.jsonl", encoding="utf-8") as file:
        rows = [(direction, source) for direction, source in map(json.loads, file)]
    made = hypotheses.translate_rows(job, rows, lambda: _loaded(job, [direction for direction, _ in rows]))
    if made is None:
        return {}
    with open(job.out / "translations.jsonl", "w", encoding="utf-8") as file:
        for place, hypothesis in enumerate(made.found):
            text, joined = one_line(hypothesis.text)
            cut = {"source_cut": place in made.cut, "translation_cut": hypothesis.truncated}
            file.write(json.dumps({"text": text, **cut, "joined": joined}, ensure_ascii=False) + "\n")
    return {"translations": len(made.found)}


def _loaded(job: Job, directions: list[str]) -> LoadedModel:
    config: Config = job.config
    if not config.routes:
        return hypotheses.load_single_checkpoint(job, job.inputs["all"])
    adapters = [config.routes[_other(direction)] for direction in directions]
    used = {name: job.inputs[name] for name in dict.fromkeys(adapters)}
    model = load_with_adapters(used, job.hardware, config.precision, Path(job.work), config.quantization)
    tokenizer = AutoTokenizer.from_pretrained(next(iter(used.values())).path, local_files_only=True)
    return model, tokenizer, Router(model, adapters)


def _other(direction: str) -> str:
    """The language other than English, which determines the group."""
    source, target = direction.split("-")
    return target if source == "en" else source

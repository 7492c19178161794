"""Translate the sentences that lie in the work folder, each by the adapter of its language group, in one process."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from alma_pipeline.job import Job
from alma_pipeline.ml import decoding
from alma_pipeline.ml.distributed import join
from alma_pipeline.ml.models import load_for_inference
from alma_pipeline.ml.prompts import Prompter
from alma_pipeline.ml.routing import Router, load_together
from stages.interpret.config import Config


def run(job: Job) -> dict[str, Any]:
    """Inputs: checkpoints by name; `sources.jsonl` in the work folder, lines of [direction, one-line source].

    Leaves `translations.jsonl`, a text for each line in the same order. With routes even a single language goes
    through its unmerged adapter, so that a mixed file and its languages one by one give the same.
    """
    config: Config = job.config
    join(job.hardware)
    with open(Path(job.work) / "sources.jsonl", encoding="utf-8") as file:
        rows = [(direction, source) for direction, source in map(json.loads, file)]
    adapters = [config.routes.get(_other(direction), "") for direction, _ in rows]
    announce = None
    if config.routes:
        used = {name: job.inputs[name] for name in dict.fromkeys(adapters)}
        model = load_together(used, job.hardware, config.precision)
        tokenizer = AutoTokenizer.from_pretrained(next(iter(used.values())).path, local_files_only=True)
        announce = Router(model, adapters)
    else:
        [checkpoint] = job.inputs.values()
        model, tokenizer = load_for_inference(checkpoint, job.hardware, config.precision)
    prompts, cut = Prompter(tokenizer, config.prompt, config.languages).within(rows, config.max_source)
    limits = decoding.limits(tokenizer, config.max_new_tokens, job.hardware.decode_tokens)
    outputs = decoding.beam_search(model, prompts, config.beams, limits, decoding.logged(job), announce)
    if job.rank == 0:
        with open(job.out / "translations.jsonl", "w", encoding="utf-8") as file:
            file.writelines(json.dumps(decoding.text(tokenizer, output), ensure_ascii=False) + "\n" for output in outputs)
    return {"sources_cut": cut, "outputs_at_limit": sum(len(output) == config.max_new_tokens for output in outputs)}


def _other(direction: str) -> str:
    """The language beside English, which decides the group."""
    source, target = direction.split("-")
    return target if source == "en" else source

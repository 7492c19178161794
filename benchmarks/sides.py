"""One side of a benchmark in a process of its own: steps on request, one JSON line for each on stdout.

`python benchmarks/sides.py SIDE '{"model": ..., "text": ..., "pairs": ..., "runs": ..., "threads": ..., ...}'` prints a line when
it is ready, then does one optimiser step for every line on stdin, or measures the rate of matrix products for `gemm`.
Standard error is the side's own chatter.
"""

import gc
import itertools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from alma_side import alma_sft
from measures import Step, gemm_rate, memory, timed, useful_flops
from our_sides import ours_preference, ours_sft, plain_packed, released
from trl_sides import trl_cpo, trl_sft


def load(folder: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return model.train(), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def batches(settings: dict[str, Any], tokenizer: Any) -> list[Any]:
    """For each run its pairs: rows of text, and the same as examples (chosen, rejected)."""
    import text

    rows = text.sentences(Path(settings["text"]), settings["pairs"] * settings["runs"])
    chosen, worse = text.examples(tokenizer, rows), text.rejected(tokenizer, rows)
    spans = [slice(i * settings["pairs"], (i + 1) * settings["pairs"]) for i in range(settings["runs"])]
    return [list(zip(chosen[span], worse[span], strict=True)) for span in spans]


SIDES: dict[str, Callable[..., Step]] = {
    "ours-sft": ours_sft,
    "ours-cpo": ours_preference(None),
    "ours-arpo": ours_preference(released),
    "plain-packed": plain_packed,
    "alma-sft": alma_sft,
    "trl-sft-padding": trl_sft(packing=False),
    "trl-sft-packing": trl_sft(packing=True),
    "trl-cpo": trl_cpo,
}


def main(side: str, settings: dict[str, Any]) -> None:
    # What a library prints must not land among the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    torch.set_num_threads(settings["threads"])
    model, tokenizer = load(settings["model"])
    parts = batches(settings, tokenizer)
    step = SIDES[side](settings, model, tokenizer)
    torch.set_num_threads(settings["threads"])
    flops = [useful_flops(model, batch, answers=1 if "sft" in side or "plain" in side else 2) for batch in parts]
    parts = [getattr(step, "prepare", lambda batch: batch)(batch) for batch in parts]
    parameters = sum(weight.numel() for weight in model.parameters())
    gc.collect()
    answers.write(json.dumps({"parameters": parameters, "ready": memory("VmRSS")}) + "\n")
    places = itertools.cycle(range(len(parts)))
    for line in sys.stdin:
        if line.strip() == "gemm":
            answers.write(json.dumps({"gemm": gemm_rate(model)}) + "\n")
            continue
        place = next(places)  # counted in steps alone, so that every side takes the same pairs in the same round
        answers.write(json.dumps(timed(step, parts[place]) | {"flops": flops[place]}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))

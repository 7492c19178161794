"""Beam search: this project's decoder against Hugging Face `generate`, as ALMA calls it and one sentence at a time.

    python benchmarks/decoding.py MODEL_FOLDER PAIRS.json

MODEL_FOLDER is a Hugging Face folder, PAIRS.json one array (or JSON lines) of {"translation": {"de": ..., "en": ...}}.
Every way has a process of its own with the same model, threads, sentences and settings; the parent lets them decode in
turn. A trained model ends a translation by itself (`--end eos`). An untuned one does not, so that by default every way
ends an output at a line break, where ALMA's script cuts it too (run_llmmt.py, clean_outputstring).
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel

from alma_pipeline.ml.decoding import decode
from alma_pipeline.ml.decoding.generate import left_padded
from alma_pipeline.ml.decoding.search import DecodeLimits, trim

BEAMS = 5  # evals/*.sh of fe1ixxu/ALMA: --num_beams 5
SOURCE, BATCH = 256, 2  # the same: --max_source_length 256, padding="max_length"; --per_device_eval_batch_size 2
BUDGET = 65536  # tokens of our batches: hardware=cpu
Outputs = list[list[int]]
Way = Callable[[PreTrainedModel, Outputs, DecodeLimits], Outputs]


@dataclass(frozen=True)
class Report:
    """One run of one way."""

    seconds: float
    memory: int
    """Peak of the process above what it held with the model loaded, in bytes."""
    outputs: Outputs


def alma(model: PreTrainedModel, prompts: Outputs, limits: DecodeLimits) -> Outputs:
    """`run_llmmt.py --do_predict --predict_with_generate`: pairs of sentences in their order, all padded to 256 tokens."""
    filler = [limits.pad] * SOURCE  # one row of the full length pads all, and is taken off again
    outputs: Outputs = []
    for start in range(0, len(prompts), BATCH):
        ids, mask = left_padded([*prompts[start : start + BATCH], filler], limits.pad, model.device)
        outputs += _generate(model, ids[:-1], mask[:-1], limits)
    return outputs


def single(model: PreTrainedModel, prompts: Outputs, limits: DecodeLimits) -> Outputs:
    """One sentence at a time, without padding: what every other way must equal."""
    return [_generate(model, *left_padded([prompt], limits.pad, model.device), limits)[0] for prompt in prompts]


def ours(model: PreTrainedModel, prompts: Outputs, limits: DecodeLimits) -> Outputs:
    return decode.beam_search(model, prompts, BEAMS, limits)


WAYS: dict[str, Way] = {"alma": alma, "single": single, "ours": ours}


def _generate(model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, limits: DecodeLimits) -> Outputs:
    config = GenerationConfig(
        num_beams=BEAMS,
        max_new_tokens=limits.max_new_tokens,
        do_sample=False,
        use_cache=True,
        eos_token_id=limits.eos,
        pad_token_id=limits.pad,
    )
    with torch.no_grad():
        found = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    return [trim(row, limits.ends) for row in found[:, ids.shape[1] :].tolist()]


def work(way: str, arguments: argparse.Namespace, pipe: Connection) -> None:
    """One process: load, then decode at every call of the parent."""
    torch.set_num_threads(arguments.threads)
    name, _, budget = way.partition("@")
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    end = tokenizer.eos_token_id if arguments.end == "eos" else tokenizer.encode("\n", add_special_tokens=False)[-1]
    limits = DecodeLimits(max_new_tokens=arguments.max_new_tokens, decode_tokens=int(budget or BUDGET), eos=end, pad=pad)
    prompts = read_prompts(arguments, tokenizer)
    held = psutil.Process().memory_info().rss
    WAYS[name](model, prompts[:1], replace(limits, max_new_tokens=2))  # first-time costs
    while pipe.recv():
        peak, over = [0], threading.Event()
        watch = threading.Thread(target=_watch, args=(peak, over))
        watch.start()
        began = time.perf_counter()
        outputs = WAYS[name](model, prompts, limits)
        seconds = time.perf_counter() - began
        over.set()
        watch.join()
        pipe.send(Report(seconds, peak[0] - held, outputs))


def _watch(peak: list[int], over: threading.Event) -> None:
    """Look at this process's memory 20 times a second."""
    while not over.wait(0.05):
        peak[0] = max(peak[0], psutil.Process().memory_info().rss)


def read_prompts(arguments: argparse.Namespace, tokenizer: "AutoTokenizer") -> Outputs:
    """Token ids of the first sentences in ALMA's prompt."""
    text = Path(arguments.pairs).read_text(encoding="utf-8")
    rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]
    sources = [row["translation"]["de"] for row in rows[: arguments.sentences]]
    texts = [f"Translate this from German to English:\nGerman: {source}\nEnglish:" for source in sources]
    return [[tokenizer.bos_token_id, *ids] for ids in tokenizer(texts, add_special_tokens=False).input_ids]


def measure(arguments: argparse.Namespace) -> dict[str, list[Report]]:
    """`runs` rounds in which every way decodes once, in turn."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for way in arguments.ways.split(","):
        pipes[way], there = context.Pipe()
        processes.append(context.Process(target=work, args=(way, arguments, there), daemon=True))
        processes[-1].start()
    found: dict[str, list[Report]] = {way: [] for way in pipes}
    for _ in range(arguments.runs):
        for way, pipe in pipes.items():
            pipe.send(True)
            found[way].append(pipe.recv())
            print(f"  {way}: {found[way][-1].seconds:.1f} s", flush=True)
    for pipe in pipes.values():
        pipe.send(False)
    for process in processes:
        process.join()
    return found


def show(found: dict[str, list[Report]], arguments: argparse.Namespace) -> bool:
    """The table: medians, ratio to the first way, peak memory, outputs equal to one sentence at a time; whether all are."""
    sentences = arguments.sentences
    medians = {way: statistics.median(report.seconds for report in reports) for way, reports in found.items()}
    first, reference = next(iter(medians)), found.get("single", next(iter(found.values())))[0].outputs
    print(
        f"\n{'way':12} {'s':>8} {'range':>15} {'sentences/s':>12} {'ratio':>6} {'peak MB':>8} {'equal':>9} {'ended':>6}  tokens"
    )
    all_equal = True
    for way, reports in found.items():
        seconds = [report.seconds for report in reports]
        memory = max(report.memory for report in reports) / 1e6
        equal = sum(ours == theirs for ours, theirs in zip(reports[0].outputs, reference, strict=True))
        all_equal &= equal == sentences
        ended = sum(len(output) < arguments.max_new_tokens for output in reports[0].outputs)
        print(
            f"{way:12} {medians[way]:8.1f} {min(seconds):7.1f}-{max(seconds):<7.1f} {sentences / medians[way]:12.3f} "
            f"{medians[first] / medians[way]:6.2f} {memory:8.0f} {equal:4}/{sentences:<4} {ended:6}  "
            f"{sum(map(len, reports[0].outputs))}"
        )
    return all_equal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("pairs")
    parser.add_argument("--sentences", type=int, default=16)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-new-tokens", type=int, default=256, help="256 as in evals/*.sh")
    parser.add_argument("--end", choices=["line", "eos"], default="line", help="what ends an output")
    parser.add_argument(
        "--ways",
        default="alma,single,ours",
        help="which, and in which turn; ratios are to the first; ours@1024 has batches of 1,024 tokens",
    )
    arguments = parser.parse_args()
    sys.exit(not show(measure(arguments), arguments))


if __name__ == "__main__":
    main()

"""Beam search: this project's decoder against Hugging Face `generate`, as ALMA calls it and one sentence at a time.

    python benchmarks/decoding.py MODEL_FOLDER PAIRS.json

MODEL_FOLDER is a Hugging Face folder, PAIRS.json one array (or JSON lines) of {"translation": {"de": ..., "en": ...}}.
The way `ct2` is CTranslate2 in float32, in an environment of its own (`--ct2-python`); its search ends hypotheses by
another rule, so that scores are compared in place of outputs. Every way has a process of its own with the same model,
threads, sentences and settings; the parent lets them decode in turn. A trained model ends a translation by itself
(`--end eos`). An untuned one does not, so that by default every way ends an output at a line break, where ALMA's script
cuts it too (run_llmmt.py, clean_outputstring).
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel

from alma_pipeline.ml.decoding import decode
from alma_pipeline.ml.decoding.generate import left_padded
from alma_pipeline.ml.decoding.search import DecodeLimits, trim
from alma_pipeline.ml.scoring.sacrebleu_metrics import metric

BEAMS = 5  # evals/*.sh of fe1ixxu/ALMA: --num_beams 5
SOURCE, BATCH = 256, 2  # the same: --max_source_length 256, padding="max_length"; --per_device_eval_batch_size 2
BUDGET = 65536  # tokens of our batches: hardware=cpu
CT2_BUDGET = 2048  # of CTranslate2's batches (our choice; ct2@512 has others)
Outputs = list[list[int]]
Way = Callable[[PreTrainedModel, Outputs, DecodeLimits], Outputs]


@dataclass(frozen=True)
class Report:
    """One run of one way."""

    seconds: float
    cpu: float
    """CPU seconds of all its threads."""
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


CT2 = "ct2"
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
    if name == CT2:
        return work_ct2(int(budget or CT2_BUDGET), arguments, tokenizer, pipe)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    end = end_token(arguments, tokenizer)
    limits = DecodeLimits(max_new_tokens=arguments.max_new_tokens, decode_tokens=int(budget or BUDGET), eos=end, pad=pad)
    prompts = read_prompts(arguments, tokenizer)
    held = psutil.Process().memory_info().rss
    WAYS[name](model, prompts[:1], replace(limits, max_new_tokens=2))  # first-time costs
    while pipe.recv():
        peak, over = [0], threading.Event()
        watch = threading.Thread(target=_watch, args=(peak, over))
        watch.start()
        began, used = time.perf_counter(), time.process_time()
        outputs = WAYS[name](model, prompts, limits)
        seconds, cpu = time.perf_counter() - began, time.process_time() - used
        over.set()
        watch.join()
        pipe.send(Report(seconds, cpu, peak[0] - held, outputs))


def work_ct2(budget: int, arguments: argparse.Namespace, tokenizer: Any, pipe: Connection) -> None:
    """The same by CTranslate2, in the interpreter that has it."""
    settings = {
        "folder": str(converted(arguments)),
        "threads": arguments.threads,
        "beams": BEAMS,
        "end": end_token(arguments, tokenizer),
        "budget": budget,
        "max_new_tokens": arguments.max_new_tokens,
        "prompts": [tokenizer.convert_ids_to_tokens(prompt) for prompt in read_prompts(arguments, tokenizer)],
    }
    words = [arguments.ct2_python, str(Path(__file__).with_name("decoding_ct2.py"))]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=without_our_path()) as process:
        assert process.stdin

        def ask(line: object) -> Any:
            assert process.stdout
            print(json.dumps(line), file=process.stdin, flush=True)
            return json.loads(process.stdout.readline())

        ask(settings)
        while pipe.recv():
            pipe.send(Report(**ask(True)))
        process.stdin.close()


def converted(arguments: argparse.Namespace) -> Path:
    """The model in CTranslate2's format, converted once and kept for the next time."""
    name = hashlib.sha256(str(Path(arguments.model).resolve()).encode()).hexdigest()[:12]
    folder = Path(arguments.ct2_cache) / name
    if not (folder / "model.bin").exists():
        words = ["--model", arguments.model, "--output_dir", str(folder), "--force"]
        convert = [arguments.ct2_python, "-m", "ctranslate2.converters.transformers", *words]
        subprocess.run(convert, check=True, stdout=sys.stderr, env=without_our_path())
    return folder


def without_our_path() -> dict[str, str]:
    """The environment for another interpreter, whose packages are its own."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def end_token(arguments: argparse.Namespace, tokenizer: Any) -> int:
    """The token that ends an output."""
    return int(tokenizer.eos_token_id if arguments.end == "eos" else tokenizer.encode("\n", add_special_tokens=False)[-1])


def _watch(peak: list[int], over: threading.Event) -> None:
    """Look at this process's memory 20 times a second."""
    while not over.wait(0.05):
        peak[0] = max(peak[0], psutil.Process().memory_info().rss)


def read_pairs(arguments: argparse.Namespace) -> list[dict[str, str]]:
    """The first sentence pairs."""
    text = Path(arguments.pairs).read_text(encoding="utf-8")
    rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]
    return [row["translation"] for row in rows[: arguments.sentences]]


def read_prompts(arguments: argparse.Namespace, tokenizer: Any) -> Outputs:
    """Token ids of the first sentences in ALMA's prompt."""
    sources = [pair["de"] for pair in read_pairs(arguments)]
    texts = [f"Translate this from German to English:\nGerman: {source}\nEnglish:" for source in sources]
    return [[tokenizer.bos_token_id, *ids] for ids in tokenizer(texts, add_special_tokens=False).input_ids]


def measure(arguments: argparse.Namespace) -> dict[str, list[Report]]:
    """`runs` rounds in which every way decodes once, in turn."""
    if any(way.startswith(CT2) for way in arguments.ways.split(",")):
        converted(arguments)  # before several processes want it
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
    """The table: medians, ratio to the first way, peak memory, outputs equal to one sentence at a time, and scores.

    Returns whether all outputs are equal, but those of CTranslate2.
    """
    sentences = arguments.sentences
    medians = {way: statistics.median(report.seconds for report in reports) for way, reports in found.items()}
    first, reference = next(iter(medians)), found.get("single", next(iter(found.values())))[0].outputs
    tokenizer, references = AutoTokenizer.from_pretrained(arguments.model), [pair["en"] for pair in read_pairs(arguments)]
    print(
        f"\n{'way':12} {'s':>8} {'range':>15} {'cpu s':>7} {'sentences/s':>12} {'ratio':>6} {'peak MB':>8} {'equal':>9} "
        f"{'ended':>6} {'tokens':>7} {'chrF++':>6} {'BLEU':>5}"
    )
    all_equal = True
    for way, reports in found.items():
        seconds = [report.seconds for report in reports]
        memory = max(report.memory for report in reports) / 1e6
        equal = sum(ours == theirs for ours, theirs in zip(reports[0].outputs, reference, strict=True))
        all_equal &= equal == sentences or way.startswith(CT2)
        texts = [decode.text(tokenizer, output) for output in reports[0].outputs]
        chrf, bleu = (metric(name, "13a").corpus_score(texts, [references]).score for name in ("chrf++", "bleu"))
        ended = sum(len(output) < arguments.max_new_tokens for output in reports[0].outputs)
        print(
            f"{way:12} {medians[way]:8.1f} {min(seconds):7.1f}-{max(seconds):<7.1f} "
            f"{statistics.median(report.cpu for report in reports):7.1f} {sentences / medians[way]:12.3f} "
            f"{medians[first] / medians[way]:6.2f} {memory:8.0f} {equal:4}/{sentences:<4} {ended:6} "
            f"{sum(map(len, reports[0].outputs)):7} {chrf:6.2f} {bleu:5.2f}"
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
    parser.add_argument(
        "--ct2-python", default=".venv-ct2/bin/python", help="an interpreter that has ctranslate2, for the way ct2"
    )
    parser.add_argument("--ct2-cache", default="/tmp/ct2", help="where converted models are kept")
    arguments = parser.parse_args()
    sys.exit(not show(measure(arguments), arguments))


if __name__ == "__main__":
    main()

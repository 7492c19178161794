"""Does preparing text, and training on it, cost the same for each token however much there is?

python benchmarks/linear.py --folder /tmp/linear

Pairs of made-up words in several sizes: each is prepared (read, cleaned, tokenised, packed), opened, laid out in rows, and
trained on for the same number of steps by a tiny model. Every part is a process of its own, the sizes take turns, medians are
printed. A corpus of ten million examples, its arrays written directly, is opened and trained on too.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from linear_corpora import corpus_job, make_base, prepared, written

from alma_pipeline.job import Input, Job
from alma_pipeline.schema import Hardware
from stages.parallel.config import Config as Parallel

FEWEST = 150
"""Examples of the corpus whose time is taken off the others': the price of starting, and of a few examples."""
MOST_TIMES = 20
"""How often a small corpus is prepared in a row, so that its time can be told from noise."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for the texts and corpora: 2 GB, left there")
    parser.add_argument("--examples", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--opened", type=int, default=10_000_000, help="examples of the corpus that is only trained on; 0: none")
    parser.add_argument("--steps", type=int, default=50, help="of each training")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    base = make_base(options.folder / "base")
    sizes = [FEWEST, *options.examples]
    corpora = {size: prepared(options.folder / str(size), base, size) for size in sizes}
    if options.opened:
        corpora[options.opened] = written(options.folder / str(options.opened), corpora[sizes[-1]], options.opened)
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    for number in range(options.runs):
        for size, corpus in corpora.items():
            job = training_job(options.folder, base, corpus, options.steps)
            parts = {"prepare": corpus_job(options.folder / str(size), base, size, "timed")} if size in sizes else {}
            parts |= {"epoch": job, "train": job} if size != FEWEST else {}
            for part, its_job in parts.items():
                result = measured(part, its_job, min(MOST_TIMES, max(sizes) // size))
                found.setdefault((part, size), []).append(result)
                print(f"run {number + 1}/{options.runs}, {size:,} examples, {part}: {result}", file=sys.stderr, flush=True)
    print(table({key: medians(results) for key, results in found.items()}, [*options.examples, *filter(None, [options.opened])]))
    print(f"medians of {options.runs} runs; preparing starts in {medians(found['prepare', FEWEST])['seconds']:.3f} s, taken off")


def training_job(folder: Path, base: Input, corpus: Path, steps: int) -> Job:
    config = Parallel(steps=steps, global_batch_size=64, learning_rate=1e-3, evaluations=1, adapter="none", seed=1)
    inputs = {"init": base, "corpus": Input("corpus", "corpus", str(corpus), {})}
    return Job("parallel", "parallel", str(folder / "training"), config, Hardware(name="cpu", micro_batch_tokens=1024), inputs)


def measured(part: str, job: Job, times: int) -> dict[str, float]:
    """What `linear_parts.py` found of one part."""
    shutil.rmtree(job.work, ignore_errors=True)
    job.out.mkdir(parents=True)
    job.write()
    script = Path(__file__).with_name("linear_parts.py")
    command = [sys.executable, str(script), part, str(Path(job.work) / "job.json"), str(times)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{part} ended with {done.returncode}: {done.stderr[-3000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def medians(results: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(result[name] for result in results) for name in results[0]}


def table(found: dict[tuple[str, int], dict[str, float]], sizes: list[int]) -> str:
    """A line a size: tokens a second of preparing (beyond the fewest examples), of laying out rows, and of training; memory."""
    fewest = found["prepare", FEWEST]
    lines = [
        f"{'examples':>12} {'prepared tokens/s':>18} {'peak MB':>8} {'opened s':>9} {'more MB':>8} {'laid out tokens/s':>18} "
        f"{'trained tokens/s':>17} {'peak MB':>8}"
    ]
    for size in sizes:
        made = found.get(("prepare", size))
        rate = (made["tokens"] - fewest["tokens"]) / (made["seconds"] - fewest["seconds"]) if made else 0
        epoch, train = found["epoch", size], found["train", size]
        text = f"{rate:18,.0f} {made['peak'] / 1e6:8.0f}" if made else f"{'-':>18} {'-':>8}"
        lines.append(
            f"{size:12,} {text} {epoch['opened']:9.2f} {epoch['memory'] / 1e6:8.0f} {epoch['tokens'] / epoch['seconds']:18,.0f} "
            f"{train['tokens'] / train['seconds']:17,.0f} {train['peak'] / 1e6:8.0f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()

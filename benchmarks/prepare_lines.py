"""How much memory and time the preparation of a large text takes, killed on the way or not.

python benchmarks/prepare_lines.py --lines 10000000 --kill-after 60 --folder /tmp/lines

Writes one document a line of made-up words, prepares it with cleaning and duplicate search in a process of its own, kills
that once, goes on, and prints the time and the largest resident memory of each attempt.
"""

import argparse
import itertools
import json
import random
import subprocess
import sys
import time
from pathlib import Path

from alma_pipeline.job import Input, Job
from alma_pipeline.ml.models.tokenizer import train_tokenizer
from alma_pipeline.schema import Cleaning, Hardware, Language, Source
from stages.corpus.config import Config

ENGLISH = {"en": Language(name="English", locale="en", nllb="eng_Latn")}
WORDS = 5000
WORK = """
import json, resource, sys
from pathlib import Path
from alma_pipeline.job import read_job
from stages.corpus.run import run
result = run(read_job(Path(sys.argv[1])))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps({"peak_gib": round(peak, 3), "counts": result["counts"]}))
"""


def main() -> None:
    """Make the text, prepare it, print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=10_000_000)
    parser.add_argument("--kill-after", type=float, default=0, help="seconds; 0 lets it run through")
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args()
    job = _job(arguments.folder, arguments.lines)
    if arguments.kill_after:
        _attempt(job, arguments.kill_after)
        manifest = json.loads((job.resume / "step-0" / "manifest.json").read_text())
        print(f"killed after {arguments.kill_after:g} s with {manifest['step']:,} rows read; goes on")
    _attempt(job, None)


def _job(folder: Path, lines: int) -> Job:
    folder.mkdir(parents=True, exist_ok=True)
    text = folder / f"{lines}.txt"
    if not text.exists():
        _write(text, lines)
    with open(text, encoding="utf-8") as file:
        train_tokenizer(itertools.islice(file, 5000), 2000).save_pretrained(folder / "base")
    config = Config(
        form="documents",
        text=Source(reader="files", files={"en.txt": "text"}),
        languages=ENGLISH,
        held_out=100,
        seed=1,
        cleaning=Cleaning(steps=["nfc", "length", "script", "exact"]),
    )
    inputs = {"base": Input("base", "base", str(folder / "base"), {})}
    job = Job("corpus", "0", str(folder / "work"), config, Hardware(name="cpu"), inputs, {"text": str(text)})
    job.out.mkdir(parents=True, exist_ok=True)
    job.write()
    return job


def _write(path: Path, lines: int) -> None:
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 9))) for _ in range(WORDS)]
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(lines):
            file.write(" ".join(draw.choices(words, k=draw.randint(5, 25))) + "\n")


def _attempt(job: Job, seconds: float | None) -> None:
    started = time.monotonic()
    command = [sys.executable, "-c", WORK, str(Path(job.work) / "job.json")]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        out, _ = worker.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
        return
    assert worker.returncode == 0, f"the preparation ended with {worker.returncode}"
    print(f"{time.monotonic() - started:.0f} s: {out.strip()}")


if __name__ == "__main__":
    main()

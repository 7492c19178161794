"""The side of CTranslate2 in `decoding.py`: decodes at every line of standard input.

Runs in an environment of its own, which has `ctranslate2`; imports nothing of this project.
"""

import json
import sys
import time
from pathlib import Path

import ctranslate2  # type: ignore[import-not-found, unused-ignore]


def main() -> None:
    settings = json.loads(sys.stdin.readline())
    generator = ctranslate2.Generator(
        settings["folder"], compute_type="float32", intra_threads=settings["threads"], inter_threads=1
    )
    options = {
        "beam_size": settings["beams"],
        "end_token": [settings["end"]],
        "include_prompt_in_result": False,
        "max_batch_size": settings["budget"],
        "batch_type": "tokens",
    }
    generator.generate_batch(settings["prompts"][:1], max_length=2, **options)  # first-time costs
    print(json.dumps("ready"), flush=True)
    for _ in sys.stdin:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is the present memory again
        held = peak()
        began, used = time.perf_counter(), time.process_time()
        found = generator.generate_batch(settings["prompts"], max_length=settings["max_new_tokens"], **options)
        seconds, cpu = time.perf_counter() - began, time.process_time() - used
        outputs = [[token for token in one.sequences_ids[0] if token != settings["end"]] for one in found]
        print(json.dumps({"seconds": seconds, "cpu": cpu, "memory": peak() - held, "outputs": outputs}), flush=True)


def peak() -> int:
    """The largest memory of this process since its peak was reset, in bytes."""
    [line] = [line for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:")]
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    main()

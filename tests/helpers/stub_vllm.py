"""A Python whose package `vllm` is a stand-in: what the real worker asks of vLLM, in a moment and on any number of devices."""

import json
import sys
from pathlib import Path
from typing import Any

END = 9
"""Its end token: an output is its own number, the prompt's last token, the end, and one token more; or, of a prompt longer than
nine tokens, the prompt's beginning, one token longer than the output before."""

PACKAGE = """
import json, os, subprocess, sys
from types import SimpleNamespace as SamplingParams
LOG = {log!r}

def note(**what):
    with open(LOG, "a") as file:
        file.write(json.dumps(what | {{"device": os.environ.get("CUDA_VISIBLE_DEVICES")}}) + "\\n")

class LLM:
    def __init__(self, **options):
        assert not {{"alma_pipeline", "tests"}} & set(sys.modules), "it sees nothing of this project"
        print("loading", options["model"])
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])  # as vLLM's own processes
        note(model=options, child=child.pid, files=sorted(os.listdir(options["model"])), network=os.environ["HF_HUB_OFFLINE"])
        self.llm_engine = SamplingParams(engine_core=SamplingParams(shutdown=child.kill))
        if {fails!r} == os.environ.get("CUDA_VISIBLE_DEVICES"):
            raise RuntimeError("No available memory for the cache blocks")

    def generate(self, prompts, samplings, use_tqdm, lora_request):
        note(prompts=[each["prompt_token_ids"] for each in prompts], adapter=lora_request and lora_request.path)
        if {hangs}:
            import time; time.sleep(600)
        outputs = []
        for prompt, own in zip(prompts, samplings, strict=True):
            ids = prompt["prompt_token_ids"]
            texts = [ids[: 9 + n] if len(ids) > 9 else (n, ids[-1], {end}, 7) for n in range(getattr(own, "n", 1))]
            found = [SamplingParams(token_ids=text) for text in texts]
            outputs.append(SamplingParams(outputs=found))
        return outputs
"""
REQUEST = """
class LoRARequest:
    def __init__(self, name, number, path):
        self.path = path
"""


def stub_vllm(folder: Path, fails: str = "none", hangs: bool = False) -> str:
    """The path of that Python. `fails`: the value of CUDA_VISIBLE_DEVICES with which loading fails; `hangs`: decoding does."""
    package = folder / "packages" / "vllm"
    (package / "lora").mkdir(parents=True)
    (package / "lora" / "__init__.py").touch()
    (package / "lora" / "request.py").write_text(REQUEST)
    (package / "sampling_params.py").write_text("from types import SimpleNamespace as BeamSearchParams\n")
    log = str(folder / "asked.jsonl")
    (package / "__init__.py").write_text(PACKAGE.format(log=log, fails=fails, hangs=hangs, end=END))
    python = folder / "python"
    # It takes -I away, which would hide the stand-in, and keeps the worker's folder off the path, as -I does.
    python.write_text(f'#!/bin/sh\nshift\nPYTHONPATH={folder}/packages exec {sys.executable} -P "$@"\n')
    python.chmod(0o755)
    return str(python)


def asked(folder: Path) -> list[dict[str, Any]]:
    """What was asked of it, in order: of each model its options, then lists of prompts; each with its devices."""
    return [json.loads(line) for line in (folder / "asked.jsonl").read_text().splitlines()]

"""Joins the text of its inputs with its own, in steps with resume points, and misbehaves when told to.

What a test orders stands in `$FAKE_ORDERS/<node>.json`, apart from the settings, so that it changes no key:
    pause   seconds per step
    hold    a step that waits until `$FAKE_ORDERS/<node>.go` is there
    deaf    it takes no notice
    fits    the largest token budget for which the device has memory; more fails at step `at`
    end     user | crash | exit | silent | kill | stubborn | late (only when Python is taken down), after step `at`;
            full: as on a full disk; term: SIGTERM from elsewhere, with a resume point; allocation: Slurm takes the first
            worker's; stuck: every worker's, before a step is done;
            demanding: no bad end, but it fails under a Python without assertions, docstrings, warnings or UTF-8
    spawn   leave a process behind
    write   bytes to write into the artifact
    result  more for the result
What a worker did stands in `$FAKE_ORDERS/<node>.journal`: a line `pid word` for each step.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from alma_pipeline.errors import UserError
from alma_pipeline.job import RESUME_SCHEMA, Again, Job


def run(job: Job) -> dict[str, Any]:
    told = orders(job)
    note(job, "start")
    if told.get("spawn"):
        left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        note(job, f"spawned {left.pid}")
    if "write" in told:
        (job.out / "more").write_bytes(bytes(told["write"]))
    first = _resume(job)
    if told.get("end") == "stuck":
        raise Again("interrupted by SIGUSR1")
    for step in range(first, job.config.steps):
        note(job, f"step {step}")
        time.sleep(told.get("pause", 0.0))
        while told.get("hold") == step and not (_folder() / f"{job.name}.go").exists():
            _take_notice(job, told, step)
            time.sleep(0.02)
        job.log(step + 1, job.config.steps, {"train/loss": 1 / (step + 1)})
        _save(job, step + 1)
        _take_notice(job, told, step + 1)
        if step == told.get("at", 0):
            _misbehave(told.get("end", ""))
            budget = job.hardware.micro_batch_tokens
            if budget > told.get("fits", budget):
                raise Again("the device ran out of memory", micro_batch_tokens=budget // 2)
    text = "".join(Path(source.path, "text.txt").read_text() for source in job.inputs.values()) + job.config.text
    (job.out / "text.txt").write_text(text)
    note(job, "end")
    form = "full" if job.config.adapter == "none" else "adapter"
    result: dict[str, Any] = {"text": text, "first": first, "pid": os.getpid(), "checkpoint": {"form": form}}
    result.update(told.get("result", {}))
    return result


def orders(job: Job) -> dict[str, Any]:
    file = _folder() / f"{job.name}.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found


def note(job: Job, word: str) -> None:
    with open(_folder() / f"{job.name}.journal", "a") as file:
        file.write(f"{os.getpid()} {word}\n")


def _folder() -> Path:
    return Path(os.environ["FAKE_ORDERS"])


def _resume(job: Job) -> int:
    return max((int(path.parent.name[5:]) for path in job.resume.glob("step-*/manifest.json")), default=0)


def _save(job: Job, step: int) -> None:
    folder = job.resume / f"step-{step}"
    folder.mkdir(parents=True, exist_ok=True)
    topology = {"processes": job.hardware.world if job.config.distributed else 1, "zero_stage": job.hardware.zero_stage}
    (folder / "manifest.tmp").write_text(json.dumps({"schema": RESUME_SCHEMA, "step": step, "topology": topology}))
    os.replace(folder / "manifest.tmp", folder / "manifest.json")


def _take_notice(job: Job, told: dict[str, Any], step: int) -> None:
    if job.notice.exists() and not told.get("deaf"):
        raise Again(f"interrupted by a notice after step {step}")


def _misbehave(end: str) -> None:
    if end == "user":
        raise UserError("the text is not to my liking; write another")
    if end == "crash":
        raise RuntimeError("something broke, HF_TOKEN is " + os.environ.get("HF_TOKEN", ""))
    if end == "exit":
        sys.exit(7)
    if end == "term":
        raise Again("interrupted by SIGTERM after step 1", signal=signal.SIGTERM)
    if end == "allocation":
        sys.exit("slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT 2026-11-29T17:00:00 DUE TO TIME LIMIT ***")
    if end == "silent":
        os._exit(0)
    if end == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if end == "late":
        atexit.register(os.abort)
    if end == "full":
        with open("/dev/full", "w") as file:
            file.write("x")
    if end == "demanding":
        assert __debug__ and (json.loads.__doc__ or "").startswith("Deserialize"), "PYTHONOPTIMIZE"
        warnings.warn("a warning is no error", stacklevel=1)
        print("数")
    if end == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(60)

"""Cases of `gpu.py` that run the command as a user does, in a store of their own."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gpu_beds
from gpu_beds import Bed
from gpu_figures import Figure

ROOT = Path(__file__).parent.parent
SECONDS = 300
CHRF_APART = 15.0
"""Points of chrF++ up to which a short training on the device may score differently from one on the CPU (our choice)."""


class CommandFailed(Exception):
    """A command of a user ended otherwise than well; holds the end of what it printed."""


def recipe(bed: Bed) -> list[Figure]:
    """The same short recipe by workers forked on the CPU, and by workers of their own on the device, bitsandbytes installed.

    Text, training, translation and scores are those of the embedded default.
    """
    found = {}
    for hardware in ("cpu", device_option(bed)):
        start = time.perf_counter()
        command(store_of(bed, hardware), words(bed, hardware))
        found[hardware] = (time.perf_counter() - start, chrf(store_of(bed, hardware)))
    (cpu_seconds, cpu), (seconds, device) = found.values()
    return [
        Figure(name="recipe by forked workers on the CPU", measured=cpu_seconds, unit="s"),
        Figure(name="recipe by workers of their own", measured=seconds, unit="s", expected=cpu_seconds),
        Figure(name="chrF++", measured=device, expected=cpu, wrong=abs(device - cpu) > CHRF_APART),
    ]


def resume(bed: Bed) -> list[Figure]:
    """Kill a training, start it again, and compare its weights with those of two trainings that were not killed."""
    hardware = device_option(bed)
    untranslated = [word for word in words(bed, hardware) if not word.startswith("evaluation.checkpoints")]
    settings = [*untranslated, "evaluation.checkpoints=[]", f"hardware.checkpoint_seconds={0.1 if bed.dry else 0.5}"]
    whole = [store_of(bed, hardware), bed.folder / "again"]  # the first has been trained if the case `recipe` ran
    for store in whole:
        command(store, settings)
    killed = bed.folder / "killed"
    step = kill_after_a_resume_point(killed, settings)
    command(killed, settings)
    repeats, same = digest(whole[0]) == digest(whole[1]), digest(killed) == digest(whole[0])
    note = "" if repeats else "the device does not repeat itself to the bit, so that resuming cannot"
    return [
        Figure(name="two trainings equal to the bit", measured=float(repeats), expected=1.0),
        Figure(name="a resumed one equal to the bit", measured=float(same), expected=1.0, wrong=repeats and not same, note=note),
        Figure(name="killed after step", measured=float(step), wrong=not 0 < step < training_steps(bed)),
    ]


def full_device(bed: Bed) -> list[Figure]:
    """A token budget that no device holds: the run must halve it until it fits, train, and record what it was.

    A 1B shape from random weights, one step of 16,384 pairs, of which half are a micro-batch at first. All activations are kept:
    recomputed ones would fit a large device.
    """
    if bed.dry:
        return [Figure(name="token budget that fitted", measured=0.0, note="needs a GPU")]
    shape, store, asked = bed.shape("1b"), bed.folder / "full-device", 2**18
    sizes = {name: getattr(shape, name) for name in ("hidden_size", "intermediate_size", "layers", "heads", "kv_heads")}
    large = [f"model.architecture.{name}={size}" for name, size in sizes.items()]
    step = ["stages.parallel.steps=1", "stages.parallel.global_batch_size=16384", f"hardware.micro_batch_tokens={asked}"]
    small = [
        "hardware.gradient_checkpointing=false",
        "stages.parallel.evaluations=1",
        "stages.parallel.select_by=last",
    ]
    command(store, [*words(bed, "gpu1"), *large, *step, *small])
    used = gpu_beds.record_of(store, "parallel")["hardware"]["micro_batch_tokens"]
    return [
        Figure(name="token budget that fitted", measured=float(used), unit="tokens", expected=float(asked), wrong=used >= asked)
    ]


def device_option(bed: Bed) -> str:
    """`hardware=` of the device; in a dry run one whose workers are as many and as wide as on a CPU."""
    return "cpu_wide" if bed.dry else "gpu1"


def store_of(bed: Bed, hardware: str) -> Path:
    """The store of the uninterrupted recipe on this hardware."""
    return bed.folder / f"recipe-{hardware}"


def training_steps(bed: Bed) -> int:
    """Long enough for resume points, and on a device for a score that means something."""
    return 40 if bed.dry else 300


def words(bed: Bed, hardware: str) -> list[str]:
    """`parallel` from the untrained base of the embedded default, translated and scored."""
    sizes = {"pairs": 60, "test": 2, "dev": 4} if bed.dry else {"pairs": 1500, "test": 100, "dev": 40}
    size = [f"budget.text.{name}={number}" for name, number in sizes.items()]
    size += ["directions=[de-en]", "evaluation.num_beams=1", f"evaluation.max_new_tokens={8 if bed.dry else 64}"]
    precision = ["model.precision=bf16"] if hardware.startswith("gpu") else []
    training = ["stages.parallel.inputs.init=base", f"stages.parallel.steps={training_steps(bed)}"]
    run = ["stage=parallel", "model=tiny", f"hardware={hardware}", "tracking=none", "evaluation.checkpoints=[parallel]"]
    return [*run, *precision, *training, *size]


def command(store: Path, settings: list[str]) -> str:
    """Run the recipe in this store; returns what it printed. Raises CommandFailed."""
    done = subprocess.run(
        _command(settings), env=_environment(store), cwd=ROOT, capture_output=True, text=True, check=False, timeout=SECONDS
    )
    if done.returncode:
        raise CommandFailed(f"exit {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    return done.stdout + done.stderr


def kill_after_a_resume_point(store: Path, settings: list[str]) -> int:
    """Start the recipe and kill the command and its workers when the training has left a resume point; returns its step."""
    running = subprocess.Popen(
        _command(settings), env=_environment(store), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    end = time.monotonic() + SECONDS
    try:
        while time.monotonic() < end and running.poll() is None:
            for point in resume_points(store):
                return point
            time.sleep(0.02)
        raise CommandFailed("the training ended without a resume point")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(running.pid, signal.SIGKILL)  # its workers notice that it is gone, and end
        running.wait()


def resume_points(store: Path) -> Iterator[int]:
    """The steps of the complete resume points of `parallel`."""
    for path in store.glob("work/parallel-*/resume/step-*/manifest.json"):
        yield int(json.loads(path.read_text(encoding="utf-8"))["step"])


def digest(store: Path) -> str:
    """SHA-256 of the weights of `parallel`."""
    [path] = store.glob("artifacts/parallel-*/model.safetensors")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def chrf(store: Path) -> float:
    """The mean chrF++ of `parallel`."""
    result: dict[str, Any] = gpu_beds.record_of(store, "parallel.score")["result"]
    return float(next(iter(result["averages"].values()))["chrf++"])


def _command(settings: list[str]) -> list[str]:
    return [sys.executable, "-P", str(ROOT / "alma_pipeline" / "start.py"), "alma_pipeline", "run", *settings]


def _environment(store: Path) -> dict[str, str]:
    return os.environ | {"ALMA_PIPELINE_STORE": str(store), "COLUMNS": "120"}

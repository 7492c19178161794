"""The srun command that starts one agent on each machine. Knows Slurm's options and nothing about the job."""

import os

from alma_pipeline.schema import Hardware
from alma_pipeline.schema.hardware import SRUN_WORD
from alma_pipeline.schema.time_limit import notice_seconds

SAME = {
    **dict.fromkeys(("oversubscribe", "overlap", "exact"), "exclusive"),
    **dict.fromkeys(("mem-per-cpu", "mem-per-gpu"), "mem"),
    **dict.fromkeys(("gres", "gpus", "gpus-per-task", "gpus-per-socket"), "gpus-per-node"),
}
"""Options that decide the same as another one, by which they are known here."""


def srun(hardware: Hardware) -> list[str]:
    """srun's words up to the command of the agent: in the allocation around this process, or in one that srun requests.

    An option of `hardware.srun` replaces one that is set here and decides the same.
    """
    inside = "SLURM_JOB_ID" in os.environ
    # Within an allocation --exclusive would mean one core, and a step that shares nothing waits forever for one around it.
    ours = [f"--nodes={hardware.nodes}", *(["--overlap"] if inside else _request(hardware))]
    # A node's whole memory, or all that the allocation has there: Slurm's default may be 1 GB per core.
    ours += ["--mem=0", "--cpu-bind=none", "--kill-on-bad-exit=1", "--wait=0"]
    # The worker's variables must arrive, also where a batch script was submitted with --export=NONE.
    ours += ["--export=ALL"]
    ours += [f"--gpus-per-node={hardware.devices}"] if hardware.device == "cuda" else []
    # All processes of an agent share the cores of its task.
    ours += [f"--cpus-per-task={hardware.threads * hardware.devices}"] if hardware.threads else []
    given = {_decides(word) for word in hardware.srun}
    words = [word for word in ours if _decides(word) not in given] + hardware.srun
    # One task per machine. Where srun requests whole machines that is its default, and a number of tasks given beside --exclusive
    # would leave each task one core (--exclusive implies --exact: src/srun of Slurm 20.11 to 26.05).
    whole = not inside and "--exclusive" in words and not any(_decides(word) == "cpus-per-task" for word in words)
    return ["srun", *words, *([] if whole else [f"--ntasks={hardware.nodes}", "--ntasks-per-node=1"])]


def _request(hardware: Hardware) -> list[str]:
    """Whole machines, whose agents get a notice before the time is over."""
    words = ["--exclusive", f"--time={hardware.time_limit}", f"--signal=USR1@{notice_seconds(hardware.time_limit)}"]
    words += ["--job-name=alma_pipeline"]
    words += [f"--partition={hardware.partition}"] if hardware.partition else []
    words += [f"--account={hardware.account}"] if hardware.account else []
    return words


def _decides(word: str) -> str:
    """What a word decides, by the name of an option."""
    match = SRUN_WORD.fullmatch(word)
    name = match[1] if match else word
    return SAME.get(name, name)

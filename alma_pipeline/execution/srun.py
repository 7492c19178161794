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
OTHER_TASKS = (
    *("SLURM_CPUS_PER_TASK", "SRUN_CPUS_PER_TASK", "SLURM_CPUS_PER_GPU", "SLURM_TRES_PER_TASK"),
    *("SLURM_GPUS", "SLURM_GPUS_PER_TASK", "SLURM_GPUS_PER_SOCKET", "SLURM_GPU_BIND", "SLURM_TRES_BIND"),
    *("SLURM_NTASKS_PER_CORE", "SLURM_NTASKS_PER_GPU", "SLURM_NTASKS_PER_TRES"),
    *("SLURM_EXACT", "SLURM_EXCLUSIVE", "SLURM_OVERCOMMIT"),
)
"""Variables that srun takes for options (`env_vars` in its opt.c). An allocation around this process may have set them for
tasks of another kind: one per GPU with few cores each, where ours is one per machine."""


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
    # The machines of an allocation are chosen already; a step that names a feature which they lack would wait forever.
    theirs = [word for word in hardware.srun if not (inside and _decides(word) == "constraint")]
    given = {_decides(word) for word in theirs}
    words = [word for word in ours if _decides(word) not in given] + theirs
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

"""Runs on each machine of a Slurm step: finds the first machine and becomes a torchrun agent that joins the others there.
Slurm's notice before the time limit, SIGUSR1, it passes on as the file `notice` in the work folder.

    srun ... python alma_pipeline/start.py alma_pipeline.execution.slurm_agent WORK_FOLDER MACHINES PROCESSES WORKER_WORDS...

srun starts it. It knows Slurm's environment and nothing about the job. Only Slurm can give the address, because it chooses
the machines when it grants the allocation.
"""

import os
import re
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from alma_pipeline.errors import UserError
from alma_pipeline.files import write_json
from alma_pipeline.job import NOTICE

FIRST_PORT = 15000
PORT_COUNT = 15000
"""Size of the port range, which ends below Linux's ephemeral ports (ip_local_port_range: 32768 and above)."""
EXIT_USER_ERROR = 2


def main(work: Path, machines: int, processes: int, worker: list[str]) -> None:
    """Be the agent of `processes` ranks in this process, which srun's signals reach.

    SIGUSR1 reaches no rank, because torchrun does not pass it on.
    """
    try:
        cores = enough_cores(os.environ, processes)
        words = [*meeting_options(os.environ), f"--nnodes={machines}", f"--nproc-per-node={processes}", f"--rdzv-id={work.name}"]
    except UserError as error:
        print(error, file=sys.stderr)
        if work.exists():  # the store may be missing on this machine, which the worker reports
            write_json(work / "error.json", {"message": str(error)})
        sys.exit(EXIT_USER_ERROR)
    # Counted here: the command may run on a machine with another number of cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(cores // processes))
    signal.signal(signal.SIGUSR1, lambda number, frame: (work / NOTICE).touch())
    sys.argv[1:] = [*words, *worker]
    runpy.run_module("torch.distributed.run", run_name="__main__")


def enough_cores(environment: Mapping[str, str], processes: int) -> int:
    """The cores that this task may use. Raises UserError if its `processes` ranks would share them."""
    cores = len(os.sched_getaffinity(0))
    host, given = environment.get("SLURMD_NODENAME", "this machine"), environment.get("SLURM_CPUS_ON_NODE", "?")
    found = f"{host}: {processes} rank{'s' * (processes > 1)}, {cores} core{'s' * (cores > 1)} (Slurm gave the step {given})"
    print(found, flush=True)
    if cores < processes:
        raise UserError(
            f"{found}: expected a core for each rank; set hardware.srun=[--cpus-per-task=N] with N of {processes} or more, or "
            "hardware.threads, or lower hardware.devices"
        )
    return cores


def meeting_options(environment: Mapping[str, str]) -> list[str]:
    """torchrun's options for where the agents meet, and this agent's place among them. Raises UserError outside a Slurm step.

    Static, so that Slurm's order of the machines is that of the ranks, and rank 0 is where the group's store is. torchrun's
    dynamic rendezvous sorts machines by name, n10 before n9 (torch 2.13, `sorted(state.participants)` in
    dynamic_rendezvous.py), and the agent that hosts it ends with its own ranks, which may then be the others.
    """
    host_list = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
    if not host_list or "SLURM_JOB_ID" not in environment:
        raise UserError("not in a Slurm step: SLURM_JOB_ID or SLURM_STEP_NODELIST is not set; start this with srun")
    port = rendezvous_port(environment["SLURM_JOB_ID"], environment.get("SLURM_STEP_ID", "0"))
    place = environment.get("SLURM_NODEID", "0")
    return ["--rdzv-backend=static", f"--rdzv-endpoint={first_host(host_list)}:{port}", f"--node-rank={place}"]


def first_host(host_list: str) -> str:
    """The network address of the first machine in Slurm's compressed list: n1 of `n[1-3,7],m2`.

    A machine's Slurm name may be unknown to the network; its NodeAddr is the address Slurm itself uses.
    """
    first = _scontrol("show", "hostnames", host_list).split()[0]
    address = re.search(r"\bNodeAddr=(\S+)", _scontrol("show", "node", first))
    return address[1] if address else first


def _scontrol(*words: str) -> str:
    command = ["scontrol", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", "") or str(error)
        raise UserError(
            f"`{' '.join(command)}` failed: {detail.strip()}; Slurm's scontrol must be on the PATH of every machine"
        ) from error
    return done.stdout


def rendezvous_port(job: str, step: str) -> int:
    """A port that is the same on every machine of a step and differs between steps that run at the same time."""
    return FIRST_PORT + (int(job) * 31 + int(step)) % PORT_COUNT


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])

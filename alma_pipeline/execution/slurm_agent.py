"""Runs on each machine of a Slurm step: finds the first machine and becomes a torchrun agent that joins the others there.
Slurm's notice before the time limit, SIGUSR1, it passes on as the file `notice` in the work folder.

    srun ... python alma_pipeline/start.py alma_pipeline.execution.slurm_agent TORCHRUN_WORDS...

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
from alma_pipeline.execution.launch import rendezvous_options
from alma_pipeline.job import NOTICE

FIRST_PORT = 15000
PORT_COUNT = 15000
"""Size of the port range, which ends below Linux's ephemeral ports (ip_local_port_range: 32768 and above)."""


def main() -> None:
    """Be the agent in this process, which srun's signals reach; SIGUSR1 reaches no rank, as torchrun does not pass it on."""
    try:
        options = [*slurm_rendezvous(os.environ), *sys.argv[1:]]
    except UserError as error:
        sys.exit(str(error))
    # srun starts it in the work folder.
    signal.signal(signal.SIGUSR1, lambda number, frame: Path(NOTICE).touch())
    sys.argv[1:] = options
    runpy.run_module("torch.distributed.run", run_name="__main__")


def slurm_rendezvous(environment: Mapping[str, str]) -> list[str]:
    """The rendezvous options for torchrun. Raises UserError outside a Slurm step."""
    host_list = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
    if not host_list or "SLURM_JOB_ID" not in environment:
        raise UserError("not in a Slurm step: SLURM_JOB_ID or SLURM_STEP_NODELIST is not set; start this with srun")
    # Set is_host explicitly: torchrun compares host names, and a machine's Slurm name may differ from its own.
    host = "true" if environment.get("SLURM_NODEID", "0") == "0" else "false"
    endpoint = f"{first_host(host_list)}:{rendezvous_port(environment['SLURM_JOB_ID'], environment.get('SLURM_STEP_ID', '0'))}"
    return [*rendezvous_options(endpoint), f"--rdzv-conf=is_host={host}"]


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
    main()

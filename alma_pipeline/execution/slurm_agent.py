"""What srun starts on each node: finds the first node of the step, and becomes a torchrun agent that meets the others there.

    srun ... python -m alma_pipeline.execution.slurm_agent TORCHRUN_WORDS...

Not a launcher of its own: it knows Slurm's environment and nothing of the job. Slurm alone can tell the address, because
the nodes are chosen when srun is granted them.
"""

import os
import re
import subprocess
import sys
from collections.abc import Mapping

from alma_pipeline.errors import UserError
from alma_pipeline.execution.launch import rendezvous, torchrun

FIRST_PORT = 15000
PORTS = 15000
"""Below what Linux hands out to clients, 32768 and above (ip_local_port_range)."""


def main() -> None:
    """Become the agent; this process's id is what srun signals."""
    try:
        words = [*meeting(os.environ), *sys.argv[1:]]
    except UserError as error:
        sys.exit(str(error))
    sys.stdout.flush()
    os.execv(sys.executable, torchrun(words))


def meeting(environment: Mapping[str, str]) -> list[str]:
    """The rendezvous words for torchrun. Raises UserError outside a Slurm step."""
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
    if not nodes or "SLURM_JOB_ID" not in environment:
        raise UserError("no Slurm step here: SLURM_JOB_ID and SLURM_STEP_NODELIST are not set; srun starts this on each node")
    # The first node is said to be the host: its Slurm name need not be the name by which it knows itself.
    host = "true" if environment.get("SLURM_NODEID", "0") == "0" else "false"
    endpoint = f"{first_host(nodes)}:{port(environment['SLURM_JOB_ID'], environment.get('SLURM_STEP_ID', '0'))}"
    return [*rendezvous(endpoint), f"--rdzv-conf=is_host={host}"]


def first_host(nodes: str) -> str:
    """The address at which Slurm itself reaches the first of a compressed list: of `n[1-3,7],m2` that of n1.

    A node's Slurm name need not be known to the network; its NodeAddr is.
    """
    first = _scontrol("show", "hostnames", nodes).split()[0]
    address = re.search(r"\bNodeAddr=(\S+)", _scontrol("show", "node", first))
    return address[1] if address else first


def _scontrol(*words: str) -> str:
    command = ["scontrol", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", "") or str(error)
        raise UserError(f"`{' '.join(command)}` failed: {detail.strip()}; Slurm's scontrol must be on the nodes' PATH") from error
    return done.stdout


def port(job: str, step: str) -> int:
    """The same on every node of a step, and another one for another step at the same time."""
    return FIRST_PORT + (int(job) * 31 + int(step)) % PORTS


if __name__ == "__main__":
    main()

"""A real Slurm cluster of two two-core nodes on this machine, on sockets and ports of its own. Needs root, as slurmd does.

As on many sites a job gets little memory per core by default, and a task is bound to the cores that Slurm gave it.
"""

import os
import random
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "srun", "squeue", "scontrol", "sinfo", "munged")
NODES = ("n9", "n10")
"""Slurm's order, which is not that of the words."""
CPUS = 2
MEMORY = 1000
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmUser=root
ProctrackType=proctrack/pgid
TaskPlugin=task/affinity
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
FirstJobId={ports[0]}
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldPort={ports[0]}
MpiDefault=none
KillWait=5
OverTimeLimit=1
NodeName=n[9-10] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[1]}-{ports[2]}] CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes=n[9-10] Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be no cluster here; empty when there can."""
    absent = [name for name in PROGRAMS if not shutil.which(name)]
    if absent:
        return f"no Slurm here: {', '.join(absent)} not found (Debian: apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "Slurm's slurmd wants root"


class Cluster:
    """Its daemons live until `close`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "state").mkdir()
        (folder / "munge.key").write_bytes(secrets.token_bytes(128))
        (folder / "munge.key").chmod(0o600)
        text = CONFIGURATION.format(host=socket.gethostname(), folder=folder, ports=free_ports(), cpus=CPUS, memory=MEMORY)
        (folder / "slurm.conf").write_text(text)
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        at = [f"--{name}-file={self.folder}/munge.{name}" for name in ("key", "log", "pid", "seed")]
        self._daemon("munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket", *at)
        self._daemon("slurmctld", "-D")
        for node in NODES:
            self._daemon("slurmd", "-D", "-N", node)
        until = time.monotonic() + 60
        while self.ask("sinfo", "-h", "-t", "idle", "-o", "%D") != "2":
            assert time.monotonic() < until, self.ask("sinfo") + self.logs()
            time.sleep(0.2)

    def _daemon(self, *words: str) -> None:
        with open(self.folder / "daemons.log", "ab") as log:
            process = subprocess.Popen(words, env=self.environment, stdout=log, stderr=log, start_new_session=True)
        self._daemons.append(process)

    def ask(self, *words: str) -> str:
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    def jobs(self) -> str:
        """One line for each allocation there is."""
        return self.ask("squeue", "-h", "-o", "%j %T %D")

    def logs(self) -> str:
        return (self.folder / "daemons.log").read_text(errors="replace")[-3000:]

    def close(self) -> None:
        for process in reversed(self._daemons):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_ports() -> list[int]:
    """Three in a row that nobody listens on; below what clients are given. Chance keeps clusters that start together apart.

    The first is also that of the jobs' numbers, from which the ports of the ranks' meetings follow.
    """
    for first in random.SystemRandom().sample(range(30_000, 32_700, 3), 900):
        with socket.socket() as one, socket.socket() as two, socket.socket() as three:
            try:
                for number, probe in enumerate((one, two, three)):
                    probe.bind(("", first + number))
            except OSError:
                continue
            return [first, first + 1, first + 2]
    raise OSError("no free ports")

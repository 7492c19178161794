"""A whole parent process on fake stages: python -m helpers.fake_stages.parent STORE MODE STEPS

server: workers are forked from the warm server; beside: two at a time, on another recipe; sweep, "sweep back": three recipes;
command: started by a launcher of their own, as torchrun's are; slurm: by srun, one on each of two nodes.
"""

import os
import sys
from pathlib import Path

from stages.fake.config import Config as Fake
from stages.fake_many.config import Config as FakeMany

from alma_pipeline.cli import interruption
from alma_pipeline.errors import StageFailed, UserError
from alma_pipeline.execution import fork_client, launch
from alma_pipeline.execution.runner import Runner
from alma_pipeline.plan.plan import Step
from alma_pipeline.schema import Hardware
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store
from helpers.fake_stages.recipes import LOCAL, PAIR, chain, changed, diamond, planned
from helpers.fake_stages.world import Told

HARDWARE = {
    "server": LOCAL,
    "beside": PAIR,
    "sweep": LOCAL,
    "sweep back": LOCAL,
    "command": Hardware(name="test", launcher="torchrun"),
    "slurm": Hardware(name="test", launcher="slurm", nodes=2),
}


class Aloud(Told):
    def waiting(self, text: str) -> None:
        print("waiting", text, flush=True)

    def ended(self, step: Step, status: str, record: Record | None, work: Path) -> None:
        print(step.node.name, status, flush=True)


def _alone(hardware: Hardware, work: Path, token: str) -> list[str]:
    """The command line of a worker without a launcher."""
    return [sys.executable, "-m", "alma_pipeline.execution.worker", str(work), token]


def main(root: Path, mode: str, steps: int) -> int:
    interruption.handle_signals()
    fork_client.PRELOADED = ("alma_pipeline.execution.worker",)  # type: ignore[assignment]  # mypy takes a tuple's length for its type
    if mode == "command":
        launch.command = _alone
    hardware = HARDWARE[mode]
    config = diamond(steps) if mode == "beside" else chain(steps, FakeMany if mode in ("command", "slurm") else Fake, hardware)
    ends = {"sweep": "xyz", "sweep back": "zyx"}.get(mode, "")
    configs = [changed(config, "c", text=text) for text in ends] or [config]
    store = Store(root)
    root.mkdir(exist_ok=True)
    launcher = launch.Launcher(hardware, root)
    try:
        for config in configs:
            runner = Runner(store, hardware, launcher, [Aloud()], {"pid": os.getpid()})
            runner.run(planned(config, store))
            print("text", runner.done[[*config.stages][-1]].result["text"], flush=True)
        return 0
    except UserError as error:
        print(error, flush=True)
        return 2
    except StageFailed as error:
        print(error, flush=True)
        return 1
    except KeyboardInterrupt as error:
        return interruption.exit_code(error)
    finally:
        launcher.close()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))

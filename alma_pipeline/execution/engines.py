"""What decodes, before anything runs: is vLLM there where a node asks for it, and can it work on this hardware?"""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec

from alma_pipeline.errors import UserError
from alma_pipeline.plan.plan import Plan
from alma_pipeline.schema import Decoding, Hardware
from alma_pipeline.schema.decoding import VLLM_MISSING


def check(plan: Plan, hardware: Hardware) -> None:
    """Raises UserError, naming all that is missing, when a node that is to run decodes by what cannot be had."""
    decoding = {step.node.name: step.node.config for step in plan.work}
    check_each({name: node.engine for name, node in decoding.items() if isinstance(node, Decoding)}, hardware)


def check_each(engines: Mapping[str, str], hardware: Hardware) -> None:
    """`engines` by who asks for them. Raises UserError, naming all that is missing, when one cannot be had."""
    asking = [name for name, engine in engines.items() if engine == "vllm"]
    problems = list(_problems(hardware)) if asking else []
    if problems:
        raise UserError("\n".join([*problems, f"asked for by {', '.join(asking)}"]))


def _problems(hardware: Hardware) -> Iterator[str]:
    if not find_spec("vllm"):
        yield VLLM_MISSING
    if hardware.device != "cuda":
        yield f"engine=vllm needs a GPU, found hardware.device={hardware.device}; take hardware=gpu1 or gpu8, or engine=own"
    if hardware.nodes > 1 or hardware.launcher == "slurm":
        yield (
            "engine=vllm works in one process, on the devices of the machine that this command runs on, found "
            f"hardware.launcher={hardware.launcher} and nodes={hardware.nodes}; run this again there with hardware=gpu1 or gpu8: "
            "what is trained is taken as it is"
        )

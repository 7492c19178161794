"""Checks, before anything runs, that the plan's scorers, decoding engines and launcher can be used on this machine (B47).

It asks no network: whether the hub grants access to a model is known when `downloads` requests it, which is next.
"""

import os
import shutil
from collections.abc import Iterator, Mapping

from alma_pipeline.errors import UserError
from alma_pipeline.execution import downloads
from alma_pipeline.paths import comet_interpreter, vllm_interpreter
from alma_pipeline.plan.plan import Plan
from alma_pipeline.schema import PRECISION_BYTES, Decoding, Hardware, Neural

GATED = frozenset(
    {
        "Unbabel/wmt22-cometkiwi-da",
        "Unbabel/wmt23-cometkiwi-da-xl",
        "Unbabel/wmt23-cometkiwi-da-xxl",
        "Unbabel/XCOMET-XL",
        "Unbabel/XCOMET-XXL",
    }
)
"""Models that require accepting their licence, CC BY-NC-SA 4.0 (their pages)."""
PARAMETERS = {"-xxl": 10.7e9, "-xl": 3.5e9}
"""Parameters by the end of a model's name (their pages)."""
MAX_OTHER_PARAMETERS = 0.6e9
"""All other models are smaller."""
LOADING_BYTES = 8
"""Bytes of main memory per parameter: COMET fills an fp32 model from an fp32 checkpoint (measured: 8.06 for 202M parameters)."""
WORKING_BYTES = 2e9
"""Memory beside the weights, for a batch and the libraries (our assumption)."""


def check(plan: Plan, hardware: Hardware) -> None:
    """Check every node that is about to run. Raises UserError that lists everything missing."""
    check_scorers(downloads.scorers_of(plan), hardware)
    configs = {step.node.name: step.node.config for step in plan.work}
    check_engines({name: config.engine for name, config in configs.items() if isinstance(config, Decoding)}, hardware)
    if any(step.config.distributed for step in plan.work):
        check_launcher(hardware)


def check_scorers(scorers: Mapping[str, Neural], hardware: Hardware) -> None:
    """Check COMET's Python and each neural scorer. Raises UserError that lists everything missing."""
    if not scorers:
        return
    comet_interpreter(hardware.comet_python)
    problems = [text for name, scorer in scorers.items() for text in _scorer_problems(name, scorer, hardware)]
    if problems:
        raise UserError("\n".join(problems))


def check_engines(engines: Mapping[str, str], hardware: Hardware) -> None:
    """Check the decoding engine of each node, by node name. Raises UserError that lists everything missing."""
    nodes = [name for name, engine in engines.items() if engine == "vllm"]
    problems = list(_vllm_problems(hardware)) if nodes else []
    if problems:
        raise UserError("\n".join([*problems, f"required by {', '.join(nodes)}"]))


def check_launcher(hardware: Hardware) -> None:
    """Check the programs and files of the launcher. Raises UserError that lists everything missing."""
    problems = []
    program = {"slurm": "srun", "deepspeed": "pdsh" if hardware.nodes > 1 else "ssh"}.get(hardware.launcher)
    if program and not shutil.which(program):
        found = f"hardware.launcher={hardware.launcher} with hardware.nodes={hardware.nodes}"
        problems.append(f"{found} starts processes with {program}, which is not on the PATH; run this where it is")
    machines = int(os.environ.get("SLURM_JOB_NUM_NODES", hardware.nodes))
    if hardware.launcher == "slurm" and machines < hardware.nodes:
        yours = f"job {os.environ.get('SLURM_JOB_ID')}, in which this runs, has {machines} machine{'s' * (machines > 1)}"
        problems.append(f"hardware.nodes={hardware.nodes}, but {yours}; set hardware.nodes={machines}, or request a larger job")
    if hardware.launcher == "deepspeed" and not os.path.isfile(str(hardware.hostfile)):
        problems.append(f"hardware.hostfile={hardware.hostfile}: no such file; expected lines as `first-machine slots=8`")
    if problems:
        raise UserError("\n".join(problems))


def _scorer_problems(name: str, scorer: Neural, hardware: Hardware) -> Iterator[str]:
    # Memory: main memory on a CPU, where COMET loads in fp32; device memory otherwise.
    parameters = next((count for end, count in PARAMETERS.items() if scorer.model.lower().endswith(end)), MAX_OTHER_PARAMETERS)
    on_cpu = hardware.device == "cpu"
    needed = (parameters * (LOADING_BYTES if on_cpu else PRECISION_BYTES[scorer.precision]) + WORKING_BYTES) / 1e9
    if needed > (machine_gb() if on_cpu else hardware.memory_gb):
        available = f"this machine has {machine_gb():.1f}" if on_cpu else f"hardware.memory_gb is {hardware.memory_gb:g}"
        yield (
            f"scorers.{name}: {scorer.model} in {scorer.precision} needs about {needed:.1f} GB, but {available}; "
            "use a smaller model or other hardware"
        )
    if not scorer.model.endswith(".ckpt"):
        yield from _hub_problems(name, scorer)


def _hub_problems(name: str, scorer: Neural) -> Iterator[str]:
    """What prevents loading a model from the hub, as far as this machine knows."""
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HFValidationError

    # A cached copy at this very revision needs neither network nor token.
    try:
        if downloads.is_cached(scorer.model, scorer.revision):
            return
    except HFValidationError:
        yield f"scorers.{name}.model={scorer.model}: expected OWNER/NAME of a hub repository, or a .ckpt file"
        return
    page = f"https://huggingface.co/{scorer.model}"
    if constants.HF_HUB_OFFLINE:
        yield (
            f"scorers.{name}: {scorer.model} at {scorer.revision} is not in {constants.HF_HUB_CACHE} and HF_HUB_OFFLINE is set; "
            f"download it once without HF_HUB_OFFLINE: {page}"
        )
    elif scorer.model in GATED and not get_token():
        yield (
            f"scorers.{name}: {scorer.model} is gated: accept its licence at {page} and set HF_TOKEN to a token of that account, "
            "or log in with `hf auth login`"
        )


def _vllm_problems(hardware: Hardware) -> Iterator[str]:
    try:
        vllm_interpreter(hardware.vllm_python)
    except UserError as error:
        yield str(error)
    if hardware.nodes > 1 or hardware.launcher == "slurm":
        yield (
            "engine=vllm runs on the devices of this machine, found "
            f"hardware.launcher={hardware.launcher} and nodes={hardware.nodes}; run the command again there with hardware=gpu1 "
            "or gpu8: trained checkpoints are reused"
        )


def machine_gb() -> float:
    """Main memory of this machine in GB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9

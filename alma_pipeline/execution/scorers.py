"""Neural scorers before anything runs: is COMET's Python there, the model, its licence, the memory? (B47)

Looks at this machine only: whether the hub grants a model is known when it is asked, and `ml.neural` says what it answered.
"""

import os
from collections.abc import Iterator, Mapping

from alma_pipeline.errors import UserError
from alma_pipeline.paths import comet_interpreter
from alma_pipeline.plan.plan import Plan
from alma_pipeline.schema import PRECISION_BYTES, Hardware, Neural, WithScorers

LICENSED = frozenset(
    {
        "Unbabel/wmt22-cometkiwi-da",
        "Unbabel/wmt23-cometkiwi-da-xl",
        "Unbabel/wmt23-cometkiwi-da-xxl",
        "Unbabel/XCOMET-XL",
        "Unbabel/XCOMET-XXL",
    }
)
"""Models that the hub gives to accounts which accepted their licence, CC BY-NC-SA 4.0 (their pages)."""
PARAMETERS = {"-xxl": 10.7e9, "-xl": 3.5e9}
"""By the end of a model's name (their pages); the others are below 0.6e9."""
WEIGHTS = "checkpoints/model.ckpt"
"""Of a COMET repository."""
LOADING = 8
"""Bytes a parameter in main memory: COMET fills an fp32 model from an fp32 checkpoint beside it (measured: 8.06 of 202M)."""
WORKING = 2e9
"""Bytes beside the weights for a batch and the libraries (our assumption)."""


def check(plan: Plan, hardware: Hardware) -> None:
    """Raises UserError, naming all that is missing, when a node that is to run scores by a model that cannot be had."""
    wanted: dict[str, Neural] = {}
    for step in plan.work:
        if isinstance(step.node.config, WithScorers):
            wanted |= step.node.config.scorers
    check_each(wanted, hardware)


def check_each(wanted: Mapping[str, Neural], hardware: Hardware) -> None:
    """Raises UserError, naming all that is missing, when one of these cannot be had."""
    if not wanted:
        return
    comet_interpreter(hardware.comet_python)
    problems = [text for name, scorer in wanted.items() for text in _problems(name, scorer, hardware)]
    if problems:
        raise UserError("\n".join(problems))


def _problems(name: str, scorer: Neural, hardware: Hardware) -> Iterator[str]:
    size = next((count for end, count in PARAMETERS.items() if scorer.model.lower().endswith(end)), 0.6e9)
    on_cpu = hardware.device == "cpu"
    needed = (size * (LOADING if on_cpu else PRECISION_BYTES[scorer.precision]) + WORKING) / 1e9
    if needed > (machine_gb() if on_cpu else hardware.memory_gb):
        there = f"this machine has {machine_gb():.1f}" if on_cpu else f"hardware.memory_gb says {hardware.memory_gb:g}"
        yield (
            f"scorers.{name}: {scorer.model} in {scorer.precision} needs about {needed:.1f} GB, and {there}; "
            "take a smaller model or other hardware"
        )
    if not scorer.model.endswith(".ckpt"):
        yield from _not_to_be_had(name, scorer)


def _not_to_be_had(name: str, scorer: Neural) -> Iterator[str]:
    """What keeps a model of the hub from being loaded, as far as this machine knows."""
    from huggingface_hub import constants, get_token, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        if isinstance(try_to_load_from_cache(scorer.model, WEIGHTS, revision=scorer.revision), str):
            return
    except HFValidationError:
        yield f"scorers.{name}.model={scorer.model}: expected OWNER/NAME of a repository of the hub, or a .ckpt file"
        return
    page = f"https://huggingface.co/{scorer.model}"
    if constants.HF_HUB_OFFLINE:
        yield (
            f"scorers.{name}: {scorer.model} at {scorer.revision} is not in {constants.HF_HUB_CACHE} and HF_HUB_OFFLINE is set; "
            f"fetch it once without that: {page}"
        )
    elif scorer.model in LICENSED and not get_token():
        yield (
            f"scorers.{name}: {scorer.model} is given to those who accepted its licence, and there is no token; accept it on "
            f"{page} and set HF_TOKEN to a token of that account, or log in with `hf auth login`"
        )


def machine_gb() -> float:
    """Main memory; `hardware.memory_gb` is what training may take of it."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9

"""Downloads the scorers of a plan from the hub before anything runs, so that no rank of a node waits for a download.

Other downloads are nodes of one process: published models (`base`, `released`) and text (`corpus`, released preferences).
"""

from collections.abc import Callable, Mapping

from alma_pipeline.ml.scoring import comet
from alma_pipeline.plan.plan import Plan
from alma_pipeline.schema import Hardware, Neural, WithScorers

CHECKPOINT = "checkpoints/model.ckpt"
"""The weights in a COMET repository, which are downloaded last."""


def scorers_of(plan: Plan) -> dict[str, Neural]:
    """The neural scorers that the plan's work needs, by name."""
    configs = [step.node.config for step in plan.work]
    return {name: scorer for config in configs if isinstance(config, WithScorers) for name, scorer in config.scorers.items()}


def download(scorers: Mapping[str, Neural], hardware: Hardware, report: Callable[[str], None]) -> None:
    """Download each scorer that is not in the hub's cache, one after another; `report` gets a line before each.

    COMET's Python does it and shows the progress on standard error. Raises UserError for one that cannot be had.
    """
    for model, revision in dict.fromkeys((scorer.model, scorer.revision) for scorer in scorers.values()):
        if not model.endswith(".ckpt") and not is_cached(model, revision):
            report(f"downloading the scorer {model}, once")
            comet.download(Neural(model=model, revision=revision), hardware)


def is_cached(model: str, revision: str) -> bool:
    """Whether the hub's cache has a COMET model at this very revision. Raises HFValidationError for no name of a repository."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(model, CHECKPOINT, revision=revision), str)

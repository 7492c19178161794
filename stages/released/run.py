"""Import a published checkpoint: download it, check that it is complete and fits its base, and keep it as an artifact."""

from typing import Any

from alma_pipeline.job import Job
from alma_pipeline.ml.models.hub import snapshot
from alma_pipeline.ml.models.released import import_adapter, import_full
from stages.released.config import Config


def run(job: Job) -> dict[str, Any]:
    """Input, for an adapter: `init`, the checkpoint under it. Writes a checkpoint. Returns what is known of its origin."""
    config: Config = job.config
    source = snapshot(config.repo, config.revision, adapter=config.form == "adapter", log=job.log)
    if config.form == "full":
        return import_full(source, job.out) | {"trained_on": config.trained_on}
    init = job.inputs["init"]
    merged = init.adapter_keys[:-1] if config.adapter == "continue" else init.adapter_keys
    return import_adapter(source, init, merged, config.named_base, job.out) | {"trained_on": config.trained_on}

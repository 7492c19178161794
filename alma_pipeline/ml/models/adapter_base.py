"""Whether an adapter from elsewhere was trained on the base that it is put on: by content if that is here, else by name.

Shapes and keys are compared elsewhere (`released`, `load`).
"""

import json
import os
from contextlib import nullcontext
from pathlib import Path

import torch
from safetensors import SafetensorError

from alma_pipeline.errors import UserError
from alma_pipeline.job import Input
from alma_pipeline.ml.models.full_weights import full_weights, read_tensor, tensor_files
from alma_pipeline.ml.models.hub import Snapshot

HEAD = "lm_head.weight"
"""A model with tied weights may be stored with or without it."""


def check_trained_on(source: Snapshot, base: Input, merged: int, folder: str, work: Path) -> None:
    """Raises UserError if the adapter was trained on another model than `base` with its first `merged` adapters merged.

    `folder`: the folder that the adapter names as its base, empty if it is not here. Its weights decide, not its name.
    `work`: where merged weights are kept meanwhile, in fp32.
    """
    if folder:
        try:
            different = _first_difference(Path(folder), base, base.adapters[:merged], work)
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"the adapter of {source.repo} names {folder} as its base, whose weights cannot be read ({error}); repair that "
                "folder, or move it away, and the name decides"
            ) from error
        if different:
            raise UserError(
                f"the adapter of {source.repo} was trained on the model in {folder}, but here its base is "
                f"{Path(base.path).name}, which has other weights ({different}). Adopt it on its own base"
            )
        return
    named = json.loads((source.folder / "adapter_config.json").read_text()).get("base_model_name_or_path") or ""
    ours = {Path(base.base).name, str(base.result.get("repo") or "")}
    # Only OWNER/NAME identifies a model; the base is known by folder name and, if imported, by repository.
    informative = named and not os.path.isabs(named) and not named.startswith((".", "~"))
    if informative and named not in ours:
        here = " = ".join(sorted(filter(None, ours)))
        raise UserError(
            f"the adapter of {source.repo} was trained on {named}, but here its base is {here}. Adopt it on its own base; "
            f"if {named} is a folder, run adopt from where it can be found, and the weights decide; if it is the same model "
            "under another name, set base_model_name_or_path in a copy's adapter_config.json and adopt the copy"
        )


def _first_difference(folder: Path, base: Input, adapters: list[str], work: Path) -> str:
    """The first tensor in which a model folder differs from the base with these adapters merged; empty if none does.

    Values are compared in the lower of the two precisions, since an export may have been cast.
    """
    theirs = tensor_files(folder)
    with full_weights(base, adapters, "fp32", work) if adapters else nullcontext(Path(base.base)) as merged:
        ours = tensor_files(merged)
        lacking = sorted((set(theirs) ^ set(ours)) - {HEAD})
        if lacking:
            return f"{lacking[0]} is in one of them only"
        for name in sorted(set(theirs) & set(ours)):
            one, other = read_tensor(theirs[name], name), read_tensor(ours[name], name)
            lower = min(one.dtype, other.dtype, key=lambda dtype: dtype.itemsize)
            if one.shape != other.shape or not torch.equal(one.to(lower), other.to(lower)):
                return f"the first is {name}"
    return ""

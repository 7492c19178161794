"""The config group `from`: settings that node files take over from other groups, so that no file lists them one by one.

`/from/budget/cpo@_here_` in a defaults list sets every field of `budget.cpo`: `steps: ${budget.cpo.steps}` and so on.
`/from/model/lora@lora` does the same for `model.lora`, under the node's `lora`.
"""

import dataclasses
import functools

from omegaconf import DictConfig, OmegaConf

from alma_pipeline.config.late_nodes import LateNode, late_node
from alma_pipeline.schema import Architecture, Budget, Cleaning, Data, Horizon, Lora, PreferenceBudget, Source


def groups() -> dict[str, dict[str, LateNode]]:
    """The group's folders and files, as Hydra's config store holds them."""
    budgets = {item.name: item.type for item in dataclasses.fields(Budget) if item.type in (Horizon, PreferenceBudget)}
    sources = {item.name: Source for item in dataclasses.fields(Data) if item.type is Source}
    models = {"architecture": Architecture, "lora": Lora, "group_lora": Lora}
    return {
        folder: {
            f"{name}.yaml": late_node(f"from/{folder}", name, functools.partial(_references, folder, name, schema))
            for name, schema in files.items()
        }
        for folder, files in (("budget", budgets), ("data", sources | {"cleaning": Cleaning}), ("model", models))
    }


def _references(group: str, name: str, schema: type) -> DictConfig:
    """A reference to each field of `group.name`."""
    settings = {item.name: f"${{{group}.{name}.{item.name}}}" for item in dataclasses.fields(schema)}
    if schema is Source:
        # One setting holds for all sources of a data option; the plan fills in `files`.
        settings["on_error"] = "${data.on_error}"
        del settings["files"]
    return OmegaConf.create(settings)

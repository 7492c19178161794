"""The config group `from`: settings that node files take over from other groups, so that no file lists them one by one.

`/from/budget/cpo@_here_` in a defaults list sets every field of `budget.cpo`: `steps: ${budget.cpo.steps}` and so on.
`/from/model/lora@lora` does the same for `model.lora`, under the node's `lora`.
"""

import dataclasses

from hydra.core.config_store import ConfigStore

from alma_pipeline.schema import Architecture, Budget, Cleaning, Data, Horizon, Lora, PreferenceBudget, Source


def register() -> None:
    """Add the group `from` to Hydra's config store."""
    for item in dataclasses.fields(Budget):
        if item.type in (Horizon, PreferenceBudget):
            _store("budget", item.name, item.type)
    for item in dataclasses.fields(Data):
        if item.type is Source:
            # One setting holds for all sources of a data option; `files` is filled in by the plan.
            _store("data", item.name, Source, files=None, on_error="${data.on_error}")
    _store("data", "cleaning", Cleaning)
    _store("model", "architecture", Architecture)
    _store("model", "lora", Lora)
    _store("model", "group_lora", Lora)


def _store(group: str, name: str, schema: type, **instead: str | None) -> None:
    """The entry for `group.name`: an interpolation for each field; `instead` replaces some of them, or with None omits them."""
    settings = {item.name: f"${{{group}.{name}.{item.name}}}" for item in dataclasses.fields(schema)} | instead
    node = {key: value for key, value in settings.items() if value}
    ConfigStore.instance().store(group=f"from/{group}", name=name, node=node)

"""Composes schema, overrides and search path into one tree with Hydra, and splits a grid into jobs. Checks no values."""

import dataclasses
import functools
import os
import sys
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alma_pipeline.config import shared_settings
from alma_pipeline.config.late_nodes import late_node
from alma_pipeline.config.locate import SEARCH_PATH, config_folders
from alma_pipeline.config.overrides import unreadable
from alma_pipeline.errors import ConfigError, UserError
from alma_pipeline.paths import CONF
from alma_pipeline.schema import Config, Data, Source
from alma_pipeline.schema.kinds import kind_config, kinds, thaw

SOURCES = [item.name for item in dataclasses.fields(Data) if item.type is Source]
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, OSError)
"""What Hydra raises for overrides and files that do not compose; OSError for a file that is not a mapping."""


def register() -> None:
    """Put the typed schema where the defaults lists of the YAML files find it. Can be called repeatedly."""
    repo = ConfigStore.instance().repo
    if "schema.yaml" not in repo:
        repo["kind"] = {f"{kind}.yaml": late_node("kind", kind, functools.partial(_kind_schema, kind)) for kind in kinds()}
        repo["schema.yaml"] = late_node(None, "schema", _schema)
        repo["from"] = shared_settings.groups()


def _kind_schema(kind: str) -> DictConfig:
    node: DictConfig = thaw(OmegaConf.structured(kind_config(kind)))
    if "outputs" in node:
        OmegaConf.set_struct(node.outputs, False)  # users choose the names of systems
    return node


def _schema() -> DictConfig:
    node: DictConfig = thaw(OmegaConf.structured(Config))
    OmegaConf.set_struct(node.groups, False)  # the graph checks its names; it knows the groups of the run
    # Users choose the names of systems, columns and table entries; `check` knows which entries and keys there can be.
    tables = (node.scorers, node.languages, node.data.probabilities, node.evaluation.controls)
    for names in (*tables, node.evaluation.outputs, *(node.data[source].columns for source in SOURCES)):
        OmegaConf.set_struct(names, False)
    return node


def compose_tree(overrides: list[str], hydra: bool = False) -> DictConfig:
    """The composed tree. `hydra`: include Hydra's own node. Raises Hydra's exceptions unchanged (COMPOSITION_ERRORS)."""
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides, return_hydra_config=hydra)


def split(overrides: list[str]) -> list[list[str]]:
    """Every combination of a grid's values. Raises ConfigError for words that are not overrides."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        found = [unreadable(text) for text in overrides if not readable(parser, text)]
        if found:
            raise ConfigError(found)
        jobs: list[list[str]] = BasicSweeper.split_arguments(parser.parse_overrides(overrides), None)[0]
    return jobs


def readable(parser: OverridesParser, override: str) -> bool:
    """Whether Hydra can parse an override, and finds a key in it."""
    try:
        return bool(parser.parse_override(override).key_or_group)
    except HydraException:
        return False


def with_search_path(overrides: list[str], config_dirs: list[str]) -> list[str]:
    """Overrides that include each `--config-dir DIR` in the form Hydra reads. Raises UserError for a missing folder."""
    # A typo in a path would otherwise surface as an unknown option.
    folders = [Path(text).expanduser().absolute() for text in config_dirs]
    for folder in folders:
        if not folder.is_dir():
            raise UserError(
                f"--config-dir {folder}: no such folder; expected a folder of options, as in {folder}/experiment/mine.yaml"
            )
    own = [text for text in overrides if text.lstrip("+").startswith(SEARCH_PATH)]
    missing = [path for path in config_folders(own)[1:] if "://" not in str(path) and not path.is_dir()]
    if missing:
        raise UserError(f"{SEARCH_PATH}: {', '.join(map(str, missing))}: no such folder")
    if not folders:
        return list(overrides)
    if own:
        raise UserError(f"--config-dir and {SEARCH_PATH} exclude each other; use --config-dir, which can be repeated")
    quoted = ",".join("'file://" + str(folder).replace("\\", "\\\\").replace("'", "\\'") + "'" for folder in folders)
    return [f"{SEARCH_PATH}=[{quoted}]", *overrides]


def run_hydra(words: list[str], task: Any) -> int:
    """Run Hydra's own command line. Its exceptions pass through."""
    import hydra

    register()
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = [sys.argv[0], *words]
    hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(task)()
    return 0

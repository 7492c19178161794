"""The groups of options in the configuration folder, read from its file names. Composes nothing."""

from pathlib import Path

BUILDING_BLOCKS = ("kind", "languages", "node", "released")
"""Folders that other files include; their files are not options."""


def option_groups(conf: Path) -> dict[str, list[str]]:
    """The options of each group, both sorted by name."""
    folders = sorted(path for path in conf.iterdir() if path.is_dir() and path.name not in BUILDING_BLOCKS)
    options = {folder.name: sorted(path.stem for path in folder.glob("*.yaml")) for folder in folders}
    return {group: names for group, names in options.items() if names}


def node_names(conf: Path) -> list[str]:
    """The node names of all stages, sorted."""
    return sorted(path.stem for path in (conf / "node").glob("*.yaml"))

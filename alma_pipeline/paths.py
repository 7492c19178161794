"""Where things are: this installation's root and configuration folder, and the store. Imports nothing of the house."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
"""Beside this package in a checkout and in an installed wheel alike."""


def store_root() -> Path:
    """Where everything a run leaves is kept; `ALMA_PIPELINE_STORE`, else `.alma` in the current folder."""
    return Path(os.environ.get("ALMA_PIPELINE_STORE") or ".alma").expanduser().absolute()

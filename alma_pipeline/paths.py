"""Where things are: this installation's root and configuration folder, and the store. Imports nothing of the house."""

import os
from pathlib import Path

from alma_pipeline.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
"""Beside this package in a checkout and in an installed wheel alike."""
COMET_PYTHON = ROOT / ".venv-comet" / "bin" / "python"
"""Where `make comet` puts COMET's Python."""


def store_root() -> Path:
    """Where everything a run leaves is kept; `ALMA_PIPELINE_STORE`, else `.alma` in the current folder."""
    return Path(os.environ.get("ALMA_PIPELINE_STORE") or ".alma").expanduser().absolute()


def comet_interpreter(given: str | None) -> Path:
    """COMET's Python. Raises UserError where there is none."""
    path = Path(given).expanduser() if given else COMET_PYTHON
    if path.is_file():
        return path
    raise UserError(
        f"COMET runs in an environment of its own, whose Python was expected at {path} and is not there. Run `make comet`, or "
        "name a Python that has unbabel-comet with evaluation.comet.python=PATH"
    )

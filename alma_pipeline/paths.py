"""Paths of the installation, its configuration and the store. Imports only `errors`."""

import os
import sys
from pathlib import Path

from alma_pipeline.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
"""Next to this package, both in a checkout and in an installed wheel."""
COMET_PYTHON = ROOT / ".venv-comet" / "bin" / "python"
"""The interpreter that `make comet` installs."""
VLLM_PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
"""The interpreter that `make vllm` installs."""


def store_root() -> Path:
    """Root of the store: `ALMA_PIPELINE_STORE`, else `.alma` in the current folder. Raises UserError for an unreadable name."""
    root = Path(os.environ.get("ALMA_PIPELINE_STORE") or ".alma").expanduser().absolute()
    try:
        str(root).encode()
    except UnicodeEncodeError as error:  # records and jobs hold paths, in UTF-8
        raise UserError(
            f"the store's path {str(root)!r} has bytes that the locale's encoding, {sys.getfilesystemencoding()}, does not read; "
            "set PYTHONUTF8=1, or ALMA_PIPELINE_STORE to a folder with a plain name"
        ) from error
    return root


def comet_interpreter(given: str | None) -> Path:
    """The Python that runs COMET: `given`, else `COMET_PYTHON`. Raises UserError if it does not exist."""
    path = Path(given).expanduser() if given else COMET_PYTHON
    if path.is_file():
        return path
    raise UserError(
        f"COMET runs in its own environment, and its Python was expected at {path} but does not exist. Run `make comet`, or "
        "set evaluation.comet.python=PATH to a Python that has unbabel-comet"
    )


def vllm_interpreter(given: str | None) -> Path:
    """The Python that runs vLLM: `given`, else `VLLM_PYTHON`. Raises UserError if it does not exist."""
    path = Path(given).expanduser() if given else VLLM_PYTHON
    if path.is_file():
        return path
    raise UserError(
        f"engine=vllm runs in its own environment, and its Python was expected at {path} but does not exist. Run `make vllm`, or "
        "set decoding.vllm.python=PATH to a Python that has vllm; engine=native needs nothing"
    )

"""A file that a verb writes for its user: checked before the work begins, and written as a whole at its end."""

import os
import secrets
import shutil
import tempfile
from pathlib import Path

from alma_pipeline.errors import UserError

STANDARD_OUTPUT = "-"
ANOTHER = "give another path with --output FILE"


def check(path: Path) -> None:
    """Raise UserError if `write` could not write this file. Creates nothing that stays."""
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder; expected a file: {ANOTHER}")
        if path.exists():
            if not os.access(path, os.W_OK):
                raise UserError(f"{path} cannot be written: no permission; {ANOTHER}")
            return
    except OSError as error:
        raise _refused(path, error) from error
    check_beside(path)


def check_beside(path: Path, advice: str = ANOTHER) -> None:
    """Raise UserError if nothing can be created in the folder of this path, or in the nearest one above it that exists."""
    try:
        # Permissions can allow what a full or read-only file system refuses, so a file is created.
        with tempfile.TemporaryFile(dir=_existing_folder(path)):
            pass
    except OSError as error:
        raise _refused(path, error, advice) from error


def write(path: Path, text: str) -> None:
    """Write atomically, in UTF-8; folders are created. Raises UserError if the path cannot be written."""
    try:
        if path.exists() and not path.is_file():  # a pipe or a device, which a rename would replace
            path.write_text(text, encoding="utf-8")
        else:
            _replace(path.resolve(), text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _refused(path, error) from error


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".tmp-{secrets.token_hex(4)}")
    try:
        draft.write_text(text, encoding="utf-8")
        if path.exists():
            shutil.copymode(path, draft)
        os.replace(draft, path)
    except PermissionError:
        # The file may be writable where its folder is not.
        path.write_text(text, encoding="utf-8")
    finally:
        draft.unlink(missing_ok=True)


def _existing_folder(path: Path) -> Path:
    """The nearest thing above the path that exists; if it is no folder, writing into it fails."""
    return next(parent for parent in path.absolute().parents if parent.exists())


def _refused(path: Path, error: OSError, advice: str = ANOTHER) -> UserError:
    return UserError(f"{path} cannot be written: {error.strerror}; {advice}")

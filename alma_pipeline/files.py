"""SHA-256 of files, remembered as long as a file's size, time and place stay the same. Knows nothing of what is in them."""

import hashlib
import json
import os
from pathlib import Path

from alma_pipeline.errors import UserError


class Digests:
    """Digests of files; large ones are kept in a file of the store, where there is one that can be written."""

    def __init__(self, cache: Path | None) -> None:
        self.cache = cache
        self._known: dict[str, str] = {}
        if cache and cache.is_file():
            try:
                self._known = json.loads(cache.read_text(encoding="utf-8"))
            except (OSError, ValueError):  # half-written, or nobody's to read: only time is lost
                self._known = {}

    def of(self, path: Path) -> str:
        """The digest in hex. Raises UserError for a file that cannot be read."""
        try:
            facts = path.stat()
            # The inode and the time of change too: a copy that keeps the old time (`cp -p`) is another file.
            mark = f"{path}|{facts.st_size}|{facts.st_mtime_ns}|{facts.st_ctime_ns}|{facts.st_ino}"
            if mark not in self._known:
                with open(path, "rb") as file:
                    self._known[mark] = hashlib.file_digest(file, "sha256").hexdigest()
                self._keep()
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        return self._known[mark]

    def _keep(self) -> None:
        if not self.cache or not self.cache.parent.is_dir() or not os.access(self.cache.parent, os.W_OK):
            return
        draft = self.cache.with_name(f"{self.cache.name}.{os.getpid()}")
        try:
            draft.write_text(json.dumps(self._known, indent=0), encoding="utf-8")
            os.replace(draft, self.cache)
        except OSError:  # a full disk: the next plan reads the file again
            draft.unlink(missing_ok=True)

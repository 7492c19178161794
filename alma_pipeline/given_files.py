"""The files that a job reads from outside the store: whether they are what its settings name by digest. Reads no text."""

import os
from collections.abc import Mapping
from pathlib import Path

from alma_pipeline.errors import UserError
from alma_pipeline.files import DigestCache


class GivenFiles:
    """Files outside the store, as they were when the job began.

    The kernel notes every write in a file's times. A file whose size and times are those of its digest was not written to, so
    what was read in between, once, twice or in part, is what the digest names.
    """

    def __init__(self, paths: Mapping[str, str], digests: DigestCache) -> None:
        """`paths`: SHA-256 to path; that of a scorer's checkpoint is its revision, `sha256:...`."""
        self._digests = digests
        self._expected = {Path(path): digest.removeprefix("sha256:") for digest, path in paths.items()}
        self._seen = {path: path.stat() for path in self._expected if path.exists()}

    def verify(self) -> None:
        """Compare every file with its digest. Raises UserError for one that changed since the plan, or cannot be read."""
        for path, expected in self._expected.items():
            if (found := self._digests.of(path)) != expected:
                raise UserError(
                    f"{path} changed after the plan was made: expected the SHA-256 {expected[:12]}…, found {found[:12]}…. "
                    "Run the same command again to use the file as it is now"
                )

    def check_unchanged(self) -> None:
        """Raise UserError if a file changed since the job began, even if it has its old content again."""
        for path, before in self._seen.items():
            if not path.exists():
                raise UserError(f"{path} was removed while it was read. Put it back, and run the same command again")
            now = path.stat()
            written = (before.st_size, before.st_mtime_ns) != (now.st_size, now.st_mtime_ns)
            if written or (_moved(before, now) and self._digests.of(path) != self._expected[path]):
                raise UserError(
                    f"{path} changed while it was read; nothing that was read since is kept. Once the file is complete, run the "
                    "same command again"
                )
            self._seen[path] = now


def _moved(before: os.stat_result, now: os.stat_result) -> bool:
    """Whether the file's entry changed, as by a hard link, a new owner or `cp -p`: its content may be another."""
    return (before.st_ctime_ns, before.st_ino) != (now.st_ctime_ns, now.st_ino)

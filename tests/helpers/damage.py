"""Files harmed on purpose."""

import time
from pathlib import Path


def flip(file: Path) -> None:
    """Flip one bit, at a time that the file system can tell from the last one."""
    time.sleep(0.01)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)

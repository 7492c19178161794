"""Stages that write small text files instead of training, and what runs the real machinery on them.

Importing this puts them beside the real kinds, in this process; `site/` does it in every Python process of a test.
"""

from pathlib import Path

import stages

KINDS = Path(__file__).parent / "kinds"
stages.__path__.append(str(KINDS))

"""Python imports this at its start when the folder is on PYTHONPATH: every worker then knows the fake kinds."""

from pathlib import Path

import stages

stages.__path__.append(str(Path(__file__).parent.parent / "kinds"))

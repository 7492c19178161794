"""Python imports this at its start when the folder is on PYTHONPATH: every worker then knows the fake kinds."""

import sys
from pathlib import Path

CHECKOUT = str(Path(__file__).parents[4])

# The package, not the folder of its tests, which comes before it on the path.
sys.path.insert(0, CHECKOUT)
import stages  # noqa: E402

sys.path.remove(CHECKOUT)
stages.__path__.append(str(Path(__file__).parent.parent / "kinds"))

"""What tests share: tiny models, files and stores to run on, and stand-ins for servers. Nothing here is a test."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHONPATH = os.pathsep.join(map(str, [ROOT / "tests", ROOT]))
"""For child processes: they find these helpers and the code of this checkout, whatever else is installed."""
ALTERED = os.pathsep.join([str(ROOT / "tests" / "helpers" / "altered_engine"), PYTHONPATH])
"""As PYTHONPATH, and training takes longer or finds its device full, as the environment says."""

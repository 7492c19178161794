"""What each kind of node does: one folder per kind, with its settings in `config.py` (no torch) and its work in `run.py`."""

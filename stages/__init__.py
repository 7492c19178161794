"""What the recipe does: one folder per kind, `config.py` (no torch) and `run.py` (read top to bottom)."""

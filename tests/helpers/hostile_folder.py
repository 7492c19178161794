"""A working folder whose files must never be imported."""

import sys
from pathlib import Path

OTHERS = ("torch", "numpy", "transformers", "yaml", "omegaconf", "conf", "helpers", "wandb", "sitecustomize", "usercustomize")
PACKAGES = ("stages", "hydra_plugins", "hydra", "deepspeed", "mlflow")


def hostile(folder: Path, spared: set[str]) -> Path:
    """A folder with a module of each name that might be imported, which writes its name down instead."""
    folder.mkdir()
    text = f"open({str(folder / 'imported.txt')!r}, 'a').write(__name__ + '\\n'); raise ImportError(__file__)\n"
    for name in {*sys.stdlib_module_names, *OTHERS} - spared:
        (folder / f"{name}.py").write_text(text)
    for name in PACKAGES:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(text)
    return folder


def imported(folder: Path) -> list[str]:
    file = folder / "imported.txt"
    return file.read_text().split() if file.exists() else []

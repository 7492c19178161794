"""How a Python process of this project starts: with its own packages and the installed ones, and nothing from the working folder.

    python -P alma_pipeline/start.py MODULE WORDS...

runs a module as `python -m` would. `__main__` and every worker start through this file; it knows nothing of what they do.
"""

import importlib
import os
import runpy
import signal
import sys
from collections.abc import MutableMapping

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
PACKAGES = ("alma_pipeline", "stages")
UNSUITABLE = ("PYTHONOPTIMIZE", "PYTHONWARNINGS", "PYTHONINSPECT", "PYTHONSTARTUP")
"""Variables that break libraries (transformers reads its own docstrings, warnings must not be errors) or wait for a terminal."""


def command(module: str, *words: str) -> list[str]:
    """The command line that starts a module of this project."""
    return [sys.executable, "-P", *script(module, *words)]


def script(module: str, *words: str) -> list[str]:
    """The same for launchers, which put Python and its options in front."""
    return [os.path.abspath(__file__), module, *words]


def set_import_path() -> None:
    """Load this project's packages from beside this file, then take the user's folders off the path, for child processes too.

    Packages come first: another `stages` on the path would shadow ours, and a checkout is one of the user's folders.
    """
    sys.path.insert(0, ROOT)
    for name in PACKAGES:
        importlib.import_module(name)
    sys.path.remove(ROOT)
    private = _private_folders()
    sys.path[:] = [entry for entry in sys.path if _resolved(entry) not in private]
    set_variables(os.environ)


def set_variables(values: MutableMapping[str, str]) -> None:
    """Change an environment so that a Python process started with it works, and imports nothing from the working folder."""
    for name in UNSUITABLE:
        values.pop(name, None)
    values["PYTHONSAFEPATH"] = "1"
    values["PYTHONIOENCODING"] = "utf-8"
    # Python takes an empty entry for the working folder.
    private = _private_folders()
    entries = [os.path.abspath(entry) for entry in values.pop("PYTHONPATH", "").split(os.pathsep)]
    if kept := [entry for entry in entries if _resolved(entry) not in private]:
        values["PYTHONPATH"] = os.pathsep.join(kept)


def _private_folders() -> set[str]:
    """Folders that hold files of the user's own: the working folder, and a checkout's root."""
    folders = {_resolved("")}
    if os.path.exists(os.path.join(ROOT, "pyproject.toml")):
        return folders | {ROOT}
    return folders - {ROOT}  # installed: other packages are there


def _resolved(entry: str) -> str:
    return os.path.realpath(entry or os.curdir)


def main(module: str) -> None:
    """Run a module; the words after it are its arguments."""
    # The parent ends its workers. A closed terminal or Slurm may signal them too, and they would end before it can report why.
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    del sys.argv[:1]
    runpy.run_module(module, run_name="__main__")


if __name__ in ("__main__", "__mp_main__"):  # the latter in processes that multiprocessing spawns
    set_import_path()
if __name__ == "__main__":
    main(sys.argv[1])

"""MLflow's SQLite database: its address, its schema, and the folders that it names. Does not import MLflow."""

import atexit
import functools
import importlib.metadata
import importlib.util
import os
import re
import shlex
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from alma_pipeline.errors import PipelineError, UserError
from alma_pipeline.lease import Lease
from alma_pipeline.mounts import Reach, reach

LOCK_SECONDS = 120
"""Timeout of the lock: creating the database takes seconds on a local disk. A process that waits longer retries later."""
FILE, ARTIFACTS = "mlflow.db", "mlartifacts"
"""What MLflow has in a store."""
PREFIX = "sqlite:///"
REVISION = re.compile(r"^(down_)?revision(?:: [^=]+)? = (.+)$", re.MULTILINE)
"""A line of Alembic's migration scripts."""
PLACES = (("runs", "artifact_uri"), ("logged_models", "artifact_location"))
"""Columns that start with the artifact folder of their experiment."""
NETWORK_DISKS = (
    "nfs",
    "cifs",
    "smb",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "glusterfs",
    "afs",
    "panfs",
    "weka",
    "fuse.",
    "9p",
)


def tracking_uri(root: Path) -> str:
    """MLFLOW_TRACKING_URI, or else the SQLite database in the store."""
    return os.environ.get("MLFLOW_TRACKING_URI") or own_uri(root)


def own_uri(root: Path) -> str:
    """The address of the store's own database."""
    return f"{PREFIX}{root.absolute() / FILE}"


def check_path(root: Path) -> None:
    """Raise UserError for a store whose own database would land elsewhere, because its path means something in an address."""
    # Encoding does not help: MLflow opens the decoded path, but makes the folders of the encoded one.
    if not os.environ.get("MLFLOW_TRACKING_URI") and re.search(r"\?|%[0-9A-Fa-f]{2}", str(root.absolute())):
        raise UserError(
            f"the store {root}: MLflow cannot open a database whose path contains ? or an escape such as %20; set "
            "ALMA_PIPELINE_STORE to another folder, or MLFLOW_TRACKING_URI to a database or server elsewhere, or tracking=none"
        )


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite address; None for any other."""
    return Path(unquote(uri.removeprefix(PREFIX).partition("?")[0])) if uri.startswith(PREFIX) else None


def lock(root: Path) -> FileLock:
    """The lock of what must exist once in MLflow, across the processes that use this store."""
    return FileLock(root / "mlflow.lock", timeout=LOCK_SECONDS)


def check_sole_writer(uri: str) -> None:
    """Keep the processes of other machines out of an SQLite database for as long as this process lives.

    Only where file locks may not reach them: there SQLite's would not either, and two writers would damage the file. Raises
    PipelineError if another process writes it.
    """
    path = sqlite_file(uri)
    if path is not None and path.parent.is_dir() and reach(path.parent) is not Reach.ALL:
        _become_sole_writer(path)


@functools.cache
def _become_sole_writer(path: Path) -> None:
    lease = Lease(path.with_name(f"{path.name}.writer"))
    if not lease.acquire_unless_held():
        raise PipelineError(
            f"another process writes {path}, and the locks of its file system may not reach all machines; set "
            "MLFLOW_TRACKING_URI to a server that all of them use"
        )
    atexit.register(lease.release)


def where(root: Path) -> str:
    """How a person gets to MLflow: a command that can be pasted, the server's address, or why there is nothing to see."""
    uri = tracking_uri(root)
    file = sqlite_file(uri)
    if problem := schema_problem(uri):
        return problem
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    if file is None or not file.is_file():
        return f"nothing was recorded yet in {file}"
    follow_move(root)
    return shlex.join(["mlflow", "ui", "--host", "127.0.0.1", "--backend-store-uri", uri])


def create_database(client_class: Any, uri: str) -> None:
    """Create an SQLite file under a temporary name: one interrupted during MLflow's migrations is unusable for ever."""
    path = sqlite_file(uri)
    if path is None or path.exists() or f"{PREFIX}{path}" != uri:
        return
    folder = path.with_name(f"{path.name}.new")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    client_class(tracking_uri=f"{PREFIX}{folder}/draft.db")
    shutil.copyfile(folder / "draft.db", folder / "copy.db")  # the draft is still open in this process
    os.replace(folder / "copy.db", path)
    shutil.rmtree(folder)


def schema_problem(uri: str) -> str:
    """Why the installed MLflow cannot use an SQLite database, and what to do; empty if it can, or if there is none."""
    file = sqlite_file(uri)
    if file is None or not file.is_file():
        return ""
    try:
        with closing(_read_only(file)) as database:
            if not database.execute("SELECT name FROM sqlite_master").fetchall():
                return ""  # MLflow fills an empty file
            [(found,)] = database.execute("SELECT version_num FROM alembic_version").fetchall()
    except (sqlite3.Error, ValueError) as error:
        return f"{file} cannot be used by MLflow ({error}); if it is damaged, move it away, and a new one is made"
    known, newest = _revisions()
    if found == newest:
        return ""
    version = f"MLflow {importlib.metadata.version('mlflow')}"
    if found in known:
        upgrade = shlex.join(["mlflow", "db", "upgrade", uri])
        return f"{file} is of an older MLflow (its schema is {found}, and {version} needs {newest}): copy it, then run {upgrade}"
    return f"{file} is of a newer MLflow ({version} does not know its schema {found}): install that one, or move the file away"


def misplaced(root: Path) -> list[tuple[int, str]]:
    """Experiments of the store's own database that name the artifact folder of another place, as after a move: (id, address).

    An experiment of another store that shares this database is in its right place.
    """
    with closing(_read_only(root / FILE)) as database:
        found = []
        for experiment, location in database.execute("SELECT experiment_id, artifact_location FROM experiments").fetchall():
            runs = [run for (run,) in database.execute("SELECT run_uuid FROM runs WHERE experiment_id = ?", (experiment,))]
            folder = local_folder(location)
            if folder and folder.name == ARTIFACTS and not _is_right(folder, root, runs):
                found.append((experiment, location))
    return found


def follow_move(root: Path) -> None:
    """`mend_places` where there is something to mend and the store can be written, for a reader that does not connect."""
    if (root / FILE).is_file() and os.access(root, os.W_OK) and misplaced(root):
        with lock(root):
            mend_places(root)


def mend_places(root: Path) -> None:
    """Make `misplaced` experiments, their runs and their models name the store's own artifact folder. Call it under `lock`."""
    new = (root.absolute() / ARTIFACTS).as_uri()
    for experiment, old in misplaced(root):
        with closing(sqlite3.connect(root / FILE, timeout=20)) as database, database:
            database.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (new, experiment))
            for table, column in PLACES:
                database.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE experiment_id = ? AND substr({column}, 1, ?) = ?",
                    (new, len(old) + 1, experiment, len(old) + 1, f"{old}/"),
                )


def local_folder(location: str | None) -> Path | None:
    """The folder of a `file:` address; None for any other."""
    parts = urlsplit(location or "")
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def _read_only(file: Path) -> sqlite3.Connection:
    # A reader of a database with a write-ahead log makes files beside it, which a store of somebody else may not allow, and
    # which a reader without rights to write leaves behind. Where there is no log, nobody has the database open.
    with open(file, "rb") as handle:
        logged = handle.read(19)[18:] == b"\x02"  # the file format's version for reading: 2 is a write-ahead log
    in_use = file.with_name(f"{file.name}-wal").exists() and os.access(file.parent, os.W_OK)
    fixed = "&immutable=1" if logged and not in_use else ""
    return sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro{fixed}", uri=True, timeout=20)


def _is_right(folder: Path, root: Path, runs: list[str]) -> bool:
    """Whether an experiment's folder is the store's own, by any name, or that of another store without a database of its own."""
    if not folder.parent.is_dir():
        return False
    if os.path.samefile(folder.parent, root):
        return True
    return not (folder.parent / FILE).exists() and any((folder / run).is_dir() for run in runs)


def share(uri: str) -> None:
    """Switch an SQLite file to a write-ahead log, so that the UI can read it during writes; not on network file systems."""
    path = sqlite_file(uri)
    if path is None or not path.is_file() or _on_network(path):
        return
    with closing(sqlite3.connect(path, timeout=20)) as database:
        database.execute("PRAGMA journal_mode=WAL")


def _on_network(path: Path) -> bool:
    """Whether a path is on a network file system, which lacks the shared memory that a write-ahead log needs."""
    import psutil

    mounts = [part for part in psutil.disk_partitions(all=True) if path.resolve().is_relative_to(part.mountpoint)]
    deepest = max(mounts, key=lambda part: len(part.mountpoint), default=None)
    return deepest is not None and deepest.fstype.startswith(NETWORK_DISKS)


def _revisions() -> tuple[set[str], str]:
    """Every schema that the installed MLflow knows, and its newest: the one that no migration starts from."""
    spec = importlib.util.find_spec("mlflow")
    assert spec is not None and spec.origin is not None
    scripts = (Path(spec.origin).parent / "store" / "db_migrations" / "versions").glob("*.py")
    found: dict[bool, set[str]] = {True: set(), False: set()}
    for script in scripts:
        for down, values in REVISION.findall(script.read_text(encoding="utf-8")):
            found[bool(down)].update(re.findall(r"[\"'](\w+)[\"']", values))
    [newest] = found[False] - found[True]
    return found[False], newest

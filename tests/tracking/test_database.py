"""MLflow's database in the store: an address for every path, other MLflow versions, and stores that were moved or copied."""

import os
import shlex
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from alma_pipeline import heartbeat
from alma_pipeline.cli import doctor, main
from alma_pipeline.errors import PipelineError, UserError
from alma_pipeline.mounts import Reach
from alma_pipeline.report.sides import find_side
from alma_pipeline.schema import Tracking
from alma_pipeline.tracking import Tracker, check_uri, database
from alma_pipeline.tracking.runs import invocation_plans
from alma_pipeline.tracking.server import connect
from helpers.another_machine import start
from helpers.tracking import copy_database, free_port, invocation, one_run, runs, warnings

ODD = "a store's #1 50% &"


def execute(root: Path, statement: str, *values: str) -> list[Any]:
    with closing(sqlite3.connect(root / "mlflow.db")) as opened, opened:
        return opened.execute(statement, values).fetchall()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """A store, in a folder with an odd name, whose database has an invocation, a node and a model; not to be changed."""
    root = tmp_path_factory.mktemp("odd") / ODD / "store"
    copy_database(empty_database, root)
    one_run(Tracker(root, Tracking(name="t", system_metrics=False), invocation()), root.parent / "work")
    return root


def read(root: Path) -> dict[tuple[str, str], str]:
    """By MLflow's API: the content of every artifact of every run, by the run's name and its path."""
    client = MlflowClient(tracking_uri=database.own_uri(root))
    found = {}
    for name, run in runs(client, Tracking(name="t")).items():
        for folder in client.list_artifacts(run.info.run_id):
            for file in client.list_artifacts(run.info.run_id, folder.path):
                with tempfile.TemporaryDirectory() as target:
                    found[name, file.path] = Path(client.download_artifacts(run.info.run_id, file.path, target)).read_text()
    return found


@pytest.mark.parametrize("name", ["a?b", "a%41b", "what?"])
def test_a_path_that_no_address_can_name_is_refused_at_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database would land in `a`, in `aAb`, in `what`: beside the store, and be the one of many stores."""
    with pytest.raises(UserError, match=r"ALMA_PIPELINE_STORE .*MLFLOW_TRACKING_URI .*tracking=none"):
        check_uri(tmp_path / name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://h:5000")
    check_uri(tmp_path / name)


def test_plan_refuses_such_a_path_and_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALMA_PIPELINE_STORE", str(tmp_path / "a?b"))
    with pytest.raises(UserError, match=r"a\?b: MLflow cannot open a database whose path contains \?"):
        main._main(["plan", "stage=mono"])
    assert list(tmp_path.iterdir()) == []


def test_addresses_and_files() -> None:
    assert database.own_uri(Path("/home/me/.alma")) == "sqlite:////home/me/.alma/mlflow.db"
    assert database.sqlite_file("sqlite:////a%20b/x.db?timeout=5") == Path("/a b/x.db")
    assert [database.sqlite_file(uri) for uri in ("http://h:5000", "postgresql://h/d", "databricks")] == [None] * 3


def test_the_database_is_in_the_store_and_the_command_can_be_pasted(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sorted(path.name for path in filled.parent.parent.iterdir()) == [ODD]
    assert execute(filled, "SELECT name, status FROM runs ORDER BY name") == [
        ("cpo", "FINISHED"),
        ("cpo-tiny-01234567", "FINISHED"),
    ]
    words = shlex.split(database.where(filled))
    assert words[:5] == ["mlflow", "ui", "--host", "127.0.0.1", "--backend-store-uri"]
    assert database.sqlite_file(words[5]) == filled / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://h:5000")
    assert database.where(filled) == "http://h:5000"


def test_there_is_no_command_for_a_database_that_is_not_there(tmp_path: Path) -> None:
    assert database.where(tmp_path) == f"nothing was recorded yet in {tmp_path}/mlflow.db"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ("451aebb31d03", "is of an older MLflow (its schema is 451aebb31d03, and MLflow 3."),
        ("ffffffffffff", "is of a newer MLflow (MLflow 3."),
        (None, "cannot be used by MLflow (file is not a database); if it is damaged, move it away"),
    ],
)
def test_a_database_of_another_mlflow_is_named_with_the_way_out(
    filled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, found: str | None, said: str
) -> None:
    root = shutil.copytree(filled, tmp_path / "it's")
    if found:
        execute(root, "UPDATE alembic_version SET version_num = ?", found)
    else:
        (root / "mlflow.db").write_text("half a file")
    problem = database.schema_problem(database.own_uri(root))
    assert problem.startswith(f"{root}/mlflow.db {said}")
    assert database.where(root) == problem, "and no command that would end with an error"
    tracker = Tracker(root, Tracking(name="t", system_metrics=False), invocation())
    one_run(tracker, tmp_path / "work")
    [warning] = warnings(caplog)
    assert problem in warning, "whole, with what to do"
    [first, second] = doctor.tracking_problems(root)
    assert first == problem and " records wait for MLflow at " in second
    if found == "451aebb31d03":
        assert shlex.split(problem.rpartition("run ")[2]) == ["mlflow", "db", "upgrade", database.own_uri(root)]


def test_a_run_cannot_be_compared_without_an_answer_of_mlflow(
    filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = shutil.copytree(filled, tmp_path / "store")
    execute(root, "UPDATE alembic_version SET version_num = '451aebb31d03'")
    with pytest.raises(UserError, match=r"no artifact 'mine' in .*; .*mlflow.db is of an older MLflow"):
        find_side(root, "mine")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match=r"no artifact 'mine' in .*; MLflow has no answer: API request"):
        find_side(root, "mine")


def test_the_installed_mlflow_made_this_database(filled: Path, tmp_path: Path) -> None:
    assert database.schema_problem(database.own_uri(filled)) == ""
    assert database.schema_problem("http://h:5000") == ""
    (tmp_path / "mine.db").touch()
    assert database.schema_problem(f"sqlite:///{tmp_path}/mine.db") == "", "MLflow fills an empty file"


@pytest.mark.parametrize("left", [True, False], ids=["copied", "moved"])
def test_a_store_in_another_place_has_its_artifacts_there(filled: Path, tmp_path: Path, left: bool) -> None:
    """Earlier runs can be read by MLflow's API, and nothing is written into the old place."""
    old = shutil.copytree(filled, tmp_path / "old")
    connect(old, database.own_uri(old), "alma")
    before = read(old)
    assert before["cpo-tiny-01234567", "config/overrides.yaml"] == "- stage=cpo\n- stages.cpo.beta=0.1\n"
    new = shutil.copytree(old, tmp_path / "new 5% place") if left else old.rename(tmp_path / "new 5% place")
    kept = sorted(old.rglob("*"))
    one_run(Tracker(new, Tracking(name="t", system_metrics=False), invocation("after")), tmp_path / "work", node="later")
    after = read(new)
    assert before.items() < after.items() and ("after", "config/overrides.yaml") in after
    assert sorted(old.rglob("*")) == kept
    places = execute(new, "SELECT artifact_location FROM experiments WHERE name = 'alma' UNION SELECT artifact_uri FROM runs")
    places += execute(new, "SELECT artifact_location FROM logged_models")
    assert len(places) >= 6 and all(place.startswith((new / "mlartifacts").as_uri()) for (place,) in places)


@pytest.mark.parametrize("reader", [database.where, lambda root: invocation_plans(root, "cpo")], ids=["command", "compare"])
def test_what_only_reads_a_moved_database_finds_this_place_in_it(
    filled: Path, tmp_path: Path, reader: Callable[[Path], object]
) -> None:
    """A request with nothing to run does not connect."""
    new = shutil.copytree(filled, tmp_path / "new")
    assert database.misplaced(new) == [(1, (filled / "mlartifacts").as_uri())]
    reader(new)
    assert database.misplaced(new) == []
    assert ("cpo-tiny-01234567", "config/overrides.yaml") in read(new)


def test_a_store_by_another_name_stays_as_it_is(filled: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(filled)
    assert database.misplaced(tmp_path / "link") == []


def test_another_store_that_uses_this_database_keeps_its_folder(
    filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, guest = shutil.copytree(filled, tmp_path / "host"), tmp_path / "guest"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database.own_uri(root))
    settings = Tracking(name="t", experiment="guests", system_metrics=False)
    one_run(Tracker(guest, settings, invocation()), tmp_path / "work")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    connect(root, database.own_uri(root), "alma")
    [(place,)] = execute(root, "SELECT artifact_location FROM experiments WHERE name = 'guests'")
    assert place == (guest / "mlartifacts").as_uri()
    # The guest is moved: its folder is not made again where nobody looks.
    guest.rename(tmp_path / "moved")
    with pytest.raises(
        PipelineError, match=r"experiment 'guests' keeps its files in .*guest/mlartifacts, .*set tracking.experiment"
    ):
        connect(tmp_path / "moved", f"sqlite:///{root}/mlflow.db", "guests")
    assert not os.path.exists(guest)


def test_where_locks_end_at_the_machine_one_process_writes_the_database(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's own locks end there too, and two writers would damage it. Who comes second keeps its records, and tries again."""
    root = tmp_path / "store"
    copy_database(empty_database, root)
    database.check_sole_writer(database.own_uri(root))
    assert not list(root.glob("*.writer*")), "a local disk"
    for module in (database, heartbeat):
        monkeypatch.setattr(module, "reach", lambda folder: Reach.UNKNOWN)
    (root / "locks").mkdir()
    other = start("far", root / "locks", "hold", str(root / "mlflow.db.writer"))
    assert other.stdout is not None and other.stdout.readline() == "has\n"
    with pytest.raises(PipelineError, match=r"another process writes .*mlflow.db.*MLFLOW_TRACKING_URI"):
        connect(root, database.own_uri(root), "alma")
    other.communicate("\n")
    connect(root, database.own_uri(root), "alma")
    connect(root, database.own_uri(root), "another")
    assert heartbeat.Watch(root / "mlflow.db.writer").is_held()

"""What a researcher sees: the run list and the compare page of a real MLflow server in a real browser."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alma_pipeline.schema import Tracking
from alma_pipeline.tracking import Tracker, final_scores, tracking_uri
from helpers.tracking import KEY, MlflowServer, invocation, line, start_node

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.slow
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync"
BETAS = {0.1: 60.25, 0.2: 62.5, 0.4: 58.75}
"""Of three runs: the setting, and the score it leads to."""
WAIT = 120_000
"""Milliseconds; the page is heavy and the machine may be busy."""


def one_run(store: Path, beta: float, score: float) -> None:
    settings = Tracking(name="t", system_metrics=False)
    tracker = Tracker(store, settings, invocation(f"cpo-beta-{beta}", beta))
    start_node(tracker, store / "work" / str(beta), settings={"beta": beta}, key=KEY)
    tracker.metrics("cpo", [line(step, 3.0 / step) for step in range(1, 11)])
    tracker.node_ended("cpo", "FINISHED", {"steps": 10}, store / "log.txt", [])
    result = {"directions": {"en-de": {"chrf++": score}}, "averages": {"en-xx": {"chrf++": score}, "xx-en": {"chrf++": 71.0}}}
    tracker.finished("FINISHED", final_scores({"base": result, "cpo": result}, "cpo"))
    tracker.close(limit=120)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    if BROWSER is None:
        assert os.environ.get("CI") != "true", "CI has to have chromium"
        pytest.skip("no chromium or google-chrome on the PATH")
    store = tmp_path_factory.mktemp("store")
    for beta, score in BETAS.items():
        one_run(store, beta, score)
    server = MlflowServer(tmp_path_factory.mktemp("server"), tracking_uri(store))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def page(server: MlflowServer) -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=FLAGS.split())
        page = browser.new_page(viewport={"width": 1700, "height": 1000})
        page.set_default_timeout(WAIT)
        yield page
        browser.close()


def shoot(page: Any, name: str) -> None:
    """A picture for whoever wants to look, where ALMA_PIPELINE_SCREENSHOTS names a folder."""
    folder = os.environ.get("ALMA_PIPELINE_SCREENSHOTS")
    if folder:
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def runs(server: MlflowServer) -> tuple[str, list[str]]:
    """The experiment, and its outer runs in the order they were made."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=server.uri)
    number = client.get_experiment_by_name("alma").experiment_id
    found = client.search_runs([number], "tags.`alma.level` = 'invocation'", order_by=["attributes.start_time ASC"])
    return number, [run.info.run_id for run in found]


def test_the_saved_view_sorts_invocations_by_score(server: MlflowServer, page: Any) -> None:
    """The run list by itself shows no metric; the view that comes with the experiment does."""
    experiment, _ = runs(server)
    page.goto(f"{server.uri}/#/experiments/{experiment}/runs")
    page.get_by_text("cpo-beta-0.1").first.wait_for()
    shoot(page, "list")
    page.get_by_text("Views", exact=True).click()
    page.get_by_text("Scores", exact=True).click()
    heights = []
    for beta, score in sorted(BETAS.items(), key=lambda item: -item[1]):
        cell = page.get_by_text(str(score), exact=True).first
        cell.wait_for()
        heights.append(cell.bounding_box()["y"])
        assert abs(page.get_by_text(f"cpo-beta-{beta}").first.bounding_box()["y"] - heights[-1]) < 10, "in the same row"
    shoot(page, "scores")
    assert heights == sorted(heights), "best first"
    assert page.get_by_text("cpo", exact=True).count() == 0, "no inner runs"


def test_the_compare_page_shows_settings_and_scores(server: MlflowServer, page: Any) -> None:
    experiment, found = runs(server)
    assert len(found) == 3
    quoted = ",".join(f"%22{run}%22" for run in found)
    page.set_viewport_size({"width": 1700, "height": 2600})
    page.goto(f"{server.uri}/#/compare-runs?runs=[{quoted}]&experiments=[%22{experiment}%22]")
    settings = page.locator("tr", has_text="stages.cpo.beta").filter(has_text="0.1")
    settings.first.wait_for()
    assert [row.inner_text().split() for row in settings.all() if "stage=" not in row.inner_text()] == [
        ["stages.cpo.beta", *map(str, BETAS)]
    ]
    page.get_by_text("eval/avg/en-xx/chrf_pp").last.wait_for()
    shoot(page, "compare")
    assert "\n".join(map(str, BETAS.values())) in page.inner_text("body")

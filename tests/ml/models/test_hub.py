"""Fetching from the hub: what is seen of it while it runs, and one paragraph for every way it can fail. No network."""

import json
from pathlib import Path
from typing import Any

import datasets
import httpx2
import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from alma_pipeline.cli.progress import Progress
from alma_pipeline.errors import UserError
from alma_pipeline.ml.data.readers import hub as hubrows
from alma_pipeline.ml.models import hub
from alma_pipeline.ml.models.hub import RATE, DownloadLog
from alma_pipeline.schema import Source
from helpers.text_files import LANGUAGES, make_job

REPO = "meta-llama/Llama-2-7b-hf"


def answer(status: int) -> httpx2.Response:
    return httpx2.Response(status, request=httpx2.Request("GET", f"https://huggingface.co/{REPO}"))


def quiet(step: int, total: int, metrics: dict[str, float]) -> None: ...


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (GatedRepoError("403 Client Error.\n\nAccess is restricted", response=answer(403)), "is gated, .* has no access"),
        (RepositoryNotFoundError("401 Client Error", response=answer(401)), "does not exist, or is private"),
        (RevisionNotFoundError("404 Client Error", response=answer(404)), f"no such revision .*{REPO}/commits/main"),
        (LocalEntryNotFoundError("Cannot find an appropriate snapshot"), "is not in the cache and could not be downloaded"),
        (ConnectionError("no route to host"), "is not in the cache and could not be downloaded"),
    ],
    ids=["gated", "unknown", "revision", "offline", "no network"],
)
def test_a_model_that_cannot_be_had_is_one_paragraph(monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str) -> None:
    """B47: the repository, the page with the licence, the cache looked in, the variable to set."""

    def fail(*words: Any, **more: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(UserError, match=reason) as caught:
        hub.snapshot(REPO, "main", adapter=False, log=quiet)
    said = str(caught.value)
    for part in (f"{REPO} at revision main", f"licence on https://huggingface.co/{REPO}", constants.HF_HUB_CACHE,
                 "HF_TOKEN is not set", f"{hub.MIRROR}=FOLDER"):  # fmt: skip
        assert part in said, part
    assert "\n" not in said


@pytest.mark.parametrize(
    "error",
    [
        datasets.exceptions.DatasetNotFoundError("Dataset 'oscar-corpus/OSCAR-2301' is a gated dataset on the Hub."),
        GatedRepoError("403 Client Error.\n\nAccess is restricted", response=answer(403)),
        ConnectionError("Couldn't reach the Hub: offline mode"),
        httpx2.ConnectError("no route to host"),
    ],
    ids=["gated", "forbidden", "offline", "no network"],
)
def test_a_data_set_that_cannot_be_had_is_one_paragraph(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*words: Any) -> Any:
        raise error

    monkeypatch.setattr(hubrows, "_open", fail)
    source = Source(reader="hub", repo="oscar-corpus/OSCAR-2301", revision="1" * 40)
    with pytest.raises(UserError) as caught:
        next(hubrows.rows(source, "de", LANGUAGES))
    said = str(caught.value)
    for part in ("oscar-corpus/OSCAR-2301", "1" * 40, "https://huggingface.co/datasets/oscar-corpus/OSCAR-2301", "HF_TOKEN",
                 "HF_HUB_OFFLINE", str(constants.HF_HOME), "data.root=FOLDER", str(error).split("\n")[0]):  # fmt: skip
        assert part in said, part
    assert "\n" not in said


def test_a_download_is_seen_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the bars that the hub's library makes: two of bytes, which overlap, and one of files."""
    (tmp_path / "snapshot").mkdir()

    def fetch(*words: Any, tqdm_class: Any, **more: Any) -> str:
        transfer, written = (tqdm_class(desc=name, total=0, initial=0, unit="B") for name in ("transfer", "written"))
        files = tqdm_class(desc="files", total=2)
        for _ in range(4):
            written.total += 1_000_000_000
            transfer.update(1_500_000_000)
            written.update(900_000_000)
        files.update(1)
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    monkeypatch.setattr(hub, "LOG_SECONDS", 0.0)
    job = make_job(tmp_path, None, {})
    assert hub.snapshot(REPO, "main", adapter=False, log=job.log).commit == "snapshot"
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1_500_000_000, 3_000_000_000, 4_500_000_000, 6_000_000_000], "never back"
    assert all(line["total"] >= line["step"] and line["metrics"][RATE] > 0 for line in lines)
    progress = Progress()
    progress.pace.add([lines[0] | {"total": 26e9, "metrics": {RATE: 43e6}, "time": 0.0}])
    progress.pace.add([lines[1] | {"total": 26e9, "metrics": {RATE: 43e6}, "time": 10.0}])
    assert progress.text() == "3.0 GB of 26 GB · 43 MB/s · 2 min 33 s left"


def test_a_download_tells_no_more_than_a_line_a_second() -> None:
    told: list[int] = []
    download = DownloadLog(lambda step, total, metrics: told.append(step))
    for number in range(1, 1000):
        download(number, 1000)
    assert told == []

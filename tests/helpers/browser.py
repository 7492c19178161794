"""A real browser that opens one file and may ask for nothing else."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync"
PHONE = 400
"""Pixels across."""


@contextmanager
def started() -> Iterator[Any]:
    """Chromium; without one the test is skipped."""
    if BROWSER is None:
        assert os.environ.get("CI") != "true", "CI has to have chromium"
        pytest.skip("no chromium or google-chrome on the PATH")
    with playwright.sync_playwright() as engine:
        found = engine.chromium.launch(executable_path=BROWSER, args=FLAGS.split())
        yield found
        found.close()


@contextmanager
def visiting(browser: Any, file: Path) -> Iterator[Callable[..., Any]]:
    """A function that opens the file at a width and in a theme; complaints and requests fail the test at the end."""
    heard: list[str] = []

    def open_page(width: int = 1280, theme: str = "light") -> Any:
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
        page.on("console", lambda message: heard.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: heard.append(f"error: {error}"))
        page.on("request", lambda request: heard.append(f"request: {request.url}"))
        page.goto(file.as_uri())
        return page

    yield open_page
    assert [text for text in heard if text != f"request: {file.as_uri()}" and not text.startswith("request: data:")] == []

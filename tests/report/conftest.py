"""Where a test of the report writes its page."""

from pathlib import Path

import pytest


@pytest.fixture
def shown(tmp_path: Path) -> Path:
    return tmp_path / "page.html"

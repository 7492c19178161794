"""Where the store is."""

import os

import pytest

from alma_pipeline.errors import UserError
from alma_pipeline.paths import store_root


def test_a_store_whose_name_the_locale_cannot_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALMA_PIPELINE_STORE", os.fsdecode(b"/M\xfcller"))
    with pytest.raises(UserError, match=r"the store's path '/M.udcfcller' has bytes that the locale's encoding, utf-8, does not"):
        store_root()
    monkeypatch.setenv("ALMA_PIPELINE_STORE", "/Müller/数据")
    assert str(store_root()) == "/Müller/数据"

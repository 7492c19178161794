"""What the `corpus` stage refuses to make, and why."""

from pathlib import Path
from typing import Any

import pytest

from alma_pipeline.errors import UserError
from alma_pipeline.job import Input
from alma_pipeline.schema import Source
from helpers.generated_corpus import LANGUAGES, TEST, TRAIN, Made, make_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Input:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"form": "pairs", "pairs": Source(reader="hub", repo="some/pairs")},
            r"cannot read the data set some/pairs, split train",
        ),
        (
            {"form": "pairs", "pairs": Source(reader="candidates")},
            r"reader=candidates has no text of de-en to read; expected cldr, hub or files",
        ),
        (
            {"form": "pairs", "pairs": Source(revision="2.0")},
            "revision=2.0: Babel generates this text, and Babel .* is installed",
        ),
        ({"form": "pairs", "pairs": TEST}, "reader=cldr, split=test: expected split=train"),
        ({"form": "test", "pairs": TRAIN}, "reader=cldr, split=train: expected split=test"),
        ({"form": "test", "pairs": TEST, "held_out": 5000}, r"held_out=5000 for every direction.*has only 793 pairs for de-en"),
        (
            {"form": "documents", "text": TRAIN, "held_out": 5000},
            r"held_out=5000 for every language.*only 194 of en's 194 rows.*own held-out",
        ),
        ({"form": "documents", "text": TRAIN, "train": 1, "block": 4096}, "too few for one block of block=4096"),
        ({"form": "documents", "text": TRAIN, "probabilities": {"de": 0.0}}, "no text to sample from"),
        ({"form": "pairs", "pairs": TRAIN, "languages": {"en": LANGUAGES["en"]}}, "at least one other language; found en"),
        ({"form": "pairs", "pairs": TRAIN, "prompt": "chat"}, "prompt=chat: expected alma or x_alma"),
    ],
)
def test_what_cannot_be_made_is_refused(
    base: Input, tmp_path: Path, settings: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)  # it would try again for half a minute
    with pytest.raises(UserError, match=message):
        Made(tmp_path, {"base": base}, **settings)

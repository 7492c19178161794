"""A script for COMET's Python, not a test: score segments as the worker does and tell which threads encoded text.

PYTHON tests/helpers/comet_encoding.py WORKER CHECKPOINT < SEGMENTS

prints one JSON object: how many segments were cut, and how many threads the tokenizer encoded in.
"""

import importlib.util
import json
import sys
import threading
from pathlib import Path
from typing import Any


def main(worker: str, checkpoint: str) -> None:
    found = importlib.util.spec_from_file_location("comet_worker", worker)
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    model = module.load_model(Path(checkpoint), "fp32", "cpu")
    threads: set[int] = set()
    kind = type(model.encoder.tokenizer)

    class Watched(kind):  # type: ignore[misc, valid-type]
        def set_truncation_and_padding(self, *words: Any, **settings: Any) -> None:
            threads.add(threading.get_ident())
            super().set_truncation_and_padding(*words, **settings)

    model.encoder.tokenizer.__class__ = Watched
    lines = list(module.score_segments(model, json.load(sys.stdin), 4, True))
    print(json.dumps({"cut": sum(line["cut"] for line in lines), "threads": len(threads)}))


if __name__ == "__main__":
    main(*sys.argv[1:])

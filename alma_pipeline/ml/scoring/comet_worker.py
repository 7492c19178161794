"""A COMET model as a process of its own: segments in, scores out, one JSON object a line.

    PYTHON -I comet_worker.py --model MODEL --device cpu --precision fp16 --batch 16 [--without-reference]

It runs under the Python of COMET's own environment, which none of this project's packages share: it imports the standard
library, torch and comet, nothing else. `neural` is the other end.

Out: {"model", "revision", "reference", "joint", "comet"} once the model is found and before it is loaded.
In:  {"id", "src", "mt"} and, where `reference` says so, "ref", a line each; then {"end": how many}.
Out: {"id", "score", "cut"} as each batch is done, batches being what came in a row; at last {"done": how many}.
Anything that goes wrong is {"error": what, "kind": ...} and exit code 1. Without the end line nothing is scored: whoever
was sending is gone.
"""

import argparse
import hashlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

PARTS = ("src", "mt", "ref")
JOINT_CLASSES = "unified_metric", "xcomet_metric"
"""Model classes that read all parts as one sequence, and can do without the reference."""
REFERENCE_CLASSES = "regression_metric", "ranking_metric"


def main(words: list[str]) -> int:
    """Serve one list of segments; the exit code is 1 after an error, which has been told."""
    options = _options().parse_args(words)
    say = _channel()
    try:
        serve(options, say)
    except Exception as error:  # the other end makes a message of it; the log has the traceback
        traceback.print_exc()
        say({"error": " ".join(str(error).split()), "kind": type(error).__name__})
        return 1
    return 0


def serve(options: argparse.Namespace, say: Callable[[dict[str, Any]], None]) -> None:
    """Say what the model is, score the segments of stdin, say each score with its id, then how many."""
    checkpoint, revision = find_checkpoint(options.model, options.revision)
    kind = _kind(checkpoint)
    reference = kind in REFERENCE_CLASSES or (kind in JOINT_CLASSES and not options.without_reference)
    joint = kind in JOINT_CLASSES
    say({"model": options.model, "revision": revision, "reference": reference, "joint": joint, "comet": _version()})
    segments = read_segments()
    if segments:
        model = load_model(checkpoint, options.precision, options.device)
        for line in score_segments(model, segments, options.batch, joint):
            say(line)
    say({"done": len(segments)})


def find_checkpoint(model: str, revision: str) -> tuple[Path, str]:
    """The checkpoint's file and what names its content: the hub's commit, or the SHA-256 of a local file."""
    if model.endswith(".ckpt"):
        path = Path(model).resolve()
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return path, f"sha256:{digest.hexdigest()}"
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(model, revision=revision))
    return folder / "checkpoints" / "model.ckpt", folder.name


def load_model(checkpoint: Path, precision: str, device: str) -> Any:
    """The model in evaluation mode. `comet-score` always computes in half precision."""
    import torch
    from comet import load_from_checkpoint

    model = load_from_checkpoint(str(checkpoint), local_files_only=bool(os.environ.get("HF_HUB_OFFLINE")))
    types = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    return model.eval().to(types[precision]).to(device)


def read_segments() -> list[dict[str, Any]]:
    """The segments, once the end line has said that these are all. Raises EOFError without it."""
    found: list[dict[str, Any]] = []
    for line in sys.stdin.buffer:
        item = json.loads(line)
        if "end" in item:
            if item["end"] != len(found):
                raise EOFError(f"{len(found)} segments arrived, {item['end']} were sent")
            return found
        found.append(item)
    raise EOFError(f"the input ended after {len(found)} segments, without an end line")


def score_segments(model: Any, segments: list[dict[str, Any]], batch: int, joint: bool) -> Iterator[dict[str, Any]]:
    """Scores of segments, batched as they come: whoever sends them puts like lengths together."""
    import torch

    batches = [segments[start : start + batch] for start in range(0, len(segments), batch)]
    with torch.inference_mode():
        for rows, (inputs, cuts) in zip(batches, _ahead(model, batches, joint), strict=True):
            found = model.predict_step(model.transfer_batch_to_device(inputs, model.device, 0))["scores"].float().tolist()
            for row, score, short in zip(rows, found, cuts, strict=True):
                yield {"id": row["id"], "score": score, "cut": short}


def _ahead(model: Any, batches: list[list[dict[str, Any]]], joint: bool) -> Iterator[tuple[Any, list[bool]]]:
    """Of each batch what `_prepared` gives; the next one's is made while the model computes.

    One thread alone encodes: a call sets the tokenizer's truncation anew, for whoever is encoding at that moment too.
    """
    with ThreadPoolExecutor(max_workers=1) as maker:
        coming = maker.submit(_prepared, model, batches[0], joint)
        for rows in batches[1:]:
            ready, coming = coming.result(), maker.submit(_prepared, model, rows, joint)
            yield ready
        yield coming.result()


def _prepared(model: Any, rows: list[dict[str, Any]], joint: bool) -> tuple[Any, list[bool]]:
    """The model's inputs, and of each segment whether they are less than all of it."""
    inputs = model.prepare_for_inference([{part: row[part] for part in PARTS if part in row} for row in rows])
    full = _widest(inputs) >= model.encoder.max_positions - 2  # otherwise nothing was cut, and nothing is counted twice
    return inputs, [full and is_cut(model.encoder, row, joint) for row in rows]


def is_cut(encoder: Any, row: dict[str, Any], joint: bool) -> bool:
    """Whether the encoder saw less than all of a segment: it cuts at its limit, usually 512 pieces, without notice."""
    limit = encoder.max_positions - 2
    parts = [row[part] for part in PARTS if part in row]
    if 2 * sum(map(len, parts)) + 2 <= limit:  # no character takes more than two pieces
        return False
    lengths = [len(encoder.tokenizer(text)["input_ids"]) for text in parts]
    if any(length > limit for length in lengths):
        return True
    special = 1 + len(parts) * encoder.size_separator
    return joint and sum(length - 2 for length in lengths) > encoder.max_positions - special


def _widest(inputs: Any) -> int:
    """Pieces of the longest sequence among a model's inputs: tensors by name, or several such dictionaries (unified, XCOMET)."""
    several = inputs if isinstance(inputs, (list, tuple)) else [inputs]
    tensors = (value for one in several for value in one.values() if getattr(value, "ndim", 0) == 2)  # not XCOMET's offsets
    return max(int(tensor.shape[1]) for tensor in tensors)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, help="a repository of the hub, or a .ckpt file beside its hparams.yaml")
    parser.add_argument("--revision", default="main", help="of the repository")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="fp16")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--without-reference", action="store_true")
    return parser


def _channel() -> Callable[[dict[str, Any]], None]:
    """A writer to the real stdout; what libraries print there goes to the log from now on."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(line: dict[str, Any]) -> None:
        channel.write(json.dumps(line) + "\n")
        channel.flush()

    return say


def _kind(checkpoint: Path) -> str:
    """The model's class, as the hparams.yaml in the folder above the checkpoint's names it."""
    import yaml

    path = checkpoint.parents[1] / "hparams.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: a COMET checkpoint stands in checkpoints/, its hparams.yaml above")
    return str(yaml.safe_load(path.read_text(encoding="utf-8"))["class_identifier"])


def _version() -> str:
    from importlib.metadata import version

    return version("unbabel-comet")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

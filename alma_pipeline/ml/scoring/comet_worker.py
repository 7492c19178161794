"""The worker process that runs a COMET model: segments in, scores out, one JSON object per line.

    PYTHON -I comet_worker.py --model MODEL --device cpu --precision fp16 --batch 16 [--without-reference]
    PYTHON -I comet_worker.py --model MODEL --download        into the hub's cache, and nothing else

It runs in COMET's own environment, without this project's packages, and imports only the standard library, torch, comet and what
comet depends on. `comet.py` is the other side.

Out: {"model", "revision", "reference", "joint", "comet"} when the model is found, before it is loaded.
In:  {"id", "src", "mt"} per segment, with "ref" if `reference` is true; then {"end": number of segments}.
Out: {"id", "score", "cut"} per segment after each batch, a batch being consecutive segments; finally {"done": number}.
An error is {"error": text, "kind": class} and exit code 1. Without the end line nothing is scored: the sender has died.
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
"""Model classes that read all parts as one sequence and can score without a reference."""
ENCODER_FILES = ["config.json", "tokenizer*", "*.model", "vocab*", "special_tokens_map.json", "merges.txt"]
"""What COMET reads of the encoder's own repository: its shape and tokenizer, not its weights (unbabel-comet 2.2.7)."""
REFERENCE_CLASSES = "regression_metric", "ranking_metric"


def main(words: list[str]) -> int:
    """Score one list of segments. Returns 0, or 1 after sending an error."""
    options = _options().parse_args(words)
    send = _channel()
    try:
        (download if options.download else serve)(options, send)
    except Exception as error:  # the other side turns it into a message; the traceback is in the log
        traceback.print_exc()
        send({"error": " ".join(str(error).split()), "kind": type(error).__name__})
        return 1
    return 0


def serve(options: argparse.Namespace, send: Callable[[dict[str, Any]], None]) -> None:
    """Send the greeting, read segments from stdin, send each score with its id, then the number of segments."""
    checkpoint, revision = find_checkpoint(options.model, options.revision)
    kind = _kind(checkpoint)
    reference = kind in REFERENCE_CLASSES or (kind in JOINT_CLASSES and not options.without_reference)
    joint = kind in JOINT_CLASSES
    send({"model": options.model, "revision": revision, "reference": reference, "joint": joint, "comet": _version()})
    segments = read_segments()
    # Everything may be cached already: then the model, which can take minutes, is not loaded.
    if segments:
        model = load_model(checkpoint, options.precision, options.device)
        for line in score_segments(model, segments, options.batch, joint):
            send(line)
    send({"done": len(segments)})


def download(options: argparse.Namespace, _send: Callable[[dict[str, Any]], None]) -> None:
    """Download a model of the hub: first the files of its encoder, so that a cached model is complete."""
    import yaml
    from huggingface_hub import hf_hub_download, snapshot_download

    settings = Path(hf_hub_download(options.model, "hparams.yaml", revision=options.revision))
    encoder = str(yaml.safe_load(settings.read_text(encoding="utf-8"))["pretrained_model"])
    if not Path(encoder).is_dir():
        snapshot_download(encoder, allow_patterns=ENCODER_FILES)
    find_checkpoint(options.model, options.revision)


def find_checkpoint(model: str, revision: str) -> tuple[Path, str]:
    """The checkpoint file and its revision: the hub commit, or the SHA-256 of a local .ckpt file."""
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
    """The model in evaluation mode, in the given precision and on the given device."""
    import torch
    from comet import load_from_checkpoint

    model = load_from_checkpoint(str(checkpoint), local_files_only=bool(os.environ.get("HF_HUB_OFFLINE")))
    types = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    return model.eval().to(types[precision]).to(device)


def read_segments() -> list[dict[str, Any]]:
    """All segments from stdin. Raises EOFError if the end line is missing or its number does not match."""
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
    """One line per segment. Consecutive segments form a batch; the sender sorts them by length."""
    import torch

    batches = [segments[start : start + batch] for start in range(0, len(segments), batch)]
    with torch.inference_mode():
        for rows, (inputs, cuts) in zip(batches, _ahead(model, batches, joint), strict=True):
            found = model.predict_step(model.transfer_batch_to_device(inputs, model.device, 0))["scores"].float().tolist()
            for row, score, short in zip(rows, found, cuts, strict=True):
                yield {"id": row["id"], "score": score, "cut": short}


def _ahead(model: Any, batches: list[list[dict[str, Any]]], joint: bool) -> Iterator[tuple[Any, list[bool]]]:
    """`_prepared` for each batch; the next batch is prepared while the model computes.

    A single thread encodes, because each call changes the tokenizer's truncation, which all threads share.
    """
    with ThreadPoolExecutor(max_workers=1) as executor:
        pending = executor.submit(_prepared, model, batches[0], joint)
        for rows in batches[1:]:
            ready, pending = pending.result(), executor.submit(_prepared, model, rows, joint)
            yield ready
        yield pending.result()


def _prepared(model: Any, rows: list[dict[str, Any]], joint: bool) -> tuple[Any, list[bool]]:
    """The model's inputs, and for each segment whether it was truncated."""
    inputs = model.prepare_for_inference([{part: row[part] for part in PARTS if part in row} for row in rows])
    full = _widest(inputs) >= model.encoder.max_positions - 2  # else nothing was truncated: skip tokenising again
    return inputs, [full and is_cut(model.encoder, row, joint) for row in rows]


def is_cut(encoder: Any, row: dict[str, Any], joint: bool) -> bool:
    """Whether the encoder truncated a segment, which it does silently at its limit, usually 512 pieces."""
    limit = encoder.max_positions - 2
    parts = [row[part] for part in PARTS if part in row]
    if 2 * sum(map(len, parts)) + 2 <= limit:  # no character takes more than two pieces
        return False
    lengths = [len(encoder.tokenizer(text)["input_ids"]) for text in parts]
    if any(length > limit for length in lengths):
        return True
    # Joined parts share one sequence: each loses its own two special tokens, and separators are added.
    special = 1 + len(parts) * encoder.size_separator
    return joint and sum(length - 2 for length in lengths) > encoder.max_positions - special


def _widest(inputs: Any) -> int:
    """Pieces in the longest input sequence. Inputs are tensors by name, or several such dictionaries (unified, XCOMET)."""
    several = inputs if isinstance(inputs, (list, tuple)) else [inputs]
    tensors = (value for one in several for value in one.values() if getattr(value, "ndim", 0) == 2)  # not XCOMET's offsets
    return max(int(tensor.shape[1]) for tensor in tensors)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, help="hub repository, or .ckpt file in checkpoints/ next to hparams.yaml")
    parser.add_argument("--revision", default="main", help="revision of the repository")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="fp16")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--without-reference", action="store_true")
    parser.add_argument("--download", action="store_true")
    return parser


def _channel() -> Callable[[dict[str, Any]], None]:
    """A function that writes to the original stdout; from now on, what libraries print there goes to stderr, the log."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def send(line: dict[str, Any]) -> None:
        channel.write(json.dumps(line) + "\n")
        channel.flush()

    return send


def _kind(checkpoint: Path) -> str:
    """The model class named in hparams.yaml, which is one folder above the checkpoint's. Raises FileNotFoundError without it."""
    import yaml

    path = checkpoint.parents[1] / "hparams.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: expected checkpoints/ with the checkpoint next to hparams.yaml")
    return str(yaml.safe_load(path.read_text(encoding="utf-8"))["class_identifier"])


def _version() -> str:
    from importlib.metadata import version

    return version("unbabel-comet")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

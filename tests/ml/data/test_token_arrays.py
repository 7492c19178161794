"""Token arrays read back as examples."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from alma_pipeline.errors import PipelineError
from alma_pipeline.ml.data import token_arrays
from alma_pipeline.ml.data.token_arrays import read_blocks, read_sequences
from alma_pipeline.ml.training.batching import global_batch_size
from helpers.tiny_model import make_documents, make_pairs


def test_pairs_come_back_as_written(tmp_path: Path) -> None:
    make_pairs(tmp_path, count=5)
    ids, offsets = np.load(tmp_path / "train.tokens.npy"), np.load(tmp_path / "train.offsets.npy")
    split = read_sequences(tmp_path, "train")
    assert len(split.examples) == 5
    assert np.concatenate([example.ids for example in split.examples]).tolist() == ids.tolist()
    assert [example.prompt for example in split.examples] == np.load(tmp_path / "train.prompt.npy").tolist()
    assert split.tokens == len(ids)
    assert split.longest == np.diff(offsets).max()
    assert {example.bytes for example in split.examples} == {0}


def test_slice_is_a_list(tmp_path: Path) -> None:
    make_pairs(tmp_path, count=5)
    found = read_sequences(tmp_path, "train").examples
    assert [example.ids.tolist() for example in found[1:3]] == [found[1].ids.tolist(), found[2].ids.tolist()]


def test_blocks_and_their_dev_documents(tmp_path: Path) -> None:
    make_documents(tmp_path, blocks=7, dev=3, block=16)
    blocks, dev = read_blocks(tmp_path, "train"), read_sequences(tmp_path, "dev")
    assert (len(blocks.examples), blocks.tokens, blocks.longest) == (7, 7 * 16, 16)
    assert blocks.examples[6].ids.tolist() == np.load(tmp_path / "train.blocks.npy")[6].tolist()
    assert {example.prompt for example in (*blocks.examples[:], *dev.examples[:])} == {1}
    assert [example.bytes for example in dev.examples] == np.load(tmp_path / "dev.bytes.npy").tolist()


def test_empty_set_is_read(tmp_path: Path) -> None:
    for name, array in (("tokens", []), ("offsets", [0]), ("prompt", [])):
        np.save(tmp_path / f"dev.{name}.npy", np.array(array, dtype=np.int64))
    split = read_sequences(tmp_path, "dev")
    assert (len(split.examples), split.tokens, split.longest) == (0, 0, 0)


@pytest.mark.parametrize("prompt", [0, 4, 5])
def test_example_without_prompt_or_label_is_refused(tmp_path: Path, prompt: int) -> None:
    """B58"""
    for name, array in (("tokens", [0, 5, 6, 0, 5, 6, 7]), ("offsets", [0, 3, 7]), ("prompt", [1, prompt])):
        np.save(tmp_path / f"train.{name}.npy", np.array(array))
    with pytest.raises(PipelineError, match=f"example 1 has 4 tokens, {prompt} of them prompt"):
        read_sequences(tmp_path, "train")


def test_a_wrong_example_is_named_by_its_place_in_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_arrays, "CHUNK", 2)
    for name, array in (("tokens", [0, 5] * 5), ("offsets", [0, 2, 4, 6, 8, 10]), ("prompt", [1, 1, 1, 2, 1])):
        np.save(tmp_path / f"train.{name}.npy", np.array(array))
    with pytest.raises(PipelineError, match="example 3 has 2 tokens, 2 of them prompt"):
        read_sequences(tmp_path, "train")


def test_a_large_corpus_is_opened_and_its_first_batch_taken_without_reading_it(tmp_path: Path) -> None:
    """Of two million pairs, 160 MB of tokens: opening takes no memory that grows with them, the order 4 bytes a pair."""
    count, length = 2_000_000, 20
    shapes = {"tokens": (np.int32, count * length), "offsets": (np.int64, count + 1), "prompt": (np.int32, count)}
    for name, (dtype, size) in shapes.items():
        array = np.lib.format.open_memmap(tmp_path / f"train.{name}.npy", "w+", dtype, (size,))
        if name != "tokens":  # holes in the file are zeros
            array[:] = 8 if name == "prompt" else np.arange(count + 1) * length
        del array
    tracemalloc.start()
    try:
        split, mapped = read_sequences(tmp_path, "train"), mapped_bytes()
        opened = tracemalloc.get_traced_memory()[1]
        batches = [[split.examples[place] for place in global_batch_size(step, 64, count, seed=1)] for step in range(20)]
        begun = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert mapped_bytes() - mapped < 1e6
    batch = batches[0]
    assert (split.tokens, split.longest, len(batch), len(batch[0].ids)) == (count * length, length, 64, length)
    assert opened < 3e6
    assert begun < 4 * count + 3e6


def mapped_bytes() -> int:
    """Of files, that count as this process's memory; tracemalloc does not see them."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssFile:")[1].split()[0]) * 1024

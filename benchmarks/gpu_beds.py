"""What the cases of `gpu.py` run on: Llamas of random weights in real shapes, sentence pairs of real lengths, and jobs.

No case needs a download. A dry run puts small shapes in the place of the real ones.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from alma_pipeline.config import load
from alma_pipeline.job import Input, Job
from alma_pipeline.ml.device_memory import free_device_memory
from alma_pipeline.schema import Architecture, Hardware, Lora, Model
from alma_pipeline.schema.kinds import kind_config

SHAPES = {
    "1b": Architecture(
        hidden_size=2048, intermediate_size=5504, layers=22, heads=16, kv_heads=16, vocab_size=32000
    ),  # our choice: 1.2 billion parameters
    "7b": Architecture(
        hidden_size=4096, intermediate_size=11008, layers=32, heads=32, kv_heads=32, vocab_size=32000
    ),  # Llama 2 7B, config.json
}
SMALL = Architecture(hidden_size=64, intermediate_size=128, layers=2, heads=2, kv_heads=2, vocab_size=512)
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PROMPT, ANSWER = (40, 120), (20, 90)
"""Lengths in tokens of ALMA's prompts and answers, between which they are drawn."""


@dataclass(frozen=True)
class Bed:
    """Where a case runs."""

    folder: Path
    """Scratch space, shared by the cases, which run one after another."""
    dry: bool
    """On the CPU, with small shapes: to try the script."""

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.dry else "cuda")

    def shape(self, name: str) -> Architecture:
        """The shape of this name; the small one in a dry run."""
        return SMALL if self.dry else SHAPES[name]

    def model(self, name: str) -> Model:
        """Settings of a model of this shape, as the estimate needs them."""
        return dataclasses.replace(load.load(["model=7b"]).model, architecture=self.shape(name))

    def hardware(self, **settings: Any) -> Hardware:
        """One device of 80 GB, as `hardware=gpu1` has it but for `settings`."""
        name = "cpu" if self.dry else "gpu1"
        given = {"memory_gb": 80.0, "zero_stage": 2, "micro_batch_tokens": 512 if self.dry else 8192} | settings
        return dataclasses.replace(load.load([f"hardware={name}"]).hardware, **given)

    def base(self, name: str) -> Input:
        """A base model of random weights in bf16; made at its first use."""
        folder = self.folder / f"base-{name}"
        if not (folder / "tokenizer.json").exists():
            random_llama(self.shape(name), self.device, torch.bfloat16).save_pretrained(folder)
            _save_tokenizer(folder, self.shape(name).vocab_size)
            free_device_memory()  # a case measures its own
        return Input("b" * 64, "base", str(folder), {}, base=str(folder), base_key="b" * 64)

    def pairs(self, count: int, vocabulary: int) -> Input:
        """A corpus of `count` pairs of random tokens, and 8 to measure."""
        folder = self.folder / f"pairs-{count}-{vocabulary}"
        folder.mkdir(exist_ok=True)
        for part, size in (("train", count), ("dev", 8)):
            _save_pairs(folder, part, random_pairs(size, vocabulary))
        return Input("c" * 64, "corpus", str(folder), {})

    def job(self, kind: str, inputs: dict[str, Input], hardware: Hardware, **settings: Any) -> Job:
        """A job of this kind in a work folder of its own."""
        number = len([*self.folder.glob(f"work-{kind}-*")])
        work = self.folder / f"work-{kind}-{number}"
        work.mkdir()
        job = Job(f"benchmark.{kind}", f"{number:064x}", str(work), kind_config(kind)(**settings), hardware, inputs)
        job.out.mkdir()
        return job


def lora(rank: int) -> Lora:
    """A LoRA on all seven matrices without dropout."""
    return Lora(rank=rank, alpha=2.0 * rank, targets=TARGETS)


def random_llama(shape: Architecture, device: torch.device, dtype: torch.dtype) -> LlamaForCausalLM:
    """A Llama whose weights are drawn on the device."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            return LlamaForCausalLM(
                LlamaConfig(
                    hidden_size=shape.hidden_size,
                    intermediate_size=shape.intermediate_size,
                    num_hidden_layers=shape.layers,
                    num_attention_heads=shape.heads,
                    num_key_value_heads=shape.kv_heads,
                    vocab_size=shape.vocab_size,
                    tie_word_embeddings=shape.tied_embeddings,
                    bos_token_id=0,
                    eos_token_id=1,
                    pad_token_id=2,
                )
            )
    finally:
        torch.set_default_dtype(before)


def random_pairs(count: int, vocabulary: int, seed: int = 0) -> list[tuple[list[int], list[int]]]:
    """Prompts and answers of random tokens; each prompt starts with BOS, each answer ends with EOS."""
    draw = np.random.default_rng(seed)

    def ids(limits: tuple[int, int]) -> list[int]:
        return [int(piece) for piece in draw.integers(3, vocabulary, draw.integers(*limits))]

    return [([0, *ids(PROMPT)], [*ids(ANSWER), 1]) for _ in range(count)]


def _save_pairs(folder: Path, part: str, pairs: list[tuple[list[int], list[int]]]) -> None:
    """In the form of the corpus stage (`ml.data.token_arrays`)."""
    rows = [prompt + answer for prompt, answer in pairs]
    np.save(folder / f"{part}.tokens.npy", np.concatenate(rows).astype(np.int32))
    np.save(folder / f"{part}.offsets.npy", np.cumsum([0, *map(len, rows)]))
    np.save(folder / f"{part}.prompt.npy", np.array([len(prompt) for prompt, _ in pairs], dtype=np.int32))


def _save_tokenizer(folder: Path, vocabulary: int) -> None:
    words = {word: place for place, word in enumerate(["<s>", "</s>", "<pad>", *(f"w{i}" for i in range(3, vocabulary))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>").save_pretrained(
        folder
    )


def record_of(store: Path, name: str) -> dict[str, Any]:
    """The record of the one artifact of this node in a store."""
    [path] = (store / "artifacts").glob(f"{name}-*/record.json")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found

"""A tiny random Llama, its tokenizer, token arrays and jobs, made locally: what the training tests run on."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from alma_pipeline.job import Input, Job
from alma_pipeline.schema import Hardware, Lora
from alma_pipeline.schema.kinds import kind_config

VOCABULARY = 64
LORA = Lora(rank=4, alpha=8.0, targets=["q_proj", "down_proj"])
TOKENIZER = {"tokenizer.json", "tokenizer_config.json"}
FULL = {"config.json", "generation_config.json", "model.safetensors"} | TOKENIZER
EVERY_STEP = {"checkpoint_seconds": 1e-6}
"""Hardware settings: a resume point after each step."""
ADAPTER = {"adapter_config.json", "adapter_model.safetensors", "base.json"} | TOKENIZER


def make_base(folder: Path, key: str = "b" * 64, seed: int = 0, tied: bool = True) -> Input:
    """A 2-layer Llama of hidden size 16 as a finished `base` artifact."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=VOCABULARY,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words = {word: i for i, word in enumerate(["<s>", "</s>", "<pad>", *(f"w{i}" for i in range(3, VOCABULARY))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>").save_pretrained(
        folder
    )
    return Input(key, "base", str(folder), {}, base=str(folder), base_key=key)


def as_input(job: Job, result: dict[str, Any]) -> Input:
    """A finished job's checkpoint, as the next node gets it."""
    init = job.inputs["init"]
    if result["checkpoint"]["form"] == "full":
        return Input(job.key, job.config.kind, str(job.out), result, base=str(job.out), base_key=job.key)
    below = slice(-1) if job.config.adapter == "continue" else slice(None)
    return Input(
        job.key,
        job.config.kind,
        str(job.out),
        result,
        base=init.base,
        base_key=init.base_key,
        adapters=[*init.adapters[below], str(job.out)],
        adapter_keys=[*init.adapter_keys[below], job.key],
    )


def make_pairs(folder: Path, count: int = 40, dev: int = 8, seed: int = 0) -> Input:
    """Pairs whose target repeats the source: something to learn. Lengths and label counts differ."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for name, n in (("train", count), ("dev", dev)):
        sources = [rng.integers(3, VOCABULARY, rng.integers(2, 9)) for _ in range(n)]
        rows = [[0, *source, 2, *source[: rng.integers(1, len(source) + 1)], 1] for source in sources]
        _save(folder, name, rows, [len(source) + 2 for source in sources])
    return Input("c" * 64, "corpus", str(folder), {})


def make_documents(folder: Path, blocks: int = 40, dev: int = 6, block: int = 16, seed: int = 0) -> Input:
    """Blocks of counting tokens, and dev documents with their bytes."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    starts = rng.integers(3, VOCABULARY, blocks)
    rows = (starts[:, None] + np.arange(block) - 3) % (VOCABULARY - 3) + 3
    np.save(folder / "train.blocks.npy", rows.astype(np.int32))
    _save(folder, "dev", [[0, *rows[i][: rng.integers(4, block)]] for i in range(dev)], [1] * dev)
    np.save(folder / "dev.bytes.npy", rng.integers(20, 60, dev))
    return Input("d" * 64, "corpus", str(folder), {})


def _save(folder: Path, name: str, rows: list[list[int]], prompts: list[int]) -> None:
    np.save(folder / f"{name}.tokens.npy", np.concatenate(rows).astype(np.int32))
    np.save(folder / f"{name}.offsets.npy", np.cumsum([0, *map(len, rows)]))
    np.save(folder / f"{name}.prompt.npy", np.array(prompts, dtype=np.int32))


def make_job(work: Path, kind: str, inputs: dict[str, Input], hardware: dict[str, Any] | None = None, **settings: Any) -> Job:
    """A node's job in an empty work folder, as the parent makes it."""
    config: dict[str, Any] = {"steps": 6, "global_batch_size": 8, "learning_rate": 1e-2, "warmup_ratio": 0.0, "evaluations": 2}
    machine: dict[str, Any] = {"name": "test", "micro_batch_tokens": 64, "threads": 1}
    work.mkdir(parents=True, exist_ok=True)
    typed = kind_config(kind)(**(config | {"seed": 1, "lora": LORA} | settings))
    job = Job(f"test.{kind}", f"{kind:k<64}", str(work), typed, Hardware(**(machine | (hardware or {}))), inputs)
    job.out.mkdir(exist_ok=True)
    return job


def lines(job: Job) -> list[dict[str, Any]]:
    """What the job logged."""
    return [json.loads(line) for line in (Path(job.work) / "metrics.jsonl").read_text().splitlines()]


def logged(job: Job, name: str) -> list[float]:
    """The values of one metric, in the order they were logged."""
    return [line["metrics"][name] for line in lines(job) if name in line["metrics"]]


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint folder."""
    name = "model.safetensors" if (folder / "model.safetensors").exists() else "adapter_model.safetensors"
    found: dict[str, torch.Tensor] = load_file(folder / name)
    return found


def digest(job: Job) -> str:
    [file] = job.out.glob("*.safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()

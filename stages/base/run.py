"""Provide the model that a recipe starts from: fresh weights, a published model, or a small one from a Python package."""

import itertools
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from alma_pipeline.errors import UserError
from alma_pipeline.job import Job
from alma_pipeline.ml.data.cldr import Phrasebook, open_cldr
from alma_pipeline.ml.data.mixing import arrange_rows, round_robin
from alma_pipeline.ml.data.prompts import alma_prompt
from alma_pipeline.ml.data.readers.raw_rows import Rejects
from alma_pipeline.ml.data.readers.text import TextReader
from alma_pipeline.ml.data.rows import directions
from alma_pipeline.ml.models.gguf import Pretrained, licence, load_from_wheel
from alma_pipeline.ml.models.hub import snapshot
from alma_pipeline.ml.models.released import import_full
from alma_pipeline.ml.models.tokenizer import train_tokenizer
from alma_pipeline.schema import Architecture
from stages.base.config import Config

TOKENIZER_PAIRS = 1000
"""Sentence pairs per direction, or documents per language, that train a fresh tokenizer (our choice)."""


def run(job: Job) -> dict[str, Any]:
    """Save model and tokenizer to `job.out` as a Hugging Face folder. Returns their sizes.

    Raises UserError for `source=hub` without repo and revision, and for a shape that cannot be built.
    """
    config: Config = job.config
    if config.source == "hub":
        return _from_hub(config, job)
    model, tokenizer = fresh(config, job.files) if config.source == "random" else load_from_wheel(config.repo, config.revision)
    # Decoding reads the special ids from the model's configs, so they must be the tokenizer's.
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    for name, value in special.items():
        setattr(model.config, name, value)
    model.generation_config = GenerationConfig(**special)
    model.save_pretrained(job.out)
    tokenizer.save_pretrained(job.out)
    return {
        "checkpoint": {"form": "full"},
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "vocab_size": model.config.get_text_config().vocab_size,
    } | ({"repo": config.repo, "licence": licence(str(config.repo))} if config.source == "wheel" else {})


def _from_hub(config: Config, job: Job) -> dict[str, Any]:
    if not config.repo or not config.revision:
        raise UserError(
            f"model.source=hub needs model.repo and model.revision, found repo={config.repo or 'null'} and "
            f"revision={config.revision or 'null'}. Set both; a commit hash as revision always means the same weights"
        )
    return import_full(snapshot(config.repo, config.revision, adapter=False, log=job.log), job.out)


def fresh(config: Config, files: Mapping[str, str]) -> Pretrained:
    """Random weights in fp32, and a tokenizer trained on `config.text`. `files`: SHA-256 of each file to its path."""
    texts = _tokenizer_texts(config) if config.text.reader == "cldr" else _document_texts(config, files)
    tokenizer = train_tokenizer(texts, config.architecture.vocab_size)
    torch.manual_seed(config.seed)
    return LlamaForCausalLM(llama_config(config.architecture, tokenizer)), tokenizer


def llama_config(shape: Architecture, tokenizer: PreTrainedTokenizerBase) -> LlamaConfig:
    """The transformers config of a Llama of this shape. Raises UserError for a shape that cannot be built."""
    if shape.model_type != "llama":
        raise UserError(f"model.architecture.model_type={shape.model_type}: fresh weights support only llama")
    if shape.hidden_size % shape.heads or shape.heads % shape.kv_heads:
        raise UserError(
            f"model.architecture: hidden_size={shape.hidden_size} must be a multiple of heads={shape.heads}, "
            f"and heads of kv_heads={shape.kv_heads}"
        )
    return LlamaConfig(
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        vocab_size=shape.vocab_size,
        max_position_embeddings=shape.max_positions,
        tie_word_embeddings=shape.tied_embeddings,
        # The usual 0.02 suits widths in the thousands; in a narrow model it leaves attention flat, which then learns late.
        initializer_range=shape.hidden_size**-0.5,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _tokenizer_texts(config: Config) -> Iterator[str]:
    """Training sentences inside ALMA's prompt, so that its fixed words take few tokens."""
    text = open_cldr(config.text, "train", Phrasebook(config.languages, config.seed), TOKENIZER_PAIRS)
    for pair in arrange_rows({direction: list(text.pairs(direction)) for direction in directions(config.languages)}, round_robin):
        yield alma_prompt(config.languages, pair.direction, pair.source) + pair.target


def _document_texts(config: Config, files: Mapping[str, str]) -> Iterator[str]:
    """The lines of the first documents in each language. Skips unreadable rows, which the corpus stage reports."""
    with tempfile.TemporaryDirectory() as folder:
        text = TextReader(config.text, config.languages, files, Rejects("skip", Path(folder) / "rejected.jsonl"))
        for code in config.languages:
            for line in itertools.islice(text.documents(code), TOKENIZER_PAIRS):
                yield from line.text.split("\n")

"""A tiny random Llama with a byte-level tokenizer, sentence pairs and jobs, made locally: what decoding stages run on."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from alma_pipeline.job import Input, Job
from alma_pipeline.ml.models.tokenizer import train_tokenizer
from alma_pipeline.schema import Hardware, Language
from alma_pipeline.schema.kinds import kind_config

LANGUAGES = {
    "en": Language(name="English", locale="en"),
    "de": Language(name="German", locale="de"),
    "zh": Language(name="Chinese", locale="zh_Hans", tokenizer="zh"),
}
MONTHS = {"May": "Mai", "June": "Juni", "July": "Juli", "March": "März"}


def make_checkpoint(folder: Path, hidden_size: int = 32) -> Input:
    """A 2-layer Llama with two heads, whose own generation config asks for sampling, as a finished `base`."""
    texts = [f"Translate this from English to German:\nEnglish: May {n}\nGerman:{n}. Mai" for n in range(40)]
    tokenizer = train_tokenizer(texts, 290)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=hidden_size,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=290,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(20 if "embed" in name or "lm_head" in name else 3 if "proj" in name else 1)
    model.generation_config.update(do_sample=True, temperature=0.9, top_p=0.6)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Input("b" * 64, "base", str(folder), {}, base=str(folder), base_key="b" * 64)


def pairs(direction: str, days: range) -> list[dict[str, str]]:
    """Four dates a day, in the languages of the direction."""
    rows = []
    for day in days:
        for english, german in MONTHS.items():
            texts = {"en": f"{english} {day}", "de": f"{day}. {german}", "zh": f"{len(english)}月{day}日"}
            source, target = direction.split("-")
            row = {"id": f"{direction}:{english}{day}", "direction": direction}
            rows.append(row | {"source": texts[source], "target": texts[target]})
    return rows


def make_corpus(folder: Path, **splits: list[dict[str, str]]) -> Input:
    """A finished corpus of these rows, `train`, `dev` or `test`; no token arrays."""
    folder.mkdir(parents=True)
    for split, rows in splits.items():
        write(folder / f"{split}.jsonl", rows)
    return Input("c" * 64, "corpus", str(folder), {})


def write(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def read(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def make_job(work: Path, kind: str, inputs: dict[str, Input], decode_tokens: int = 4000, **settings: Any) -> Job:
    """A node's job in an empty work folder, as the parent makes it."""
    work.mkdir(parents=True)
    config = kind_config(kind)(**({"languages": LANGUAGES} | settings))
    hardware = Hardware(name="test", threads=1, decode_tokens=decode_tokens)
    job = Job(f"test.{kind}", f"{kind:k<64}", str(work), config, hardware, inputs)
    job.out.mkdir()
    return job


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def kept_outputs(job: Job, name: str = "outputs") -> list[list[list[int]]]:
    """What one process left of its prompts to go on from, in their order; all of it is there."""
    lines = (job.resume / f"{name}.0.jsonl").read_text(encoding="utf-8").splitlines()
    found = dict(map(json.loads, lines))
    assert len(found) == len(lines) and set(found) == set(range(len(found)))
    return [found[place] for place in range(len(found))]

"""Decoding on a 4-bit base with the adapters unmerged gives what training had, and what merging into the same weights gives."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from alma_pipeline.errors import UserError
from alma_pipeline.job import Input
from alma_pipeline.ml.decoding import tree
from alma_pipeline.ml.decoding.search import Beams, DecodeLimits, Results
from alma_pipeline.ml.models.load import BASE_FILE, cast_weights, load_full
from alma_pipeline.ml.models.merge import load_merged
from alma_pipeline.ml.models.nf4 import round_to_nf4
from alma_pipeline.ml.models.open import load_for_inference, open_for_training
from alma_pipeline.ml.models.routing import Router, load_with_adapters
from alma_pipeline.schema import Hardware, Training
from helpers import tiny_model
from helpers.tiny_adapter import make_adapter
from helpers.tiny_checkpoint import LANGUAGES, make_checkpoint, make_corpus, make_job, pairs, read
from helpers.tiny_model import LORA, as_input, make_base, make_pairs
from stages.translate.run import run as translate
from stages.translate_text.run import run as translate_text

CPU = Hardware(name="test", threads=1)
IDS = torch.tensor([[0, 5, 9, 17, 33, 41]])
LIMITS = DecodeLimits(max_new_tokens=8, decode_tokens=400, eos=1, pad=2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Input:
    """Of hidden size 32, with a tokenizer."""
    torch.set_num_threads(1)
    return make_checkpoint(tmp_path_factory.mktemp("base"))


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=IDS).logits
    return found


def in_4_bits(checkpoint: Input, precision: str = "fp32") -> Any:
    return load_for_inference(checkpoint, CPU, precision, quantization="nf4")[0]


def trained_on_4_bits(checkpoint: Input, trained_in: str = "fp32") -> Input:
    """The checkpoint with a note that its first adapter was trained on 4-bit weights."""
    file = Path(checkpoint.adapters[0]) / BASE_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization": "nf4", "quantized_from": trained_in}))
    return checkpoint


def lora(base: Input, folder: Path, seed: int = 1, merged: Input | None = None) -> Input:
    """An adapter on `base`, or on `merged` as if trained with its adapter merged."""
    made = make_adapter(base, folder, seed, rank=4)
    if merged is None:
        return made
    (folder / BASE_FILE).write_text(json.dumps({"base_key": base.key, "merged": merged.adapter_keys}))
    return replace(made, adapters=[*merged.adapters, *made.adapters], adapter_keys=[*merged.adapter_keys, *made.adapter_keys])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_model_that_was_trained_is_decoded_to_the_bit(tmp_path: Path, precision: str) -> None:
    """Trained through DeepSpeed, its dev set decoded on the same 4-bit module meanwhile."""
    from stages.parallel.run import run

    inputs = {"init": make_base(tmp_path / "base", tied=False), "corpus": make_pairs(tmp_path / "corpus")}
    settings = {
        "adapter": "new",
        "quantization": "nf4",
        "precision": precision,
        "select_by": "dev_score",
        "dev_score_examples": 4,
    }
    job = tiny_model.make_job(tmp_path / "work", "parallel", inputs, {"zero_stage": 1}, **settings)
    made = as_input(job, run(job))
    assert len(tiny_model.logged(job, "dev/score")) >= 2
    asked = Training(kind="test", steps=1, adapter="continue", lora=LORA, seed=3, quantization="nf4", precision=precision)
    trained = open_for_training(made, asked, CPU, 0.0).model
    decoded = in_4_bits(made, precision)
    assert torch.equal(logits(decoded), logits(cast_weights(trained, decoded.dtype)))
    merged = load_for_inference(made, CPU, precision)[0]
    assert torch.allclose(logits(decoded), logits(merged), atol=1e-4 if precision == "fp32" else 0.05)


def test_the_weights_are_rounded_from_the_precision_of_training(tmp_path: Path, base: Input) -> None:
    """B15: decoded in fp32 what was trained in bf16."""
    checkpoint = trained_on_4_bits(lora(base, tmp_path / "lora"), "bf16")
    found, expected = logits(in_4_bits(checkpoint)), logits(load_merged(checkpoint, checkpoint.adapters, "fp32"))
    other = logits(load_merged(trained_on_4_bits(checkpoint, "fp32"), checkpoint.adapters, "fp32"))
    assert float((found - expected).abs().max()) < 0.1 * float((found - other).abs().max())


def test_a_full_model_is_rounded(base: Input) -> None:
    expected = round_to_nf4(load_full(Path(base.base), torch.float32))
    assert torch.allclose(logits(in_4_bits(base)), logits(expected), atol=1e-4)


def test_an_ordinary_adapter_and_a_stack_are_put_on_rounded_weights(tmp_path: Path, base: Input) -> None:
    """The reference: the same adapters merged into these weights."""
    first = lora(base, tmp_path / "1")
    stack = lora(base, tmp_path / "2", seed=2, merged=first)
    found = {name: logits(in_4_bits(checkpoint)) for name, checkpoint in (("first", first), ("stack", stack))}
    exact = logits(load_merged(stack, stack.adapters, "fp32"))
    for name, checkpoint in (("first", first), ("stack", stack)):
        noted = trained_on_4_bits(checkpoint)
        expected = logits(load_merged(noted, noted.adapters, "fp32"))
        assert torch.allclose(found[name], expected, atol=1e-3, rtol=1e-4), name
    assert float((found["stack"] - exact).abs().max()) > 0.1, "the rounding must matter"
    assert float((found["stack"] - found["first"]).abs().max()) > 0.1, "the second adapter must matter"


def test_an_adapter_of_another_base_is_refused(tmp_path: Path, base: Input) -> None:
    """B16."""
    with pytest.raises(UserError, match="trained on another base"):
        in_4_bits(replace(lora(base, tmp_path / "lora"), base_key="d" * 64))


def test_each_row_is_routed_to_its_adapter_on_one_4_bit_base(tmp_path: Path, base: Input) -> None:
    modules = {"g1": lora(base, tmp_path / "1"), "g6": lora(base, tmp_path / "6", seed=6)}
    names, prompts = ["g1", "g6", "g1"], [[0, *range(3 + i, 9 + 2 * i)] for i in range(3)]

    def outputs(model: Any, chosen: list[int], on_rows: Any) -> Results:
        found: Results = {}
        with torch.no_grad():
            tree.decode(model, {i: prompts[i] for i in chosen}, Beams(width=3), LIMITS, found.update, on_rows)
        return found

    mixed = load_with_adapters(modules, CPU, "fp32", quantization="nf4")
    found = outputs(mixed, [0, 1, 2], Router(mixed, names))
    for place, name in enumerate(names):
        assert found[place] == outputs(in_4_bits(modules[name]), [place], lambda rows: None)[place]
    stack = {"g1": lora(base, tmp_path / "2", seed=2, merged=modules["g1"])}
    with pytest.raises(UserError, match="must be merged below it, which a base in 4 bits does not take; use quantization=none"):
        load_with_adapters(stack, CPU, "fp32", quantization="nf4")


def test_test_sets_and_lines_are_translated_as_on_merged_weights(tmp_path: Path, base: Input) -> None:
    """By the stage and by the verb's job, with beams; the adapter was trained on 4 bits."""
    checkpoint = trained_on_4_bits(lora(base, tmp_path / "lora"))
    test = make_corpus(tmp_path / "test", test=pairs("de-en", range(3, 5)) + pairs("en-zh", range(3, 4)))
    how: dict[str, Any] = {"prompt": "alma", "max_new_tokens": 6, "num_beams": 3}
    found = {}
    for quantization in ("none", "nf4"):
        job = make_job(
            tmp_path / quantization, "translate", {"checkpoint": checkpoint, "test": test}, quantization=quantization, **how
        )
        translate(job)
        found[quantization] = [row["hypothesis"] for row in read(job.out / "hypotheses.jsonl")]
    assert found["nf4"] == found["none"] and len(set(found["nf4"])) > 1
    lines = make_job(tmp_path / "lines", "translate_text", {"all": checkpoint}, quantization="nf4", languages=LANGUAGES, **how)
    rows = [[row["direction"], row["source"]] for row in read(Path(test.path) / "test.jsonl")]
    (Path(lines.work) / "sources.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    translate_text(lines)
    assert [row["text"] for row in read(lines.out / "translations.jsonl")] == found["nf4"]

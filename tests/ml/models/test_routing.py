"""Mixed batches: every row by its own adapter, the same as that adapter alone, in both decoders."""

from dataclasses import replace

import pytest
import torch

from alma_pipeline.errors import UserError
from alma_pipeline.job import Input
from alma_pipeline.ml.decoding import decode, generate, tree
from alma_pipeline.ml.decoding.search import Beams, DecodeLimits, Results, Sampling
from alma_pipeline.ml.models.merge import load_merged
from alma_pipeline.ml.models.routing import Router, load_with_adapters
from alma_pipeline.schema import Hardware
from helpers.tiny_adapter import make_adapter
from helpers.tiny_checkpoint import make_checkpoint

LIMITS = DecodeLimits(max_new_tokens=8, decode_tokens=400, eos=1, pad=2)
HARDWARE = Hardware(name="test", threads=1)
PROMPTS = [[0, *range(3 + i, 9 + 2 * i)] for i in range(9)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Input:
    torch.set_num_threads(1)
    return make_checkpoint(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def modules(base: Input, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Input]:
    """Of different ranks, as nothing says that they are alike."""
    return {name: make_adapter(base, tmp_path_factory.mktemp(name), seed, 2 * seed) for seed, name in ((1, "g1"), (2, "g6"))}


@pytest.mark.parametrize("module", [generate, tree])
@pytest.mark.parametrize("beams", [1, 3])
def test_a_mixed_batch_gives_what_each_adapter_gives_alone(modules: dict[str, Input], module: object, beams: int) -> None:
    """The reference is the merged model, one prompt at a time: other code, and no batch at all."""
    names = ["g1", "g6", "g6", "g1", "g6", "g1", "g1", "g6", "g1"]
    model = load_with_adapters(modules, HARDWARE, "fp32")
    router = Router(model, names)
    found: Results = {}
    with torch.no_grad():
        module.decode(model, dict(enumerate(PROMPTS)), Beams(width=beams), LIMITS, found.update, router)  # type: ignore[attr-defined]
    merged = {name: load_merged(checkpoint, checkpoint.adapters, "fp32") for name, checkpoint in modules.items()}
    expected = [decode.beam_search(merged[name], [prompt], beams, LIMITS)[0] for name, prompt in zip(names, PROMPTS, strict=True)]
    assert [found[i][0] for i in range(len(PROMPTS))] == expected
    other = [decode.beam_search(merged["g1"], [prompt], beams, LIMITS)[0] for prompt in PROMPTS]
    assert other != expected, "the adapters must differ, or the test shows nothing"


@pytest.mark.parametrize("module", [generate, tree])
def test_so_it_does_where_samples_are_drawn(modules: dict[str, Input], module: object) -> None:
    """A prompt's noise goes by its place, so the merged model is asked for that place alone."""
    names = ["g1", "g6", "g6", "g1", "g6"]
    settings = Sampling(width=3, temperature=1.2, top_p=0.9, seed=5)
    model = load_with_adapters(modules, HARDWARE, "fp32")
    router = Router(model, names)
    prompts = dict(enumerate(PROMPTS[: len(names)]))
    found: Results = {}
    with torch.no_grad():
        module.decode(model, prompts, settings, LIMITS, found.update, router)  # type: ignore[attr-defined]
    merged = {name: load_merged(checkpoint, checkpoint.adapters, "fp32") for name, checkpoint in modules.items()}

    def alone(name: str, place: int) -> list[list[int]]:
        drawn: Results = {}
        generate.decode(merged[name], {place: prompts[place]}, settings, LIMITS, drawn.update, lambda rows: None)
        return drawn[place]

    assert [found[i] for i in prompts] == [alone(name, i) for i, name in enumerate(names)]
    assert [found[i] for i in prompts] != [alone("g1", i) for i in prompts], "the adapters must differ"


def test_adapters_on_different_bases_are_refused(base: Input, modules: dict[str, Input]) -> None:
    elsewhere = {**modules, "g6": replace(modules["g6"], base_key="d" * 64)}
    with pytest.raises(UserError, match=r"g1 on bbbbbbbbbbbb; g6 on dddddddddddd.*one group at a time"):
        load_with_adapters(elsewhere, HARDWARE, "fp32")
    with pytest.raises(UserError, match="g6: expected adapters on a shared base, found a full model"):
        load_with_adapters({**modules, "g6": base}, HARDWARE, "fp32")

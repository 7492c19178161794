"""Decoding against Hugging Face `generate` one prompt at a time, and what batching must not change."""

import multiprocessing
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from alma_pipeline.ml import decoding, plain_decoding, tree_decoding
from alma_pipeline.ml.search import Beams, Limits, Sampling, invert, noise

EOS, PAD, VOCABULARY = 1, 2, 40
LIMITS = Limits(max_new_tokens=12, decode_tokens=600, eos=EOS, pad=PAD)
SAMPLING = Sampling(width=3, temperature=0.8, top_p=0.9, seed=5)
CONFIGS = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
DECODERS = pytest.mark.parametrize("module", [plain_decoding, tree_decoding])


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def make(kind: str = "llama", **settings: object) -> PreTrainedModel:
    """A random model whose logits are far apart, so that rounding decides nothing."""
    torch.manual_seed(0)
    shape = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "head_dim": 8,
        "sliding_window": None,
        "tie_word_embeddings": False,
    }
    model = AutoModelForCausalLM.from_config(CONFIGS[kind](**(shape | settings)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(25 if "embed" in name or "lm_head" in name else 3 if "proj" in name else 1)
        model.lm_head.weight[EOS] *= 2  # ends that come early often enough
    return model


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return make()


def make_prompts(count: int = 18, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[0, *(rng.randrange(3, VOCABULARY) for _ in range(rng.randrange(14)))] for _ in range(count)]


PROMPTS = make_prompts()


def alone(model: PreTrainedModel, prompt: list[int], beams: int) -> list[int]:
    """Hugging Face's own output for one prompt, every relevant setting spelled out."""
    config = GenerationConfig(
        num_beams=beams,
        do_sample=False,
        length_penalty=1.0,
        early_stopping=False,
        max_new_tokens=LIMITS.max_new_tokens,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    ids = torch.tensor([prompt])
    found = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)[0, len(prompt) :].tolist()
    return found[: found.index(EOS)] if EOS in found else found


def run(
    module: object, model: PreTrainedModel, prompts: list[list[int]], settings: Beams | Sampling, limits: Limits = LIMITS
) -> list[list[list[int]]]:
    with torch.no_grad():
        found = module.decode(model.eval(), dict(enumerate(prompts)), settings, limits, lambda done: None, lambda rows: None)  # type: ignore[attr-defined]
    return [found[index] for index in range(len(prompts))]


@pytest.mark.parametrize("beams", [1, 2, 5])
@DECODERS
def test_equals_generate_one_prompt_at_a_time(module: object, model: PreTrainedModel, beams: int) -> None:
    """B50, B59: prompts of 1 to 14 tokens in batches, outputs in the order of the prompts."""
    expected = [alone(model, prompt, beams) for prompt in PROMPTS]
    assert run(module, model, PROMPTS, Beams(width=beams)) == [[output] for output in expected]
    lengths = {len(output) for output in expected}
    assert LIMITS.max_new_tokens in lengths and len(lengths) >= 3, "the case must hold early and late ends"


@pytest.mark.parametrize("kind", CONFIGS)
def test_trees_serve_every_architecture_they_claim(kind: str) -> None:
    model = make(kind)
    assert tree_decoding.serves(model)
    expected = [[alone(model, prompt, 4)] for prompt in PROMPTS[:12]]
    assert run(tree_decoding, model, PROMPTS[:12], Beams(width=4)) == expected


def test_claimed_architectures_are_those_tested() -> None:
    assert set(tree_decoding.EXACT) == set(CONFIGS)


def test_eager_attention_takes_trees_too() -> None:
    model = make(attn_implementation="eager")
    assert model.config._attn_implementation == "eager"
    expected = [[alone(model, prompt, 3)] for prompt in PROMPTS[:8]]
    assert run(tree_decoding, model, PROMPTS[:8], Beams(width=3)) == expected


def test_a_sliding_window_is_decoded_by_generate() -> None:
    """A cache that forgets tokens cannot hold a tree; the public functions then take the plain way."""
    model = make("mistral", sliding_window=4)
    assert not tree_decoding.serves(model)
    assert decoding.decoder(model) is plain_decoding.decode
    short = replace(LIMITS, decode_tokens=1)  # windows and padding do not mix: one prompt at a time
    assert decoding.beam_search(model, PROMPTS[:6], 3, short) == [alone(model, prompt, 3) for prompt in PROMPTS[:6]]


def test_long_outputs_outlast_the_room_of_the_cache(model: PreTrainedModel) -> None:
    """The cache is tidied every 16 steps; an output of 60 tokens lives through several tidyings."""
    limits = replace(LIMITS, max_new_tokens=60, eos=VOCABULARY + 1)
    plain = run(plain_decoding, model, PROMPTS[:4], Beams(width=3), replace(limits, eos=EOS))
    assert run(tree_decoding, model, PROMPTS[:4], Beams(width=3), replace(limits, eos=EOS)) == plain
    greedy = run(tree_decoding, model, PROMPTS[:4], Beams(width=1), limits)
    assert {len(outputs[0]) for outputs in greedy} == {60}


@DECODERS
@pytest.mark.parametrize("budget", [1, 150])
def test_the_budget_changes_no_result(module: object, model: PreTrainedModel, budget: int) -> None:
    limits = replace(LIMITS, decode_tokens=budget)
    assert run(module, model, PROMPTS[:9], Beams(width=3), limits) == run(module, model, PROMPTS[:9], Beams(width=3))


class Watch:
    """What a model was given: (prompts, hypotheses of each, prompts' longest length) of every forward."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.shapes: list[torch.Size] = []
        self.handle = model.register_forward_pre_hook(self.see, with_kwargs=True)

    def see(self, module: object, args: object, kwargs: dict[str, Tensor]) -> None:
        self.shapes.append(kwargs["input_ids"].shape)


@DECODERS
def test_no_batch_exceeds_the_token_budget(module: object, model: PreTrainedModel) -> None:
    """(prompt + max_new_tokens) x beams, summed over the prompts of a batch; a lone prompt may exceed it."""
    prompts = [[0] * 8] * 6
    for budget, at_once in ((3 * 20 * 4, 4), (3 * 20 * 4 - 1, 3), (1, 1)):
        watch = Watch(model)
        run(module, model, prompts, Beams(width=3), replace(LIMITS, decode_tokens=budget))
        watch.handle.remove()
        rows = {"plain": [shape[0] // 3 for shape in watch.shapes], "tree": [shape[0] for shape in watch.shapes]}
        assert max(rows["tree" if module is tree_decoding else "plain"]) == at_once


def test_batches_are_sorted_by_length_and_cover_every_prompt() -> None:
    limits = Limits(max_new_tokens=10, decode_tokens=60, eos=EOS, pad=PAD)
    assert plain_decoding.batches([5, 20, 10, 5, 100], 1, limits) == [[4], [1, 2], [0, 3]]
    assert plain_decoding.batches([], 1, limits) == []


def test_trees_refill_and_read_a_prompt_once(model: PreTrainedModel) -> None:
    """A prompt's tokens pass through the model once, not once per beam; late prompts join early ones."""
    watch = Watch(model)
    prompts = [[0] * 10] * 9
    run(tree_decoding, model, prompts, Beams(width=4), replace(LIMITS, decode_tokens=4 * 22 * 3))
    watch.handle.remove()
    read = [shape for shape in watch.shapes if shape[1] == 9]
    assert sum(shape[0] for shape in read) == 9 and len(read) >= 3


@DECODERS
def test_samples_do_not_depend_on_the_batch(module: object, model: PreTrainedModel) -> None:
    together = run(module, model, PROMPTS, SAMPLING)
    with torch.no_grad():
        single = [
            module.decode(model, {index: prompt}, SAMPLING, LIMITS, lambda done: None, lambda rows: None)[index]  # type: ignore[attr-defined]
            for index, prompt in enumerate(PROMPTS)
        ]
    assert together == single
    assert {len(samples) for samples in together} == {3}


def test_both_decoders_draw_the_same_samples(model: PreTrainedModel) -> None:
    assert run(tree_decoding, model, PROMPTS, SAMPLING) == run(plain_decoding, model, PROMPTS, SAMPLING)


def test_the_seed_and_the_index_decide_the_samples(model: PreTrainedModel) -> None:
    same = [PROMPTS[3]] * 6
    found = decoding.sample(model, same, SAMPLING, LIMITS)
    assert found == decoding.sample(model, same, SAMPLING, LIMITS)
    assert found != decoding.sample(model, same, replace(SAMPLING, seed=6), LIMITS)
    assert len({str(samples) for samples in found}) > 1, "equal prompts have noise of their own"
    assert any(len({str(sample) for sample in samples}) > 1 for samples in found)


def test_cold_and_narrow_sampling_is_greedy(model: PreTrainedModel) -> None:
    greedy = decoding.greedy(model, PROMPTS, LIMITS)
    for settings in (replace(SAMPLING, temperature=1e-4), replace(SAMPLING, top_p=1e-6)):
        assert decoding.sample(model, PROMPTS, settings, LIMITS) == [[output] * 3 for output in greedy]


def test_tokens_are_drawn_by_their_share_of_the_nucleus() -> None:
    """0.5, 0.3, 0.15, 0.05 at top_p 0.9: the last one never, the others by their renormalised shares."""
    logits = torch.tensor([0.15, 0.5, 0.05, 0.3]).log().expand(20_000, -1)
    drawn = torch.from_numpy(noise(1, 2, (20_000,)))
    settings = Sampling(width=1, temperature=1.0, top_p=0.9, seed=0)
    shares = torch.bincount(invert(logits, drawn, settings), minlength=4) / 20_000
    assert shares.tolist() == pytest.approx([0.15 / 0.95, 0.5 / 0.95, 0, 0.3 / 0.95], abs=0.01)
    whole = torch.bincount(invert(logits, drawn, replace(settings, top_p=1.0)), minlength=4) / 20_000
    assert whole.tolist() == pytest.approx([0.15, 0.5, 0.05, 0.3], abs=0.01)
    hot = torch.bincount(invert(logits, drawn, replace(settings, temperature=2.0, top_p=1.0)), minlength=4) / 20_000
    roots = torch.tensor([0.15, 0.5, 0.05, 0.3]).sqrt()
    assert hot.tolist() == pytest.approx((roots / roots.sum()).tolist(), abs=0.01)


def test_a_flat_distribution_over_a_large_vocabulary_uses_all_of_the_nucleus() -> None:
    """More pieces than the shortcut looks at: the nucleus is then found by a full sort."""
    drawn = torch.linspace(0, 0.9999, 2000)
    settings = Sampling(width=1, temperature=1.0, top_p=0.5, seed=0)
    logits = torch.linspace(1e-4, 0, 2000).expand(2000, -1)
    found = invert(logits, drawn, settings)
    assert int(found.max()) in (999, 1000) and len(found.unique()) == 1000


@pytest.mark.parametrize("edge", [0.0, 1 - 2**-24])
def test_the_ends_of_the_noise_pick_a_piece_of_the_nucleus(edge: float) -> None:
    logits = torch.tensor([[-1000.0, 0.0, -1000.0, 0.0, -1000.0]])
    for top_p in (0.9, 1.0):
        settings = Sampling(width=1, temperature=1.0, top_p=top_p, seed=0)
        assert int(invert(logits, torch.tensor([edge]), settings)) == (1 if edge == 0 else 3)


@DECODERS
def test_a_model_s_own_defaults_are_set_aside(module: object) -> None:
    """X-ALMA's generation config samples; a repetition penalty would change beams unasked."""
    model = make()
    expected = run(module, model, PROMPTS[:8], Beams(width=3))
    own = GenerationConfig(do_sample=True, temperature=0.9, top_p=0.6, repetition_penalty=3.0, max_length=5, num_beams=2)
    model.generation_config = own
    assert run(module, model, PROMPTS[:8], Beams(width=3)) == expected
    assert model.generation_config is own


def test_a_model_with_an_adapter_decodes_as_the_merged_one() -> None:
    """Development scores are taken while the adapter is in training."""
    wrapped = get_peft_model(make(), LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False))
    assert tree_decoding.serves(wrapped)
    found = decoding.beam_search(wrapped, PROMPTS[:8], 3, LIMITS)
    merged = wrapped.merge_and_unload()
    assert found == [alone(merged, prompt, 3) for prompt in PROMPTS[:8]]
    assert found != [alone(make(), prompt, 3) for prompt in PROMPTS[:8]]


def test_decoding_leaves_training_mode_as_it_was(model: PreTrainedModel) -> None:
    model.train()
    found = decoding.greedy(model, PROMPTS[:3], LIMITS)
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    model.eval()
    assert decoding.greedy(model, PROMPTS[:3], LIMITS) == found and not model.training


def test_progress_counts_up_to_all(model: PreTrainedModel) -> None:
    heard: list[tuple[int, int]] = []
    decoding.beam_search(model, PROMPTS, 2, LIMITS, lambda done, *, total: heard.append((done, total)))
    assert heard == sorted(heard) and heard[-1] == (18, 18)


def test_no_prompts_and_empty_prompts(model: PreTrainedModel) -> None:
    assert decoding.beam_search(model, [], 5, LIMITS) == []
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        decoding.greedy(model, [[0], []], LIMITS)


def word_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    words = {word: i for i, word in enumerate(["<s>", "</s>", "<pad>", "a", "b"])}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<pad>")), **special)


def test_limits_take_the_end_and_padding_of_the_tokenizer() -> None:
    """B59: without a padding token the end token pads, which the attention mask makes harmless."""
    assert decoding.limits(word_tokenizer(eos_token="</s>", pad_token="<pad>"), 7, 9) == Limits(
        max_new_tokens=7, decode_tokens=9, eos=1, pad=2
    )
    assert decoding.limits(word_tokenizer(eos_token="</s>"), 7, 9).pad == 1
    with pytest.raises(ValueError, match="no end-of-sentence token"):
        decoding.limits(word_tokenizer(), 7, 9)


def test_text_has_neither_special_tokens_nor_outer_space() -> None:
    tokenizer = word_tokenizer(eos_token="</s>", pad_token="<pad>")
    assert decoding.text(tokenizer, [3, 2, 4, 1]) == "a b"
    assert decoding.text(tokenizer, []) == ""


def in_processes(work: Callable[[Path], None], folder: Path) -> None:
    """Run `work` in two processes of one group."""
    if torch.distributed.is_initialized():  # by a stage that an earlier test ran in this process
        torch.distributed.destroy_process_group()
    context = multiprocessing.get_context("fork")  # torch is imported already
    processes = [context.Process(target=_join, args=(work, rank, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]


def _join(work: Callable[[Path], None], rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    work(folder / f"rank{rank}")
    torch.distributed.destroy_process_group()


def _shared(path: Path) -> None:
    model = make()
    shared = decoding.beam_search(model, PROMPTS, 3, LIMITS), decoding.sample(model, PROMPTS, SAMPLING, LIMITS)
    split = len(decoding._share([1] * 18, model))
    for parameter in model.parameters():
        parameter.ds_id = 0  # type: ignore[attr-defined]  # what DeepSpeed marks a ZeRO-3 parameter with
    torch.save((shared, split, len(decoding._share([1] * 18, model))), path)


def test_processes_share_out_the_work_and_all_get_the_results(tmp_path: Path, model: PreTrainedModel) -> None:
    in_processes(_shared, tmp_path)
    expected = decoding.beam_search(model, PROMPTS, 3, LIMITS), decoding.sample(model, PROMPTS, SAMPLING, LIMITS)
    for rank in range(2):
        assert torch.load(tmp_path / f"rank{rank}") == (expected, 9, 18)

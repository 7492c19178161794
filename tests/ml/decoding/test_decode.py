"""Decoding against Hugging Face `generate` one prompt at a time."""

from dataclasses import replace

import pytest
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from alma_pipeline.ml.decoding import decode, generate, tree
from alma_pipeline.ml.decoding.search import Beams, DecodeLimits, trim
from helpers.search_model import CONFIGS, DECODERS, EOS, LIMITS, PROMPTS, SAMPLING, VOCABULARY, alone, make, run

pytestmark = pytest.mark.usefixtures("one_thread")


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
    assert tree.supports(model)
    expected = [[alone(model, prompt, 4)] for prompt in PROMPTS[:12]]
    assert run(tree, model, PROMPTS[:12], Beams(width=4)) == expected


def test_of_many_pieces_the_likeliest_are_found_block_by_block() -> None:
    """A vocabulary in which a search with three beams does not sort every logit."""
    model = make(vocab_size=12_000)
    expected = [[alone(model, prompt, 3)] for prompt in PROMPTS]
    assert run(tree, model, PROMPTS, Beams(width=3)) == expected


def test_claimed_architectures_are_those_tested() -> None:
    assert set(tree.TESTED_ARCHITECTURES) == set(CONFIGS)


def test_eager_attention_takes_trees_too() -> None:
    model = make(attn_implementation="eager")
    assert model.config._attn_implementation == "eager"
    expected = [[alone(model, prompt, 3)] for prompt in PROMPTS[:8]]
    assert run(tree, model, PROMPTS[:8], Beams(width=3)) == expected


def test_a_sliding_window_is_decoded_by_generate() -> None:
    """A cache that forgets tokens cannot hold a tree; the public functions then take the plain way."""
    model = make("mistral", sliding_window=4)
    assert not tree.supports(model)
    assert decode.decoder(model) is generate.decode
    short = replace(LIMITS, decode_tokens=1)  # windows and padding do not mix: one prompt at a time
    assert decode.beam_search(model, PROMPTS[:6], 3, short) == [alone(model, prompt, 3) for prompt in PROMPTS[:6]]


def test_long_outputs_outlast_the_room_of_the_cache(model: PreTrainedModel) -> None:
    """The cache is tidied every 16 steps; an output of 60 tokens lives through several tidyings."""
    limits = replace(LIMITS, max_new_tokens=60, eos=VOCABULARY + 1)
    plain = run(generate, model, PROMPTS[:4], Beams(width=3), replace(limits, eos=EOS))
    assert run(tree, model, PROMPTS[:4], Beams(width=3), replace(limits, eos=EOS)) == plain
    greedy = run(tree, model, PROMPTS[:4], Beams(width=1), limits)
    assert {len(outputs[0]) for outputs in greedy} == {60}


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
    assert tree.supports(wrapped)
    found = decode.beam_search(wrapped, PROMPTS[:8], 3, LIMITS)
    merged = wrapped.merge_and_unload()
    assert found == [alone(merged, prompt, 3) for prompt in PROMPTS[:8]]
    assert found != [alone(make(), prompt, 3) for prompt in PROMPTS[:8]]


@pytest.mark.parametrize("beams", [1, 3])
@DECODERS
def test_an_output_ends_at_each_end_token(module: object, model: PreTrainedModel, beams: int) -> None:
    """As Hugging Face's own generate does, which considers more candidates then."""
    ends = [EOS, 17, 23]
    several = replace(LIMITS, other_ends=tuple(ends[1:]))
    expected = [[alone(model, prompt, beams, ends)] for prompt in PROMPTS]
    found = run(module, model, PROMPTS, Beams(width=beams), several)
    assert found == expected != run(module, model, PROMPTS, Beams(width=beams))
    assert not any(set(output) & set(ends) for [output] in found)


@DECODERS
def test_a_sample_ends_at_each_end_token(module: object, model: PreTrainedModel) -> None:
    """The samples are those of one end token, cut at the first of several."""
    found = run(module, model, PROMPTS, SAMPLING, replace(LIMITS, other_ends=(17, 23)))
    whole = run(module, model, PROMPTS, SAMPLING)
    assert found == [[trim(output, [17, 23]) for output in outputs] for outputs in whole] != whole


def test_the_end_tokens_are_those_that_the_model_states() -> None:
    """Its generation config has them: whatever decodes stops at each, and at the tokenizer's."""
    model = make()
    model.generation_config = GenerationConfig(eos_token_id=[17, EOS, 23])
    expected = [alone(model, prompt, 2, [EOS, 17, 23]) for prompt in PROMPTS]
    assert decode.beam_search(model, PROMPTS, 2, LIMITS) == expected


def test_decoding_leaves_training_mode_as_it_was(model: PreTrainedModel) -> None:
    model.train()
    found = decode.greedy(model, PROMPTS[:3], LIMITS)
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    model.eval()
    assert decode.greedy(model, PROMPTS[:3], LIMITS) == found and not model.training


def test_progress_counts_up_to_all(model: PreTrainedModel) -> None:
    heard: list[tuple[int, int]] = []
    decode.beam_search(model, PROMPTS, 2, LIMITS, lambda done, *, total: heard.append((done, total)))
    assert heard == sorted(heard) and heard[-1] == (18, 18)


def test_no_prompts_and_empty_prompts(model: PreTrainedModel) -> None:
    assert decode.beam_search(model, [], 5, LIMITS) == []
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        decode.greedy(model, [[0], []], LIMITS)


def word_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    words = {word: i for i, word in enumerate(["<s>", "</s>", "<pad>", "a", "b"])}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<pad>")), **special)


def test_limits_take_the_end_and_padding_of_the_tokenizer() -> None:
    """B59: without a padding token the end token pads, which the attention mask makes harmless."""
    assert decode.limits(word_tokenizer(eos_token="</s>", pad_token="<pad>"), 7, 9) == DecodeLimits(
        max_new_tokens=7, decode_tokens=9, eos=1, pad=2
    )
    assert decode.limits(word_tokenizer(eos_token="</s>"), 7, 9).pad == 1
    with pytest.raises(ValueError, match="no end-of-sentence token"):
        decode.limits(word_tokenizer(), 7, 9)


def test_text_has_neither_special_tokens_nor_outer_space() -> None:
    tokenizer = word_tokenizer(eos_token="</s>", pad_token="<pad>")
    assert decode.text(tokenizer, [3, 2, 4, 1]) == "a b"
    assert decode.text(tokenizer, []) == ""

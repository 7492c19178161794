"""B59: where an answer ends is learned, with a tokenizer that pads with its end token too, as many recipes set it."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from alma_pipeline.ml.data.preference_pairs import make_pair
from alma_pipeline.ml.data.prompts import Example, Prompter
from alma_pipeline.ml.data.token_arrays import Tokens
from alma_pipeline.ml.decoding import decode
from alma_pipeline.ml.models.tokenizer import train_tokenizer
from alma_pipeline.ml.training.objective import LanguageModel
from alma_pipeline.ml.training.preference_losses import LossSettings
from alma_pipeline.ml.training.preference_objective import PreferenceModel
from helpers.text_files import LANGUAGES, english, german

ROWS = [("de-en", "3 Tage", "3 days"), ("de-en", "12 Nächte", "12 long nights"), ("en-de", "9 days", "9 Tage")]
WORSE = [(direction, source, f"{target} {target}") for direction, source, target in ROWS]
LAYOUTS = pytest.mark.parametrize("layout", ["packed", "padded"])


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    made = train_tokenizer([f"German: {german(n)}\nEnglish:{english(n)}" for n in range(60)], 300)
    made.pad_token = made.eos_token
    return made


def model_of(tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**shape, vocab_size=len(tokenizer), pad_token_id=tokenizer.eos_token_id))


def ends(labels: torch.Tensor, sizes: list[int], eos: int) -> list[list[int]]:
    """For each answer, where among its labels the end token is."""
    return [(answer == eos).nonzero().flatten().tolist() for answer in labels.split(sizes)]


def as_tokens(example: Example) -> Tokens:
    return Tokens(np.array(example.ids, np.int32), example.prompt)


@LAYOUTS
def test_the_end_is_the_last_label_of_every_answer(tokenizer: PreTrainedTokenizerBase, layout: str) -> None:
    examples = [as_tokens(example) for example in Prompter(tokenizer, "alma", LANGUAGES).examples(ROWS)]
    objective = LanguageModel(model_of(tokenizer), 512)
    objective.layout = layout
    sizes = [len(example.ids) - example.prompt for example in examples]
    found = ends(objective.collate(examples)["labels"], sizes, tokenizer.eos_token_id)
    assert found == [[size - 1] for size in sizes]


@LAYOUTS
def test_the_end_is_the_last_label_of_both_answers_of_a_pair(tokenizer: PreTrainedTokenizerBase, layout: str) -> None:
    prompter = Prompter(tokenizer, "alma", LANGUAGES)
    sides = zip(prompter.examples(ROWS), prompter.examples(WORSE), strict=True)
    pairs = [make_pair(chosen, rejected, prompter) for chosen, rejected in sides]
    objective = PreferenceModel(model_of(tokenizer), 512, LossSettings(beta=0.1, nll_weight=1.0, nll_norm="token"))
    objective.layout = layout
    sizes = [len(answer) for pair in pairs for answer in (pair.chosen, pair.rejected)]
    found = ends(objective.collate(pairs)["labels"], sizes, tokenizer.eos_token_id)
    assert found == [[size - 1] for size in sizes]


@LAYOUTS
def test_a_trained_model_ends_its_translations(tokenizer: PreTrainedTokenizerBase, layout: str) -> None:
    prompter = Prompter(tokenizer, "alma", LANGUAGES)
    model = model_of(tokenizer)
    objective = LanguageModel(model, 512)
    objective.layout = layout
    examples = [as_tokens(example) for example in prompter.examples(ROWS)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        objective(objective.collate(examples), objective.norms(examples))[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    found = decode.greedy(model, prompter.prompts([row[:2] for row in ROWS]), decode.limits(tokenizer, 60, 4096))
    assert [decode.text(tokenizer, ids) for ids in found] == [target for _, _, target in ROWS]

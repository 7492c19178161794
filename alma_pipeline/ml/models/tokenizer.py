"""A byte-level BPE trained on the run's own text, for models that start from random weights.

Not for published models: those bring their tokenizer. Digits are split one by one, so that a number is spelled the
same in every context, and every text can be encoded, so that there is no unknown token.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PretrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from alma_pipeline.errors import UserError

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
SPECIAL = [BOS, EOS, PAD]
"""In the order of their ids: 0, 1, 2."""
SMALLEST = len(SPECIAL) + len(pre_tokenizers.ByteLevel.alphabet())

CHUNKS = Regex(r"[^\s\d:]+(?: [^\s\d:]+)*:|\s*:|\d| ?[^\s\d:]+|\s")
"""What a piece may span: a word with the space before it, a digit, or a run of words that a colon ends, so that the
fixed wording of a prompt costs a few tokens instead of a dozen."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """A tokenizer of exactly `vocab_size` pieces whose plain call adds BOS once, as Llama's does.

    The same texts in the same order give byte-identical files. Raises UserError where the texts cannot fill the
    vocabulary.
    """
    if vocab_size < SMALLEST:
        raise UserError(
            f"model.architecture.vocab_size={vocab_size}: a byte-level tokenizer needs at least {SMALLEST} "
            "(256 bytes and 3 special tokens)"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(CHUNKS, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, _trainer(vocab_size))
    found = tokenizer.get_vocab_size()
    if found < vocab_size:
        raise UserError(
            f"model.architecture.vocab_size={vocab_size}, but the text yields only {found} pieces; "
            "take a smaller vocabulary or more languages"
        )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, SPECIAL.index(BOS))]
    )
    return _wrap(tokenizer)


def _trainer(vocab_size: int) -> trainers.BpeTrainer:
    return trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )


def _wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerBase:
    """As a transformers tokenizer that `AutoTokenizer` reads back."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


UNUSED = ("pad", "reserved")
"""What spare special tokens are called: <|finetune_right_pad_id|> (Llama 3.1), <|reserved_special_token_0|> (Llama 3),
<|vision_pad|> (Qwen). Text never makes them, since prompts are tokenised with special tokens split."""


def made_sound(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> PreTrainedTokenizerBase:
    """The tokenizer with all three, each of them within the model's `vocab_size`. Raises UserError where it cannot be."""
    if not tokenizer.is_fast:
        raise UserError("the tokenizer has no fast version (tokenizer.json), whose character offsets training needs; convert it")
    if tokenizer.bos_token_id is None and isinstance(config.bos_token_id, int):
        tokenizer.bos_token = tokenizer.convert_ids_to_tokens(config.bos_token_id)
    rows = int(config.get_text_config().vocab_size)
    _check_rows(tokenizer, rows)
    return with_pad(tokenizer, rows)


def with_pad(tokenizer: PreTrainedTokenizerBase, rows: int | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer with a pad token that is neither BOS nor EOS; `rows`: of the model's embeddings.

    One without gets its unknown token (id 0 in Llama-2, as the released ALMA models have it), else a spare one.
    """
    if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
        raise UserError(
            f"the tokenizer has bos_token={tokenizer.bos_token!r} and eos_token={tokenizer.eos_token!r}; both are "
            "needed. Take a model that defines them."
        )
    candidates = [tokenizer.pad_token_id, tokenizer.unk_token_id, *_spare(tokenizer)]
    taken = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    fit = [token for token in candidates if token is not None and token not in taken and (rows is None or token < rows)]
    if not fit:
        raise UserError(
            f"the tokenizer pads with {tokenizer.pad_token!r}, which is its EOS, its BOS, beyond the embeddings or nothing, and "
            "has no unknown token and no spare one to pad with instead. Take a model whose tokenizer has a pad token of its own."
        )
    if fit[0] != tokenizer.pad_token_id:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(fit[0])
    return tokenizer


def _spare(tokenizer: PreTrainedTokenizerBase) -> Iterator[int]:
    added: dict[int, Any] = tokenizer.added_tokens_decoder
    for word in UNUSED:
        yield from (number for number, token in sorted(added.items()) if token.special and word in token.content)


def _check_rows(tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Tokens that ordinary text can make must have an embedding."""
    beyond = [token.content for number, token in tokenizer.added_tokens_decoder.items() if number >= rows and not token.special]
    if beyond:
        raise UserError(
            f"the tokenizer has added tokens beyond the model's {rows} embeddings, among them {beyond[:3]}; take the tokenizer "
            "the model was trained with, or resize its embeddings first"
        )

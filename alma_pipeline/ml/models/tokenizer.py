"""Train a byte-level BPE tokenizer for models with random weights, and normalise a published model's special tokens.

Every tokenizer here ends up with BOS, EOS and a pad token of its own, all within the model's vocabulary.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PretrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from alma_pipeline.errors import UserError

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
SPECIAL = [BOS, EOS, PAD]
"""In order of their ids: 0, 1, 2."""
SMALLEST = len(SPECIAL) + len(pre_tokenizers.ByteLevel.alphabet())
"""Smallest vocabulary: every byte and the special tokens."""

CHUNKS = Regex(r"[^\s\d:]+(?: [^\s\d:]+)*:|\s*:|\d| ?[^\s\d:]+|\s")
"""What a piece may span: a word with the space before it, one digit, or a run of words ended by a colon.

The last makes the fixed wording of a prompt cost a few tokens instead of a dozen.
"""
UNUSED = ("pad", "reserved")
"""Words in the names of spare special tokens: <|finetune_right_pad_id|> (Llama 3.1), <|reserved_special_token_0|>
(Llama 3), <|vision_pad|> (Qwen). Text never produces these, since prompts are tokenised with special tokens split.
"""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """A tokenizer of exactly `vocab_size` pieces that adds BOS once, as Llama's does.

    Digits are split one by one, so a number is spelled the same in every context; all text can be encoded, so there is no
    unknown token. The same texts in the same order give byte-identical files. Raises UserError if the texts yield too few
    pieces.
    """
    if vocab_size < SMALLEST:
        raise UserError(
            f"model.architecture.vocab_size={vocab_size}: a byte-level tokenizer needs at least {SMALLEST} "
            "(256 bytes and 3 special tokens)"
        )
    # Split into chunks first: no piece may cross their borders.
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(CHUNKS, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, _trainer(vocab_size))
    # BPE stops early when no pair is left to merge; the model's embeddings would not match.
    found = tokenizer.get_vocab_size()
    if found < vocab_size:
        raise UserError(
            f"model.architecture.vocab_size={vocab_size}, but the text yields only {found} pieces; "
            "use a smaller vocabulary or more languages"
        )
    # Add BOS, but no EOS: callers append it where a text really ends.
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, SPECIAL.index(BOS))]
    )
    return _wrap(tokenizer)


def _trainer(vocab_size: int) -> trainers.BpeTrainer:
    """The BPE trainer; its alphabet holds all 256 bytes, so that any text can be encoded."""
    return trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )


def _wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerBase:
    """Wrap as a transformers tokenizer that `AutoTokenizer` can load."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def normalise_special_tokens(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> PreTrainedTokenizerBase:
    """Give the tokenizer BOS, EOS and a pad token within the model's `vocab_size`; changed in place and returned.

    Raises UserError if that is impossible, or if there is no fast tokenizer.
    """
    if not tokenizer.is_fast:
        raise UserError("the tokenizer has no fast version (tokenizer.json), whose character offsets training needs; convert it")
    if tokenizer.bos_token_id is None and isinstance(config.bos_token_id, int):
        tokenizer.bos_token = tokenizer.convert_ids_to_tokens(config.bos_token_id)
    rows = int(config.get_text_config().vocab_size)
    _check_rows(tokenizer, rows)
    return ensure_pad_token(tokenizer, rows)


def ensure_pad_token(tokenizer: PreTrainedTokenizerBase, rows: int | None = None) -> PreTrainedTokenizerBase:
    """Make sure that the pad token is neither BOS nor EOS; `rows` is the number of embeddings.

    Without a usable one, takes the unknown token (id 0 in Llama-2, as in the released ALMA models), else a spare token.
    """
    if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
        raise UserError(
            f"the tokenizer has bos_token={tokenizer.bos_token!r} and eos_token={tokenizer.eos_token!r}; both are "
            "needed. Use a model that defines them."
        )
    # Padding with EOS would mask every EOS label, and the model would never learn to stop.
    candidates = [tokenizer.pad_token_id, tokenizer.unk_token_id, *_spare(tokenizer)]
    taken = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    fit = [token for token in candidates if token is not None and token not in taken and (rows is None or token < rows)]
    if not fit:
        raise UserError(
            f"the tokenizer's pad_token is {tokenizer.pad_token!r}; expected one that is neither EOS nor BOS and has an "
            "embedding, and there is no unknown or spare token to use instead. Use a model whose tokenizer has its own pad token."
        )
    # Leave a usable pad token as it is.
    if fit[0] != tokenizer.pad_token_id:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(fit[0])
    return tokenizer


def _spare(tokenizer: PreTrainedTokenizerBase) -> Iterator[int]:
    """Ids of special tokens that no text uses, in order of preference."""
    added: dict[int, Any] = tokenizer.added_tokens_decoder
    for word in UNUSED:
        yield from (number for number, token in sorted(added.items()) if token.special and word in token.content)


def _check_rows(tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Raises UserError if text, BOS or EOS can be a token that has no embedding; spare special tokens may lie beyond."""
    used = {tokenizer.bos_token, tokenizer.eos_token}
    spare = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special} - used
    beyond = sorted((number, text) for text, number in tokenizer.get_vocab().items() if number >= rows and text not in spare)
    if beyond:
        raise UserError(
            f"the tokenizer has {len(beyond)} tokens beyond the model's {rows} embeddings (vocab_size), with ids up to "
            f"{beyond[-1][0]}, e.g. {[text for _, text in beyond[:3]]}; use the tokenizer the model was trained with, or resize "
            "its embeddings first"
        )

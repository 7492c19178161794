"""A byte-level BPE trained on the run's own text, for models that start from random weights.

Not for published models: those bring their tokenizer. Digits are split one by one, so that a number is spelled the
same in every context, and every text can be encoded, so that there is no unknown token.
"""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

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

"""The special tokens of published tokenizers, made sound: BOS, EOS, and a pad token that is neither.

The traps: no pad token (Llama 1 to 3), pad = EOS, which teaches a model never to stop (B59), a pad token beyond the
embeddings, and no BOS in the tokenizer though the model has one (Qwen). Chat templates are left as they are: prompts are
rendered by `prompts` alone.
"""

from collections.abc import Iterator
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from alma_pipeline.errors import UserError

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

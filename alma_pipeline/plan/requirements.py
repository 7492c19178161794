"""Checks, before anything runs, that the work of a plan can be done: its inputs, the model's shape, hardware settings, packages.

Touches no device and imports no package. What exists already is not checked.
"""

import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from alma_pipeline.errors import ConfigError
from alma_pipeline.plan import model_limits
from alma_pipeline.plan.node import Node
from alma_pipeline.plan.plan import Plan, Step
from alma_pipeline.schema import BlockTraining, Decoding, Hardware, Training, WithLanguages
from alma_pipeline.schema.metrics import METRICS

PIECES = {
    "flores101": "sacrebleu_tokenizer_spm.model",
    "flores200": "flores200sacrebleuspm",
    "spBLEU-1K": "spbleu-1k_tokenizer_spm.model",
}
"""sacrebleu's tokenizers that need the package sentencepiece, with the file that each downloads (sacrebleu 2.6)."""


def check(plan: Plan, hardware: Hardware) -> None:
    """Raises ConfigError with everything that the steps to run need and do not have."""
    nodes = {step.node.name: step.node for step in plan.steps}
    found = [text for step in plan.work for text in _missing_inputs(step, plan)]
    for step in plan.work:
        if step.verdict != "adopt":  # a published checkpoint is copied, whatever the settings of training
            found += [*model_limits.problems(step.node, nodes), *_problems(step.node, nodes, hardware)]
    if found:
        raise ConfigError(list(dict.fromkeys(found)))


def _missing_inputs(step: Step, plan: Plan) -> Iterator[str]:
    """Inputs that --only excludes and that do not exist."""
    absent = [name for name in step.inputs.values() if plan[name].record is None and not plan[name].works]
    if absent:
        others = " ".join(f"--only {name}" for name in absent)
        yield f"--only {step.node.name}: needs {' and '.join(absent)}, not made yet; add {others}, or leave --only out"


def _problems(node: Node, nodes: Mapping[str, Node], hardware: Hardware) -> Iterator[str]:
    config: Any = node.config
    if isinstance(config, Training):
        yield from _training_problems(config, node.setting, hardware)
    if isinstance(config, Training | Decoding) and config.quantization == "nf4" and node.inputs:
        yield from missing_quantiser()
    if isinstance(config, BlockTraining) and config.cross_document_attention:
        yield from _block_problems(node, nodes, hardware)
    if node.kind == "base" and config.source != "random" and not (config.repo and config.revision):
        meaning = "a repository and a commit" if config.source == "hub" else "a package and its version"
        found = f"{config.repo or 'null'} and {config.revision or 'null'}"
        yield f"model.source={config.source} needs model.repo and model.revision, {meaning}; found {found}"
    metrics: list[str] = getattr(config, "metrics", [])
    if isinstance(config, WithLanguages) and metrics:
        yield from _metric_problems(config, metrics)


def missing_quantiser() -> Iterator[str]:
    """What quantization=nf4 needs and this environment lacks."""
    if not find_spec("bitsandbytes"):
        yield (
            "quantization=nf4 needs the package bitsandbytes, which is not installed: pip install 'alma_pipeline[4bit]'; or set "
            "model.quantization=none"
        )


def _training_problems(config: Training, setting: str, hardware: Hardware) -> Iterator[str]:
    """What DeepSpeed and quantisation refuse."""
    if config.precision != "fp32" and not hardware.zero_stage:
        yield (
            f"{setting}.precision={config.precision} keeps fp32 master weights in DeepSpeed's ZeRO optimiser, found "
            "hardware.zero_stage=0; set hardware.zero_stage=1 (or 2, 3), or precision=fp32"
        )
    if hardware.offload != "none" and not hardware.zero_stage:
        yield f"hardware.offload={hardware.offload} needs ZeRO, found hardware.zero_stage=0; set it to 1, 2 or 3"
    if config.quantization == "nf4" and hardware.zero_stage == 3:
        yield f"{setting}.quantization=nf4 cannot be used with hardware.zero_stage=3, which slices weights; use stage 0, 1 or 2"


def _block_problems(node: Node, nodes: Mapping[str, Node], hardware: Hardware) -> Iterator[str]:
    """A block is one example, which a micro-batch must hold."""
    corpus = nodes.get(node.inputs.get("corpus", ""))
    for name, tokens in (corpus.config.sequence() if corpus else {}).items():
        if corpus and tokens > hardware.micro_batch_tokens:
            yield (
                f"hardware.micro_batch_tokens={hardware.micro_batch_tokens}, but {node.name} reads blocks of {tokens} tokens "
                f"({corpus.setting}.{name}); set it to {tokens} or more"
            )


def _metric_problems(config: WithLanguages, metrics: list[str]) -> Iterator[str]:
    """Missing pieces of BLEU's tokenizers, which differ by language."""
    languages: Any = config.languages.values()
    needed = {
        str(options["tokenize"]): name
        for name in metrics
        for language in languages
        if "tokenize" in (options := METRICS[name].options(language.tokenizer))
    }
    for tokenizer, name in needed.items():
        file = _models() / PIECES.get(tokenizer, "")
        if tokenizer in PIECES and not find_spec("sentencepiece"):
            yield (
                f"evaluation.metrics: {name} needs the package sentencepiece, which is not installed: pip install sentencepiece, "
                f"or remove {name}"
            )
        elif tokenizer in PIECES and not file.exists():
            download = f"python -c 'from sacrebleu import BLEU; BLEU(tokenize=\"{tokenizer}\")'"
            yield f"evaluation.metrics: {name} needs {file}, which is missing; download it once: {download}, or remove {name}"


def _models() -> Path:
    """Where sacrebleu keeps the models it downloads."""
    return Path(os.environ.get("SACREBLEU", Path.home() / ".sacrebleu")) / "models"

"""Train on parallel sentences: all weights, or a LoRA, with the loss on the target only."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from alma_pipeline.job import Job
from alma_pipeline.ml.dev_score import dev_score, spread
from alma_pipeline.ml.distributed import join
from alma_pipeline.ml.examples import Tokens, read_sequences
from alma_pipeline.ml.models import open_for_training
from alma_pipeline.ml.objective import LanguageModel
from alma_pipeline.ml.training import Score, train
from stages.parallel.config import Config


def run(job: Job) -> dict[str, Any]:
    """Inputs: `init`, the parent checkpoint; `corpus`, pairs as prompt and target. Leaves a checkpoint."""
    config: Config = job.config
    world = join(job.hardware)
    corpus = Path(job.inputs["corpus"].path)
    data, dev = read_sequences(corpus, "train"), read_sequences(corpus, "dev")
    trainee = open_for_training(job.inputs["init"], config, job.hardware, config.lora.dropout)
    objective = LanguageModel(trainee.model, job.hardware.row_tokens)
    score = _score(job, dev.examples) if config.choose_by == "dev_score" and len(dev.examples) else None
    return train(job, world, trainee, objective, data, dev, score)


def _score(job: Job, dev: Any) -> Score:
    """chrF++ of translations of some dev pairs, from their own prompts."""
    tokenizer = AutoTokenizer.from_pretrained(job.inputs["init"].path, local_files_only=True)
    return dev_score(spread(dev, job.config.dev_score_examples, _split), tokenizer, job.hardware.decode_tokens)


def _split(example: Tokens) -> Any:
    return example.ids[: example.prompt], example.ids[example.prompt :]

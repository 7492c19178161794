"""CPO, SimPO and hinge on one untruncated micro-batch, against TRL's own trainer: the same loss and gradients."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from alma_pipeline.ml.data.preference_pairs import PairLimits, PreferencePair, read_pairs
from alma_pipeline.ml.data.prompts import Prompter
from alma_pipeline.ml.training.preference_losses import LossSettings
from alma_pipeline.ml.training.preference_objective import PreferenceModel
from helpers.preference_triples import LANGUAGES, make_preferences
from helpers.tiny_model import make_base

cpo = pytest.importorskip("trl.experimental.cpo", reason="trl is a test-only dependency")
datasets = pytest.importorskip("datasets")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    torch.set_num_threads(1)
    return Path(make_base(tmp_path / "base").path)


def pairs_of(base: Path, folder: Path) -> list[PreferencePair]:
    triples = Path(make_preferences(folder, train=6).path)
    prompter = Prompter(AutoTokenizer.from_pretrained(base), "alma", LANGUAGES)
    return read_pairs(triples / "train.jsonl", prompter, PairLimits(prompt=256, length=512)).kept


def theirs(base: Path, pairs: list[PreferencePair], work: Path, **settings: Any) -> tuple[float, list[torch.Tensor]]:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    rows = {
        "prompt": [tokenizer.decode(pair.prompt[1:]) for pair in pairs],
        "chosen": [tokenizer.decode(pair.chosen[:-1]) for pair in pairs],
        "rejected": [tokenizer.decode(pair.rejected[:-1]) for pair in pairs],
    }
    arguments = cpo.CPOConfig(
        str(work), per_device_train_batch_size=len(pairs), max_length=512, beta=0.1, report_to="none", use_cpu=True,
        bf16=False, gradient_checkpointing=False, remove_unused_columns=False, **settings,
    )  # fmt: skip
    trainer = cpo.CPOTrainer(
        model=model, args=arguments, train_dataset=datasets.Dataset.from_dict(rows), processing_class=tokenizer
    )
    batch = next(iter(trainer.get_train_dataloader()))
    assert int((batch["chosen_labels"] != -100).sum()) == sum(len(pair.chosen) for pair in pairs), "nothing is truncated"
    loss, _ = trainer.get_batch_loss_metrics(trainer.model, batch)
    loss.backward()
    return loss.item(), [weight.grad for weight in trainer.model.parameters()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("terms", "settings"),
    [
        (LossSettings(0.1, 1.0, "token"), {"loss_type": "sigmoid", "cpo_alpha": 1.0}),
        (LossSettings(0.1, 0.5, "token", loss="hinge"), {"loss_type": "hinge", "cpo_alpha": 0.5}),
        (LossSettings(0.1, 1.0, "token", loss="simpo", gamma=0.5), {"loss_type": "simpo", "cpo_alpha": 0.0, "simpo_gamma": 0.5}),
        (
            LossSettings(0.1, 1.0, "token", loss="cpo_simpo", gamma=0.5),
            {"loss_type": "simpo", "cpo_alpha": 1.0, "simpo_gamma": 0.5},
        ),
    ],
)
def test_loss_and_gradients_are_trls(base: Path, tmp_path: Path, terms: LossSettings, settings: dict[str, Any]) -> None:
    pairs = pairs_of(base, tmp_path / "preferences")
    expected, slopes = theirs(base, pairs, tmp_path / "trl", **settings)
    objective = PreferenceModel(AutoModelForCausalLM.from_pretrained(base), 4096, terms)
    assert objective.layout == "packed"
    loss, _ = objective(objective.collate(pairs), objective.norms(pairs))
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    for found, slope in zip((weight.grad for weight in objective.model.parameters()), slopes, strict=True):
        torch.testing.assert_close(found, slope, rtol=1e-3, atol=1e-6)

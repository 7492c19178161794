"""The `cpo` stage, run for real on a tiny Llama under DeepSpeed: full weights, and a parent's LoRA continued."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from alma_pipeline.errors import UserError
from alma_pipeline.job import Input, Job
from alma_pipeline.ml.training.preference_losses import WITH_LIKELIHOOD
from alma_pipeline.store.identity import key_settings
from helpers.preference_triples import CHOSEN, LANGUAGES, REJECTED, ROOM, folder_bytes, make_adapter, make_preferences
from helpers.tiny_model import ADAPTER, FULL, files, logged, make_base, make_job, weights
from stages.cpo.config import USED_BY, Config
from stages.cpo.run import run

MEASURES = {
    "loss", "preference_loss", "nll", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies",
    "logps/chosen", "logps/rejected", "logps/margins", "tau",
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def cpo(work: Path, init: Input, preferences: Input, hardware: dict[str, Any] = ROOM, **settings: Any) -> Job:
    return make_job(work, "cpo", {"init": init, "preferences": preferences}, hardware, languages=LANGUAGES, **settings)


def test_a_planted_preference_is_learnt_on_all_weights(tmp_path: Path) -> None:
    """B61: exact files, every step logged, every weight moved, and held-out figures before and after."""
    base = make_base(tmp_path / "base")
    preferences = make_preferences(tmp_path / "preferences", planted=(REJECTED, CHOSEN))
    before = folder_bytes(base.path)
    job = cpo(tmp_path / "cpo", base, preferences, adapter="none", steps=30)
    result = run(job)

    assert files(job.out) == FULL
    assert result["checkpoint"] == {"form": "full"}
    assert result["steps"] == 30
    losses = logged(job, "train/loss")
    assert len(losses) == 30 and losses[-1] < losses[0]
    assert all(len(logged(job, f"train/{name}")) == 30 for name in MEASURES)
    assert [len(logged(job, f"dev/{name}")) for name in MEASURES] == [3] * len(MEASURES)
    assert set(result["before"]) == set(result["after"]) == MEASURES
    assert result["before"]["rewards/accuracies"] <= 0.5
    assert result["after"]["rewards/accuracies"] >= 0.95
    assert result["after"]["logps/margins"] > 1 > result["before"]["logps/margins"]
    assert result["after"]["rewards/margins"] == pytest.approx(0.1 * result["after"]["logps/margins"])
    old, new = weights(Path(base.path)), weights(job.out)
    assert set(old) == set(new)
    assert [name for name in old if torch.equal(old[name], new[name])] == []
    assert folder_bytes(base.path) == before


def test_a_checkpoint_may_be_chosen_by_its_translations(tmp_path: Path) -> None:
    """Of dev sources, beside the chosen answers; it is what the guard against collapse looks at, too."""
    base = make_base(tmp_path / "base")
    preferences = make_preferences(tmp_path / "preferences", planted=(REJECTED, CHOSEN))
    job = cpo(tmp_path / "cpo", base, preferences, adapter="none", steps=30, select_by="dev_score", dev_score_examples=8)
    result = run(job)
    assert set(result["before"]) == set(result["after"]) == MEASURES | {"score", "loops"}
    scores = {found["step"]: found["score"] for found in result["evaluations"]}
    assert max(scores.values()) > result["before"]["score"]
    assert result["after"]["score"] == scores[result["chosen_step"]] == max(scores.values())
    assert len(logged(job, "dev/score")) == 1 + len(scores)


def test_the_parents_lora_goes_on_and_all_else_stays(tmp_path: Path) -> None:
    """The LoRA's dropout is off, as the published trainer has it; base and parent keep every byte."""
    base = make_base(tmp_path / "base")
    parent = make_adapter(tmp_path, base)
    before = folder_bytes(base.path), folder_bytes(parent.path)
    preferences = make_preferences(tmp_path / "preferences", planted=(REJECTED, CHOSEN))
    # The frozen random head leaves a LoRA little room: the preference term must outweigh the likelihood's.
    job = cpo(tmp_path / "cpo", parent, preferences, adapter="continue", steps=40, learning_rate=5e-2, beta=1.0)
    result = run(job)

    assert files(job.out) == ADAPTER
    assert result["checkpoint"] == {"form": "adapter"}
    assert result["trained_parameters"] < result["parameters"]
    old, new = weights(Path(parent.path)), weights(job.out)
    assert set(old) == set(new) and len(new) == 2 * 2 * 2
    assert [name for name in old if torch.equal(old[name], new[name])] == []
    assert (folder_bytes(base.path), folder_bytes(parent.path)) == before
    settings = [json.loads((folder / "adapter_config.json").read_text()) for folder in (Path(parent.path), job.out)]
    assert [item["lora_dropout"] for item in settings] == [0.1, 0.0]
    assert json.loads((job.out / "base.json").read_text()) == {"base_key": base.key, "merged": []}
    assert result["before"]["rewards/accuracies"] <= 0.5
    assert result["after"]["rewards/accuracies"] >= 0.95


def reference_loss(model: torch.nn.Module, folder: str, triples: Path, beta: float) -> float:
    """The loss of a file of triples written out from text: one sequence at a time, no batch, no padding."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    names = {code: language.name for code, language in LANGUAGES.items()}
    pair_terms, likelihood, labels = [], 0.0, 0
    for row in map(json.loads, triples.read_text().splitlines()):
        source, target = (names[code] for code in row["direction"].split("-"))
        prompt = f"Translate this from {source} to {target}:\n{source}: {row['source']}\n{target}:"
        sums = []
        for answer in (row["chosen"], row["rejected"]):
            start = 1 + len(tokenizer.tokenize(prompt))
            ids = torch.tensor([[0, *tokenizer.convert_tokens_to_ids(tokenizer.tokenize(prompt + answer)), 1]])
            with torch.no_grad():
                logprobs = model(input_ids=ids).logits[0, start - 1 : -1].log_softmax(-1)
            sums.append(logprobs.gather(1, ids[0, start:, None]).sum().item())
            likelihood, labels = likelihood - sums[0] * (len(sums) == 1), labels + len(logprobs) * (len(sums) == 1)
        pair_terms.append(math.log1p(math.exp(-beta * (sums[0] - sums[1]))))
    return sum(pair_terms) / len(pair_terms) + likelihood / labels


def test_the_first_loss_is_that_of_the_parent(tmp_path: Path) -> None:
    """From text to loss with nothing of ours between; a dropout left on would show in the training step."""
    base = make_base(tmp_path / "base")
    parent = make_adapter(tmp_path, base)
    preferences = make_preferences(tmp_path / "preferences", train=8, dev=5)
    job = cpo(tmp_path / "cpo", parent, preferences, adapter="continue", steps=1, beta=0.7)
    result = run(job)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.path), parent.path).eval()
    expected = {
        name: reference_loss(model, base.path, Path(preferences.path) / f"{name}.jsonl", 0.7) for name in ("train", "dev")
    }
    assert logged(job, "train/loss") == pytest.approx([expected["train"]], rel=1e-6)
    assert logged(job, "dev/loss")[0] == result["before"]["loss"] == pytest.approx(expected["dev"], rel=1e-6)


def test_the_run_does_not_depend_on_the_size_of_a_micro_batch(tmp_path: Path) -> None:
    """B53: one pair at a time against all at once, through DeepSpeed; the gradient's norm would show a wrong scale."""
    base = make_base(tmp_path / "base")
    preferences = make_preferences(tmp_path / "preferences")
    jobs = {
        tokens: cpo(
            tmp_path / f"cpo{tokens}",
            base,
            preferences,
            {"micro_batch_tokens": tokens},
            adapter="none",
            max_grad_norm=0.0,
            steps=4,
        )
        for tokens in (64, 4096)
    }
    for job in jobs.values():
        run(job)
    for name in ("loss", "grad_norm", "nll", "rewards/accuracies", "logps/margins"):
        one, all_at_once = (logged(job, f"train/{name}") for job in jobs.values())
        assert one[0] == pytest.approx(all_at_once[0], rel=2e-6)
        assert one == pytest.approx(all_at_once, rel=1e-3)


def test_pairs_that_do_not_fit_are_dropped_and_reported(tmp_path: Path) -> None:
    """B51, B56."""
    extra = {
        "empty": {"rejected": ""},
        "long answer": {"rejected": " ".join([CHOSEN] * 50)},
        "long prompt": {"source": " ".join([CHOSEN] * 50)},
        "same": {"chosen": CHOSEN, "rejected": CHOSEN},
    }
    preferences = make_preferences(tmp_path / "preferences", train=10, dev=4, extra=extra)
    job = cpo(tmp_path / "cpo", make_base(tmp_path / "base"), preferences, adapter="none", steps=1, max_prompt=32, max_length=48)
    reasons = {"empty": 1, "answer_too_long": 1, "prompt_too_long": 1, "identical": 1}
    assert run(job)["pairs"] == {
        "train": {"pairs": 10, "dropped": reasons, "joined_lines": 0, "merged": 0},
        "dev": {"pairs": 4, "dropped": {}, "joined_lines": 0, "merged": 0},
    }


def test_settings_that_do_not_fit_the_parent_are_errors(tmp_path: Path) -> None:
    base, preferences = make_base(tmp_path / "base"), make_preferences(tmp_path / "preferences")
    parent = make_adapter(tmp_path, base)
    with pytest.raises(UserError, match="adapter=continue needs a parent with an adapter, found a full model; use adapter=new"):
        run(cpo(tmp_path / "a", base, preferences, adapter="continue"))
    with pytest.raises(
        UserError, match=r"adapter=none needs a full model as parent.*use adapter=continue or adapter=merge_then_new"
    ):
        run(cpo(tmp_path / "b", parent, preferences, adapter="none"))
    with pytest.raises(UserError, match=r"hardware\.micro_batch_tokens=8, but the longest training example takes"):
        run(cpo(tmp_path / "c", base, preferences, {"micro_batch_tokens": 8}, adapter="none"))


@pytest.mark.parametrize("loss", ["hinge", "simpo", "cpo_simpo", "dpo", "ipo"])
def test_other_losses_learn_the_planted_preference(tmp_path: Path, loss: str) -> None:
    base = make_base(tmp_path / "base")
    preferences = make_preferences(tmp_path / "preferences", planted=(REJECTED, CHOSEN))
    result = run(cpo(tmp_path / "cpo", base, preferences, adapter="none", steps=30, loss=loss))
    assert result["after"]["rewards/accuracies"] >= 0.95
    assert result["after"]["logps/margins"] > 1 > result["before"]["logps/margins"]
    if loss in ("dpo", "ipo"):
        # Measured against the parent itself, nothing is gained before the first step.
        assert result["before"]["rewards/margins"] == pytest.approx(0, abs=1e-6)
        assert result["before"]["loss"] == pytest.approx(math.log(2) if loss == "dpo" else 25, rel=1e-5)


def test_a_loss_that_was_added_later_leaves_the_old_keys_alone(tmp_path: Path) -> None:
    preferences = make_preferences(tmp_path / "preferences")
    job = cpo(tmp_path / "cpo", make_base(tmp_path / "base"), preferences)
    assert {"loss", "gamma"} & set(key_settings(job.config)) == set()
    changed = cpo(tmp_path / "other", make_base(tmp_path / "base2"), preferences, loss="dpo")
    assert key_settings(changed.config)["loss"] == "dpo"


@pytest.mark.parametrize(
    ("loss", "changes", "refused"),
    [
        ("cpo", {"nll_weight": 0.5, "nll_norm": "sequence"}, []),
        ("cpo", {"gamma": 1.0}, ["gamma"]),
        ("hinge", {"nll_weight": 0.5, "gamma": 1.0}, ["gamma"]),
        ("cpo_simpo", {"nll_weight": 0.5, "gamma": 1.0}, []),
        ("simpo", {"gamma": 1.0, "nll_weight": 0.5}, ["nll_weight"]),
        ("dpo", {"gamma": 1.0, "nll_weight": 0.5, "nll_norm": "sequence"}, ["nll_weight", "nll_norm", "gamma"]),
        ("ipo", {}, []),
    ],
)
def test_a_setting_that_the_loss_does_not_have_is_refused(loss: str, changes: dict[str, Any], refused: list[str]) -> None:
    """It would change the key, and nothing else."""
    said = list(Config(steps=1, loss=loss, **changes).conflicts())
    assert [text.split("=")[0] for text in said] == refused
    assert all(f"has no effect with loss={loss}; use loss=" in text for text in said)


def test_the_losses_with_a_likelihood_are_those_that_add_it() -> None:
    assert set(USED_BY["nll_weight"]) == set(USED_BY["nll_norm"]) == WITH_LIKELIHOOD

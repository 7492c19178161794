"""When a run counts as lost beside its parent, and that the loop stops there."""

from pathlib import Path
from typing import Any

import pytest
from torch import nn
from transformers import AutoTokenizer

from alma_pipeline.ml.data.token_arrays import read_sequences
from alma_pipeline.ml.decoding import decode
from alma_pipeline.ml.distributed import init_process_group
from alma_pipeline.ml.models.open import open_for_training
from alma_pipeline.ml.training.dev_set import DevSample, dev_score, divergence
from alma_pipeline.ml.training.loop import train
from alma_pipeline.ml.training.objective import LanguageModel
from alma_pipeline.ml.training.step_log import Diverged
from alma_pipeline.schema import Training
from helpers.tiny_model import make_base, make_job, make_pairs

PARENT = {"loss": 2.0, "score": 40.0, "loops": 0.1}


def found(now: dict[str, float], parent: dict[str, float] = PARENT, **settings: Any) -> str | None:
    return divergence(Training(kind="test", steps=1, **settings), parent, PARENT | now, "now")


@pytest.mark.parametrize("now", [{}, {"loss": 3.0}, {"score": 20.0}, {"loops": 0.5}, {"loss": 0.1, "score": 90.0, "loops": 0.0}])
def test_a_run_within_its_limits_goes_on(now: dict[str, float]) -> None:
    assert found(now) is None


@pytest.mark.parametrize("loss", [3.01, float("nan"), float("inf")])
def test_dev_loss_above_the_parents(loss: float) -> None:
    assert found({"loss": loss}) == f"the dev loss is {loss:.4g} now, above 3 = max_dev_loss_ratio x 2, the parent's"


def test_dev_score_below_the_parents() -> None:
    assert found({"score": 19.9}) == "the dev score is 19.9 now, below 20 = min_dev_score_ratio x 40, the parent's"
    assert found({"score": 19.9}, min_dev_score_ratio=0.4) is None
    assert found({"score": 0.0}, min_dev_score_ratio=0.0) is None


def test_repetition_loops_beyond_the_limit_and_the_parents() -> None:
    told = "60% of the dev translations are repetition loops now, above 50% = max_loop_share and above the parent's 10%"
    assert found({"loops": 0.6}) == told
    assert found({"loops": 0.6}, max_loop_share=0.6) is None
    assert found({"loops": 0.6}, PARENT | {"loops": 0.7}) is None
    assert found({"loops": 0.8}, PARENT | {"loops": 0.7}) is not None


def test_an_untrained_parent_has_nothing_to_lose() -> None:
    assert found({"score": 1.0, "loops": 1.0}, {"loss": 9.0, "score": 3.0, "loops": 0.0}) is None


def test_without_a_dev_score_only_the_loss_tells() -> None:
    assert divergence(Training(kind="test", steps=1), {"loss": 2.0}, {"loss": 2.5}, "now") is None


def test_a_run_begun_before_loops_were_counted() -> None:
    assert found({"loops": 0.6}, {"loss": 2.0, "score": 40.0}) is not None


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ({"score": 3.0}, r"the dev score is 3 after step 4 of 6, below 15 = min_dev_score_ratio x 30, the parent's"),
        ({"loops": 0.75}, r"75% of the dev translations are repetition loops after step 4 of 6, above 50% = max_loop_share"),
    ],
)
def test_the_loop_stops_and_says_where_the_last_good_checkpoint_is(tmp_path: Path, lost: dict[str, float], message: str) -> None:
    corpus = make_pairs(tmp_path / "pairs")
    job = make_job(
        tmp_path / "work",
        "parallel",
        {"init": make_base(tmp_path / "base"), "corpus": corpus},
        select_by="dev_score",
        evaluations=3,
    )
    trainee = open_for_training(job.inputs["init"], job.config, job.hardware, 0.0)
    told = iter([{"score": 30.0, "loops": 0.0}, {"score": 31.0, "loops": 0.0}, {"score": 31.0, "loops": 0.0} | lost])
    data, dev = (read_sequences(Path(corpus.path), name) for name in ("train", "dev"))
    objective = LanguageModel(trainee.model, job.hardware.micro_batch_tokens)
    with pytest.raises(Diverged, match=message) as error:
        train(job, init_process_group(job.hardware), trainee, objective, data, dev, lambda model: next(told))
    assert str(error.value).endswith(f"Log: {job.work}/metrics.jsonl. Last good checkpoint: {job.work}/best-2")
    assert "dev/loops" in (Path(job.work) / "metrics.jsonl").read_text()


def test_loops_of_the_references_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = AutoTokenizer.from_pretrained(make_base(tmp_path / "base").path)
    loop, plain = [10] * 8, [10, 11, 12]
    monkeypatch.setattr(decode, "greedy", lambda model, prompts, limits, on_lowered: [loop, loop, plain, plain])
    sample = DevSample([[3]] * 4, [plain, loop, plain, plain])
    measures = dev_score(sample, tokenizer, 64)(nn.Module())
    assert measures["loops"] == 0.25 and 0 < measures["score"] < 100

"""The loop: what it logs, keeps, refuses and returns, in one process and in two."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from alma_pipeline.errors import PipelineError, UserError
from alma_pipeline.job import Input, Job
from alma_pipeline.ml.data.token_arrays import read_sequences
from alma_pipeline.ml.distributed import init_process_group
from alma_pipeline.ml.models.open import open_for_training
from alma_pipeline.ml.training import logprobs
from alma_pipeline.ml.training.engine import Engine, adamw, deepspeed_config
from alma_pipeline.ml.training.objective import LanguageModel
from alma_pipeline.ml.training.step_log import Diverged, StepLog, TrainingStep
from alma_pipeline.schema import Hardware, Training
from helpers.tiny_model import ADAPTER, FULL, files, lines, logged, make_base, make_documents, make_job, make_pairs, weights
from helpers.two_processes import RESUMED_AT
from stages.parallel.run import run


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Input]:
    return {"init": make_base(tmp_path / "base"), "corpus": make_pairs(tmp_path / "pairs")}


def job_of(tmp_path: Path, inputs: dict[str, Input], hardware: dict[str, Any] | None = None, **settings: Any) -> Job:
    return make_job(tmp_path / "work", "parallel", inputs, hardware, **settings)


def test_each_step_and_evaluation_is_logged(tmp_path: Path, inputs: dict[str, Input]) -> None:
    job = job_of(tmp_path, inputs, schedule="linear")
    run(job)
    train = [line for line in lines(job) if "train/loss" in line["metrics"]]
    assert [line["step"] for line in train] == [1, 2, 3, 4, 5, 6]
    names = {"train/loss", "train/learning_rate", "train/grad_norm", "train/tokens_per_second"}
    assert all(set(line["metrics"]) == names and line["total"] == 6 for line in train)
    assert logged(job, "train/learning_rate") == pytest.approx([1e-2 * (6 - step) / 6 for step in range(6)])
    assert [line["step"] for line in lines(job) if "dev/loss" in line["metrics"]] == [0, 3, 6]


def test_result_counts_what_was_trained_on(tmp_path: Path, inputs: dict[str, Input]) -> None:
    result = run(job_of(tmp_path, inputs, epochs=2, steps=None))  # 40 pairs twice, 8 a step
    data = read_sequences(Path(inputs["corpus"].path), "train")
    assert result["steps"] == 10
    assert result["tokens"] == 2 * data.tokens
    assert result["labels"] == 2 * sum(len(example.ids) - example.prompt for example in data.examples)
    assert result["trained_parameters"] == result["parameters"] == sum(t.numel() for t in weights(tmp_path / "base").values())
    assert result["tokens_per_second"] == pytest.approx(result["tokens"] / result["seconds"])
    assert result["peak_memory_bytes"] > 0 < result["start_seconds"]
    json.dumps(result, allow_nan=False)


def test_dev_loss_is_measured_before_and_after_on_all_of_dev(tmp_path: Path, inputs: dict[str, Input]) -> None:
    job = job_of(tmp_path, inputs, {"micro_batch_tokens": 24}, steps=12, learning_rate=2e-2)
    result = run(job)
    assert result["before"]["loss"] == pytest.approx(dev_loss(Path(inputs["init"].path), inputs), rel=1e-6)
    assert result["after"]["loss"] == pytest.approx(dev_loss(job.out, inputs), rel=1e-6)
    assert result["after"]["loss"] < result["before"]["loss"]


def dev_loss(checkpoint: Path, inputs: dict[str, Input]) -> float:
    """In one batch, without the loop."""
    from alma_pipeline.ml.models.load import load_full

    objective = LanguageModel(load_full(checkpoint, torch.float32).eval(), 64)
    dev = read_sequences(Path(inputs["corpus"].path), "dev").examples[:]
    with torch.no_grad():
        return float(objective(objective.collate(dev), objective.norms(dev))[0])


@pytest.mark.parametrize("select_by", ["dev_loss", "dev_score", "last"])
def test_checkpoint_is_chosen_by_the_nodes_rule(tmp_path: Path, inputs: dict[str, Input], select_by: str) -> None:
    """B12: with a rate this high the dev loss rises again, so that the rules part ways."""
    job = job_of(
        tmp_path,
        inputs,
        steps=16,
        learning_rate=0.1,
        evaluations=8,
        select_by=select_by,
        schedule="constant",
        max_dev_loss_ratio=9.0,
    )
    result = run(job)
    losses = {int(found["step"]): found["loss"] for found in result["evaluations"]}
    assert list(losses) == [2, 4, 6, 8, 10, 12, 14, 16]
    assert min(losses, key=losses.__getitem__) != 16
    if select_by == "dev_score":
        scores = {int(found["step"]): found["score"] for found in result["evaluations"]}
        assert result["chosen_step"] == max(scores, key=scores.__getitem__)
    else:
        assert result["chosen_step"] == (16 if select_by == "last" else min(losses, key=losses.__getitem__))
    assert dev_loss(job.out, inputs) == pytest.approx(losses[result["chosen_step"]], rel=1e-6)
    assert files(job.out) == FULL
    assert [path.name for path in Path(job.work).glob("best-*")] == [f"best-{result['chosen_step']}"]


def test_run_that_gets_worse_is_stopped(tmp_path: Path, inputs: dict[str, Input]) -> None:
    """B60"""
    job = job_of(tmp_path, inputs, learning_rate=1.0, max_dev_loss_ratio=1.05, schedule="constant")
    with pytest.raises(Diverged, match=r"the dev loss is .* after step 3 of 6, above .* = max_dev_loss_ratio x .*") as error:
        run(job)
    assert f"{job.work}/metrics.jsonl" in str(error.value)
    assert "Last good checkpoint: the parent" in str(error.value)


def test_loss_that_is_no_number_stops_the_run(tmp_path: Path, inputs: dict[str, Input]) -> None:
    with pytest.raises(Diverged, match=r"is nan at step 2 of 6.*smaller learning_rate"):
        run(job_of(tmp_path, inputs, learning_rate=1e30, schedule="constant"))


def test_labels_not_seen_exactly_once_stop_the_run(tmp_path: Path, inputs: dict[str, Input]) -> None:
    """B5"""
    job = job_of(tmp_path, inputs)
    log = StepLog(job, init_process_group(job.hardware), 6, lambda totals: {"loss": totals["labels"]})
    log.add(TrainingStep(1, {"labels": torch.tensor(30.0, dtype=torch.float64)}, 1.0, 0.1, tokens=50, labels=31))
    with pytest.raises(PipelineError, match="step 1 saw 30 labels in its micro-batches, but its global batch has 31"):
        log.flush(is_writing=False)


def test_row_budget_below_the_longest_example_is_refused(tmp_path: Path, inputs: dict[str, Input]) -> None:
    """B5"""
    with pytest.raises(UserError, match=r"hardware.micro_batch_tokens=8, but the longest training example takes \d+ tokens"):
        run(job_of(tmp_path, inputs, {"micro_batch_tokens": 8}))


def test_monolingual_training_has_no_dev_score(tmp_path: Path, inputs: dict[str, Input]) -> None:
    from stages.mono.run import run as run_mono

    inputs["corpus"] = make_documents(tmp_path / "documents")
    with pytest.raises(UserError, match="select_by=dev_score: mono has no dev score"):
        run_mono(make_job(tmp_path / "work", "mono", inputs, select_by="dev_score"))


def test_processes_must_be_those_of_the_hardware(tmp_path: Path, inputs: dict[str, Input]) -> None:
    with pytest.raises(UserError, match=r"hardware.devices x hardware.nodes = 2, but 1 processes were started"):
        run(job_of(tmp_path, inputs, {"devices": 2, "launcher": "torchrun"}))


@pytest.mark.parametrize(
    ("settings", "hardware", "message"),
    [
        ({"precision": "bf16"}, {}, "precision=bf16 .* set hardware.zero_stage to 1, 2 or 3"),
        ({}, {"offload": "cpu"}, "hardware.offload=cpu needs ZeRO"),
        ({"precision": "fp16"}, {"zero_stage": 1}, "precision=fp16 is not supported by DeepSpeed on cpu; use fp32 or bf16"),
    ],
)
def test_impossible_combinations_are_refused(settings: dict[str, Any], hardware: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        deepspeed_config(Training(kind="test", steps=1, **settings), Hardware(name="test", **hardware), trained=[1])


@pytest.mark.parametrize("hardware", [{"zero_stage": 2}, {"zero_stage": 2, "offload": "cpu"}, {"zero_stage": 3}])
def test_bf16_trains(tmp_path: Path, inputs: dict[str, Input], hardware: dict[str, Any]) -> None:
    job = job_of(tmp_path, inputs, hardware, precision="bf16", learning_rate=2e-2, steps=8)
    result = run(job)
    assert result["after"]["loss"] < result["before"]["loss"] - 0.03
    assert {tensor.dtype for tensor in weights(job.out).values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("hardware", "held"), [({"gradient_checkpointing": True}, 2**25), ({}, 500), ({"zero_stage": 3, "offload": "cpu"}, 500)]
)
def test_hardware_does_not_change_the_result(
    tmp_path: Path, inputs: dict[str, Input], hardware: dict[str, Any], held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recomputed activations, logits in pieces, and ZeRO with offload: the same losses."""
    plain = make_job(tmp_path / "plain", "parallel", inputs, adapter="new")
    other = make_job(tmp_path / "other", "parallel", inputs, hardware, adapter="new")
    run(plain)
    monkeypatch.setattr(logprobs, "WHOLE_LOGITS", held)
    run(other)
    for name in ("train/loss", "dev/loss", "train/grad_norm"):
        assert logged(other, name) == pytest.approx(logged(plain, name), rel=1e-4)


def test_zero_3_leaves_torch_as_it_was(tmp_path: Path, inputs: dict[str, Input]) -> None:
    """Its own linear keeps the inputs of frozen matrices: what is done after training would need more memory."""
    plain = torch.nn.functional.linear
    run(job_of(tmp_path, inputs, {"zero_stage": 3}, steps=1))
    assert torch.nn.functional.linear is plain


def test_vectors_do_not_decay(inputs: dict[str, Input]) -> None:
    config = Training(kind="test", steps=1, weight_decay=0.25, seed=1)
    module = open_for_training(inputs["init"], config, Hardware(name="test"), 0.0).model
    decays = {id(p): group["weight_decay"] for group in adamw(module, config).param_groups for p in group["params"]}
    assert {name for name, p in module.named_parameters() if decays[id(p)] == 0} == {
        name for name, p in module.named_parameters() if "norm" in name
    }


@pytest.mark.parametrize("clip", [0.0, 0.01])
def test_clipping_scales_the_gradient_and_reports_its_norm(tmp_path: Path, inputs: dict[str, Input], clip: float) -> None:
    job = job_of(tmp_path, inputs, max_grad_norm=clip)
    trainee = open_for_training(inputs["init"], job.config, job.hardware, 0.0)
    before = {name: p.detach().clone() for name, p in trainee.model.named_parameters()}
    init_process_group(job.hardware)
    engine = Engine(trainee.model, torch.optim.SGD(trainee.model.parameters(), lr=1.0), job.config, job.hardware, 1)
    ids = torch.arange(3, 13)[None]
    engine.backward(engine.deepspeed(input_ids=ids, labels=ids).loss)
    engine.step(1.0)
    moved = math.sqrt(sum(float((before[name] - p.detach()).square().sum()) for name, p in trainee.model.named_parameters()))
    assert float(engine.grad_norm) > 0.1
    assert moved == pytest.approx(clip or float(engine.grad_norm), rel=1e-3)
    engine.close()


# Two processes: everything in one start of torchrun.


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outcomes of `two_processes` with two processes, and of the same training with one."""
    folder = tmp_path_factory.mktemp("two")
    inputs = {"init": make_base(folder / "base"), "corpus": make_pairs(folder / "pairs")}
    make_documents(folder / "documents")
    run(make_job(folder / "alone", "parallel", inputs))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    with open(folder / "log.txt", "w") as log:
        done = subprocess.run(
            [*command, "-m", "helpers.two_processes", str(folder)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
            check=False,
            timeout=1800,
        )
    assert done.returncode == 0, (folder / "log.txt").read_text()[-3000:]
    return folder


def of(folder: Path, case: str, name: str) -> list[float]:
    found = [json.loads(line)["metrics"] for line in (folder / case / "metrics.jsonl").read_text().splitlines()]
    return [metrics[name] for metrics in found if name in metrics]


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", range(4))
def test_two_processes_train_as_one(pair: Path, zero_stage: int) -> None:
    """B61: what is logged is of the global batch and of all of dev, whoever worked on it."""
    case = f"parallel-{zero_stage}"
    for name in ("train/loss", "train/grad_norm", "dev/loss", "train/learning_rate"):
        assert of(pair, case, name) == pytest.approx(of(pair, "alone", name), rel=1e-4)
    assert files(pair / case / "out") == FULL
    alone = weights(pair / "alone/out")
    for name, tensor in weights(pair / case / "out").items():
        torch.testing.assert_close(tensor, alone[name], rtol=1e-2, atol=1e-4)


@pytest.mark.slow
def test_adapter_under_zero_3_is_saved_whole(pair: Path) -> None:
    """B6: elsewhere the slices of ZeRO-3 are saved as empty tensors."""
    assert files(pair / "adapter-3/out") == ADAPTER
    state = weights(pair / "adapter-3/out")
    assert {tuple(tensor.shape) for tensor in state.values()} == {(4, 16), (16, 4), (4, 32)}
    assert len(state) == 8
    assert all(tensor.any() and torch.isfinite(tensor).all() for tensor in state.values())


@pytest.mark.slow
def test_two_processes_under_zero_3_are_taken_up_bit_for_bit(pair: Path) -> None:
    """B1: each process's slices and random generators are restored."""
    resumed = (pair / "resumed/out/adapter_model.safetensors").read_bytes()
    assert resumed == (pair / "uninterrupted/out/adapter_model.safetensors").read_bytes()
    assert of(pair, "resumed", "train/loss") == of(pair, "uninterrupted", "train/loss")[RESUMED_AT:]

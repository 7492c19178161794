"""The `arpo` stage, run for real on a tiny Llama's LoRA under DeepSpeed. What it shares with `cpo` is tested there."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from alma_pipeline.errors import UserError
from alma_pipeline.job import Input, Job
from helpers.preference_triples import LANGUAGES, ROOM, folder_bytes, make_adapter, make_preferences
from helpers.tiny_model import ADAPTER, files, logged, make_base, make_job, weights
from stages.arpo.config import Config
from stages.arpo.run import run


class Parts(NamedTuple):
    """What every run here starts from."""

    base: Input
    parent: Input
    preferences: Input


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    folder = tmp_path_factory.mktemp("arpo")
    base = make_base(folder / "base")
    return Parts(base, make_adapter(folder, base), make_preferences(folder / "preferences", repeats=True))


def arpo(work: Path, parts: Parts, init: Input | None = None, **settings: Any) -> Job:
    inputs = {"init": init or parts.parent, "preferences": parts.preferences}
    return make_job(work, "arpo", inputs, ROOM, languages=LANGUAGES, **settings)


@pytest.mark.parametrize("tau", ["paper", "released"])
@pytest.mark.parametrize("tau_gradient", [True, False])
def test_a_planted_preference_is_learnt_on_a_groups_lora(tmp_path: Path, parts: Parts, tau: str, tau_gradient: bool) -> None:
    """Exact files, every step logged, the LoRA moved, base and parent byte-identical, accuracy before and after."""
    before = folder_bytes(parts.base.path), folder_bytes(parts.parent.path)
    job = arpo(tmp_path, parts, tau=tau, tau_gradient=tau_gradient, steps=40)
    result = run(job)

    assert files(job.out) == ADAPTER
    assert result["checkpoint"] == {"form": "adapter"}
    assert len(logged(job, "train/loss")) == 40
    assert result["after"]["loss"] < result["before"]["loss"]
    old, new = weights(Path(parts.parent.path)), weights(job.out)
    assert set(old) == set(new)
    assert [name for name in old if torch.equal(old[name], new[name])] == []
    assert (folder_bytes(parts.base.path), folder_bytes(parts.parent.path)) == before
    assert result["before"]["rewards/accuracies"] <= 0.5
    assert result["after"]["rewards/accuracies"] >= 0.95
    assert result["after"]["logps/margins"] > 0.3 > result["before"]["logps/margins"]
    assert result["pairs"]["train"]["pairs"] == 48


def test_a_checkpoint_may_be_chosen_by_its_translations(tmp_path: Path, parts: Parts) -> None:
    job = arpo(tmp_path, parts, steps=1, select_by="dev_score", dev_score_examples=4)
    assert {"score", "loops"} < set(run(job)["after"])
    assert len(logged(job, "dev/score")) == 2


def test_each_variant_weighs_the_rejected_answer_by_its_own_tau(tmp_path: Path, parts: Parts) -> None:
    """One held-out pair, so that its figures are the means: z, tau and loss follow from its two log-probabilities."""
    one = parts._replace(preferences=make_preferences(tmp_path / "preferences", dev=1))
    variants: dict[str, tuple[dict[str, Any], Callable[[float], float]]] = {
        "paper": ({}, lambda z: math.exp(1.5 * z) - 1),
        "eta": ({"eta": 9.0}, lambda z: math.exp(9.0 * z) - 1),
        "released": ({"tau": "released"}, lambda z: 0.9 * math.exp(0.4 * z) - 1),
    }
    for name, (settings, tau) in variants.items():
        found = run(arpo(tmp_path / name, one, steps=1, beta=0.3, **settings))["before"]
        labels = round(-found["logps/chosen"] / found["nll"])  # as many in the rejected answer: one word differs
        expected = tau(abs(found["logps/margins"]) / labels)
        inner = 0.3 * (found["logps/chosen"] - expected * found["logps/rejected"])
        assert found["tau"] == pytest.approx(expected, rel=1e-9)
        assert found["preference_loss"] == pytest.approx(math.log1p(math.exp(-inner)), rel=1e-9)
        assert (found["tau"] < 0) == (name == "released")
        assert found["loss"] == pytest.approx(found["preference_loss"] + found["nll"])


def test_the_gradient_goes_through_tau_when_asked(tmp_path: Path, parts: Parts) -> None:
    """Same first loss, another gradient."""
    jobs = [arpo(tmp_path / str(on), parts, tau_gradient=on, nll_weight=0.0, max_grad_norm=0.0, steps=1) for on in (True, False)]
    for job in jobs:
        run(job)
    losses, norms = ([logged(job, f"train/{name}")[0] for job in jobs] for name in ("loss", "grad_norm"))
    assert losses[0] == losses[1]
    assert abs(norms[0] - norms[1]) > 0.01 * norms[1]


def test_the_likelihood_term_follows_its_settings(tmp_path: Path, parts: Parts) -> None:
    result = run(arpo(tmp_path, parts, nll_norm="sequence", nll_weight=0.5, steps=1))
    found = result["before"]
    assert found["loss"] == pytest.approx(found["preference_loss"] - 0.5 * found["logps/chosen"])


def test_a_group_node_needs_a_parent_with_a_lora(tmp_path: Path, parts: Parts) -> None:
    assert Config().adapter == "continue"
    message = "adapter=continue needs a parent with an adapter, found a full model; use adapter=new"
    with pytest.raises(UserError, match=message):
        run(arpo(tmp_path, parts, init=parts.base))


def test_eta_is_of_the_papers_tau() -> None:
    """With the other it would change the key, and nothing else."""
    assert list(Config(steps=1, eta=2.0).conflicts()) == list(Config(steps=1, tau="released").conflicts()) == []
    [said] = Config(steps=1, eta=2.0, tau="released").conflicts()
    assert said.startswith("eta=2.0 has no effect with tau=released")

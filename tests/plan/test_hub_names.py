"""A folder is never taken for a repository of the hub, whose key would hold its path and not its content."""

from pathlib import Path

import pytest

from alma_pipeline.errors import ConfigError
from alma_pipeline.plan.hub_names import is_folder
from alma_pipeline.plan.plan import make_plan
from alma_pipeline.store.store import Store
from helpers.plans import real

HUB = ("model.source=hub", "model.revision=main")


def problems(store: Store, *words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        make_plan(real(*words), store)
    return "\n".join(caught.value.problems)


@pytest.mark.parametrize("folder", ["/a/folder", "./m", "~/m", "a/b/c", "m"])
def test_a_folder_as_the_base_is_refused_with_the_verb_that_takes_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    (tmp_path / "m").mkdir()
    monkeypatch.chdir(tmp_path)
    said = problems(store, "stage=base", *HUB, f"model.repo='{folder}'")
    assert said.startswith(f"model.repo={folder}: expected OWNER/NAME on the hub, found a path")
    assert f"alma-pipeline adopt base {folder} model=tiny" in said


def test_the_command_that_adopts_a_folder_can_be_pasted(store: Store) -> None:
    assert "`alma-pipeline adopt base '/a b (1)' model=tiny`" in problems(store, "stage=base", *HUB, "model.repo='/a b (1)'")
    assert "`alma-pipeline adopt base ~/'a b' model=tiny`" in problems(store, "stage=base", *HUB, "model.repo='~/a b'")


@pytest.mark.parametrize("repo", ["meta-llama/Llama-2-7b-hf", "gpt2", "a.b/c_d-1.0"])
def test_a_repository_is_planned(store: Store, repo: str) -> None:
    assert not is_folder(repo)
    assert make_plan(real("stage=base", *HUB, f"model.repo={repo}"), store)["base"].verdict == "run"


def test_a_folder_as_a_data_set_is_refused_with_the_settings_that_take_it(store: Store) -> None:
    said = problems(
        store, "stage=parallel", "data.parallel.reader=hub", "data.parallel.repo=./x", "data.parallel.revision=" + "1" * 40
    )
    assert said.startswith("data.parallel.repo=./x: expected OWNER/NAME on the hub, found a path")
    assert "data.parallel.reader=files" in said and "\n" not in said, "once, though two nodes may read it"


def test_a_folder_as_a_published_checkpoint_is_refused(store: Store) -> None:
    said = problems(store, "stage=cpo", "model=7b", "model.released.mono.repo=/a/mono")
    assert said.startswith("model.released.mono.repo=/a/mono: expected OWNER/NAME") and "adopt mono /a/mono model=7b" in said


def test_a_folder_as_a_scorer_is_refused(store: Store) -> None:
    said = problems(store, "stage=base", "evaluation.comet.models=[comet-22]", "scorers.comet-22.model=/a/comet")
    assert said.startswith("scorers.comet-22.model=/a/comet: expected OWNER/NAME on the hub, found a path; name the .ckpt file")

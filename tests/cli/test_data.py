"""The verb `data`: text is prepared and shown, nothing is trained."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from alma_pipeline.cli.data import chosen_nodes
from alma_pipeline.errors import ConfigError
from alma_pipeline.plan.plan import make_plan
from alma_pipeline.plan.step import Rerun
from alma_pipeline.schema import Config
from alma_pipeline.store.store import Store
from helpers.text_files import json_lines, nested


def test_only_the_text_that_is_asked_for_is_prepared_and_the_base_that_shows_it(store: Store, cpo: Config) -> None:
    def chosen(rerun: Rerun) -> list[str]:
        return chosen_nodes(make_plan(cpo, store, rerun), rerun)

    assert {"base", "mono_corpus", "parallel_corpus"} <= set(chosen(Rerun()))
    assert chosen(Rerun(only=("parallel_corpus",))) == ["base", "parallel_corpus"]
    assert "mono_corpus" in chosen(Rerun(force=("parallel_corpus",)))


@pytest.mark.parametrize("flag", ["force", "from_", "only"])
def test_a_node_that_is_no_text_is_refused(store: Store, cpo: Config, flag: str) -> None:
    rerun = Rerun(**{flag: ("mono",)})
    with pytest.raises(
        ConfigError, match=rf"--{flag.strip('_')} mono: data prepares text and nothing else; expected one of base,"
    ):
        chosen_nodes(make_plan(cpo, store, rerun), rerun)


@pytest.mark.slow
def test_one_example_of_each_stage_with_its_mask(tmp_path: Path) -> None:
    json_lines(tmp_path / "deen" / "train.de-en.json", nested(400))
    json_lines(tmp_path / "deen" / "valid.de-en.json", nested(20, 1000))
    own = [
        "stage=parallel",
        "data=alma",
        f"data.root={tmp_path}",
        "directions=de-en",
        "model=tiny",
        "hardware=cpu",
        "tracking=none",
    ]
    own += ["budget=demo", "stages.parallel.inputs.init=base", "evaluation.checkpoints=[]", "evaluation.controls={}"]
    own += ["stages.base.text.reader=cldr", "stages.base.text.revision=2.18.0"]
    environment = os.environ | {"ALMA_PIPELINE_STORE": str(tmp_path / "store")}
    command = [sys.executable, "-m", "alma_pipeline", "data", *own]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    shown = done.stdout.replace("|", "")
    assert "parallel, from parallel_corpus" in shown
    assert re.search(r"no loss +<s>Translate this from German to English:⏎German: Das Haus mit .*⏎English:$", shown, re.MULTILINE)
    assert re.search(r"^  loss +The house with the number \d+ is small and green\.</s>$", shown, re.MULTILINE)
    kinds = {path.name.rpartition("-")[0] for path in (tmp_path / "store" / "artifacts").iterdir()}
    assert kinds == {"base", "parallel_corpus"}

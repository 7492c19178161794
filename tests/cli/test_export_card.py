"""The card of an export, made of what the store knows."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from alma_pipeline.cli import export
from alma_pipeline.errors import UserError
from alma_pipeline.model_card import card
from alma_pipeline.store.lookup import find_artifact
from alma_pipeline.store.store import Store
from helpers.exported import BASE, HYPOTHESES, SCORE, SFT, SPOKEN, fill, put
from helpers.model_cards import header


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return fill(tmp_path_factory.mktemp("export") / "store", tmp_path_factory.mktemp("made"))


def of_record(store: Store, name: str, as_adapter: bool = False) -> str:
    return card.render_card(store, find_artifact(store, name), {"precision": "fp32"}, as_adapter, "me/tiny")


def test_what_a_card_and_an_error_print_can_be_pasted(filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a folder with a space and quotes in its name."""
    name = """it's "my" ü"""
    text = card.render_card(filled, find_artifact(filled, "parallel"), {"precision": "fp32"}, False, name)
    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assigned = next(node for node in ast.parse(snippet).body if isinstance(node, ast.Assign))
    assert ast.literal_eval(assigned.value) == name

    def refuse(*words: object, **named: object) -> None:
        raise OSError("no")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", refuse)
    with pytest.raises(UserError) as caught:
        export._push(tmp_path / name, "me/tiny")
    assert shlex.split(str(caught.value).split("`")[1]) == ["hf", "upload", "me/tiny", str(tmp_path / name)]


def test_the_header_is_what_the_hub_reads(filled: Store) -> None:
    data = header(of_record(filled, "parallel"))
    assert (data.license, data.language, data.pipeline_tag, data.library_name) == (
        "apache-2.0", ["de", "en"], "translation", "transformers"
    )  # fmt: skip
    assert data.tags == ["alma_pipeline", "parallel", "lora"] and data.datasets == ["someone/text"]
    assert (data.base_model, data.base_model_relation) == ("someone/tiny", "finetune")
    assert data.model_name == "tiny" and data.metrics == ["chrf", "bleu", "ter", "comet"]
    found = {(result.dataset_config, result.metric_name): result for result in data.eval_results}
    assert {key[1]: found[key].metric_value for key in found if key[0] == "de-en"} == {
        "chrF++": 51.5, "BLEU": 20.25, "TER": 61.0, "comet-22": 83.46
    }  # fmt: skip
    bleu = found["en-de", "BLEU"]
    assert bleu.metric_args == {"signature": "nrefs:1|tok:zh"}
    assert (bleu.dataset_type, bleu.dataset_split, bleu.dataset_revision) == ("openlanguagedata/flores_plus", "devtest", "f00")


def test_the_scores_have_one_line_of_signature_each_and_what_spoils_them_is_said(filled: Store) -> None:
    told = of_record(filled, "parallel")
    assert "| direction | chrF++ | BLEU | TER ↓ | comet-22 |" in told and "| de→en | 51.5 | 20.2 | 61.0 | 83.5 |" in told
    assert "beam search with 5 beams, no examples in the prompt" in told
    lines = [line for line in told.splitlines() if line.startswith("- ") and ("`nrefs" in line or "`Unbabel" in line)]
    assert [line[2:].partition(":")[0] for line in lines] == [
        "chrF++",
        "BLEU (de→en)",
        "BLEU (en→de)",
        "TER, lower is better",
        "comet-22",
    ]
    assert "`sacrebleu REFERENCE -i HYPOTHESIS -m bleu --tokenize zh`" in lines[2]
    assert "`parallel` read text that is or overlaps with FLORES-200" in told and "This applies to the scores above" in told
    assert "None" not in told.partition("---\n\n")[2]


def test_a_card_with_chrf_alone_and_one_without_scores(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    loading = {"form": "full", "base_key": BASE, "adapter_keys": []}
    put(store, "base", BASE, None, {"config": {"source": "random"}}, checkpoint=loading)
    settings = {"learning_rate": 0.002, "steps": 4, "adapter": "none", "lora": {"rank": 16, "alpha": 8.0}, "languages": SPOKEN}
    loading = {"form": "full", "base_key": SFT, "adapter_keys": []}
    config = {"config": settings, "inputs": {"init": BASE}}
    put(store, "mono", SFT, None, config, checkpoint=loading)
    unscored = of_record(store, "mono")
    assert "Not evaluated." in unscored and "model-index" not in unscored and "LoRA" not in unscored
    assert "license" not in header(unscored).to_dict() and "No licence: the weights" in unscored
    put(store, "mono.translate", HYPOTHESES, None, {"kind": "translate", "inputs": {"checkpoint": SFT}})
    scores = {"directions": {"de-en": {"chrf++": 51.5}}, "signatures": {"chrf++": {"de-en": "nrefs:1|nw:2"}}}
    put(store, "mono.score", SCORE, None, {"kind": "score", "inputs": {"hypotheses": HYPOTHESES}}, result=scores)
    scored = of_record(store, "mono")
    assert "| direction | chrF++ |" in scored and "| de→en | 51.5 |" in scored and "BLEU" not in scored
    assert [result.metric_type for result in header(scored).eval_results] == ["chrf"]


def test_a_licence_that_is_unknown_or_not_the_same_is_left_out_of_the_header(filled: Store, tmp_path: Path) -> None:
    for stated, shown in (("", "no known licence"), ("Llama 2 Community", "`Llama 2 Community`")):
        store = Store(tmp_path / f"store {stated}")
        loading = {"form": "full", "base_key": BASE, "adapter_keys": []}
        config = {"source": "hub", "repo": "someone/tiny", "revision": "main"}
        put(store, "base", BASE, None, {"config": config}, result={"licence": stated}, checkpoint=loading)
        told = of_record(store, "base")
        assert "license" not in header(told).to_dict() and f"`someone/tiny` states {shown}" in told


def test_what_was_adopted_from_a_folder_is_named_so_and_not_by_its_path(tmp_path: Path) -> None:
    """A folder is identified by its files: the record's settings hold no repository, and weights that are not random."""
    store = Store(tmp_path / "store")
    config = {"files": {"model.safetensors": "5" * 64}}
    loading = {"form": "full", "base_key": BASE, "adapter_keys": []}
    found = {"repo": str(tmp_path / "mine"), "commit": "", "licence": "", "parameters": 9}
    put(store, "base", BASE, None, {"kind": "released", "config": config}, result=found, checkpoint=loading)
    told = of_record(store, "base")
    assert "It is a full model, unchanged: a checkpoint that was adopted from a local folder." in told
    assert "Unknown: the weights were adopted from a local folder" in told
    assert "\n| base | adopted from a local folder |" in told and "random" not in told and str(tmp_path) not in told

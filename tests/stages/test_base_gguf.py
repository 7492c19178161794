"""A published model, SmolLM2-135M from its Python package, through the command: base, ten training steps, translation, scores."""

import json
from pathlib import Path

import pytest

from helpers.command import artifact, run

pytestmark = pytest.mark.slow

SENTENCES = (
    ("Der Zug nach Hamburg fährt heute von Gleis sieben ab.", "The train to Hamburg leaves from platform seven today."),
    ("Sie hat das Fenster geöffnet, weil es zu warm war.", "She opened the window because it was too warm."),
    ("Wir treffen uns morgen um neun vor dem Rathaus.", "We will meet at nine tomorrow in front of the town hall."),
    ("Der Vertrag gilt für zwei Jahre.", "The contract is valid for two years."),
    ("Können Sie mir bitte den Weg zum Bahnhof zeigen?", "Could you please show me the way to the station?"),
    ("Die Kinder spielen im Garten hinter dem Haus.", "The children are playing in the garden behind the house."),
    ("Das Museum ist am Montag geschlossen.", "The museum is closed on Monday."),
    ("Er liest jeden Abend eine halbe Stunde.", "He reads for half an hour every evening."),
    ("Die Regierung hat neue Regeln angekündigt.", "The government has announced new rules."),
    ("Im Winter wird es hier früh dunkel.", "It gets dark early here in winter."),
    ("Bitte schalten Sie Ihr Telefon aus.", "Please switch off your phone."),
    ("Die Suppe schmeckt besser als gestern.", "The soup tastes better than yesterday."),
)
"""German and English, written for this test."""


def test_a_published_model_is_loaded_trained_and_translates(tmp_path: Path) -> None:
    """Its weights come dequantised out of a GGUF file. Ten LoRA steps on a few sentences lower its loss on others of the kind."""
    train, test = tmp_path / "train.de-en.jsonl", tmp_path / "test.de-en.jsonl"
    for file, rows in ((train, SENTENCES[:10]), (test, SENTENCES[10:])):
        file.write_text("".join(json.dumps({"de": de, "en": en}, ensure_ascii=False) + "\n" for de, en in rows), encoding="utf-8")
    words = ["model=smollm2_135m", "stage=parallel", "directions=[de-en]", "stages.parallel.inputs.init=base", "tracking=none"]
    words += ["data.parallel.reader=files", f"data.parallel.path={train}", "data.test.reader=files", f"data.test.path={test}"]
    words += ["budget.parallel.steps=10", "budget.text.dev=1", "budget.text.test=2", "stages.parallel.global_batch_size=4"]
    words += ["stages.parallel.evaluations=1", "evaluation=paper", "evaluation.checkpoints=[parallel]"]
    words += ["evaluation.num_beams=1", "evaluation.max_new_tokens=24"]
    done = run(tmp_path / "store", *words)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    base = json.loads((artifact(tmp_path / "store", "base") / "record.json").read_text())["result"]
    assert (base["parameters"], base["vocab_size"], base["licence"]) == (134_515_008, 49_152, "Apache-2.0")
    trained = json.loads((artifact(tmp_path / "store", "parallel") / "record.json").read_text())["result"]
    assert 1.0 < trained["before"]["loss"] < 4.0, "a pretrained model, not a random one (10.8)"
    assert trained["after"]["loss"] < trained["before"]["loss"]
    made = artifact(tmp_path / "store", "parallel.translate") / "hypotheses.jsonl"
    outputs = [json.loads(line)["hypothesis"] for line in made.read_text(encoding="utf-8").splitlines()]
    # 135M parameters keep a word of each sentence, no more.
    assert "phone" in outputs[0].lower() and "yesterday" in outputs[1].lower()

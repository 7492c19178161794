"""Every file of every artifact of a finished recipe, harmed one at a time: no verb gives a wrong result or a traceback.

A verb gives what it gives for the sound store, some of it at least, or it names the harmed file or its folder.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from alma_pipeline.cli import doctor, gc, show
from alma_pipeline.errors import UserError
from alma_pipeline.execution.runner import job_input
from alma_pipeline.plan.plan import make_plan
from alma_pipeline.plan.remade import made_again
from alma_pipeline.report import paper
from alma_pipeline.report.content import build_report
from alma_pipeline.report.jobs import ReportJob
from alma_pipeline.report.sides import find_side
from alma_pipeline.schema import Config
from alma_pipeline.store.record import LOGS
from alma_pipeline.store.store import Store
from helpers.finished_store import composed, finish

RECIPE = ("stage=parallel", "evaluation.checkpoints=[parallel]", "evaluation.controls={}")


def flip_first(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[0] ^= 1
    file.write_bytes(content)


def flip_digit(file: Path) -> None:
    """Make another digit of the last one: JSON stays JSON, and a score another score."""
    content = bytearray(file.read_bytes())
    place = max((place for place, byte in enumerate(content) if chr(byte).isdigit()), default=0)
    content[place] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


HARMS: dict[str, Callable[[Path], object]] = {
    "removed": Path.unlink,
    "emptied": lambda file: file.write_bytes(b""),
    "cut": cut,
    "first bit flipped": flip_first,
    "digit flipped": flip_digit,
}


SAID = (" is missing", "(missing)", "cannot be read", " is damaged", " bytes, recorded ", "has no record.json", "changed content")
"""Words of which one stands in every line that names a damaged file."""

TEST_SET = "CLDR, 100 sentences per direction"
"""What a report calls the test set, and its node's name where its record is gone."""
NOTHING = "so there is nothing to report"


def outcomes(root: Path, config: Config, capsys: pytest.CaptureFixture[str]) -> Iterator[tuple[str, str]]:
    """(verb, all that it gives or says) for every verb that reads artifacts; anything but a UserError is a failure."""

    def planned(store: Store) -> str:
        plan = make_plan(config, store)
        work = [f"{step.node.name} {step.verdict}: {step.reason}" for step in plan.work]
        return "\n".join([*work, *made_again(plan)])

    def report(store: Store) -> str:
        plan = make_plan(config, store)
        records = {step.node.name: step.record for step in plan.steps if step.record}
        made = build_report([], [ReportJob([], config, plan, records)], store)
        numbers = (*made.curves, *made.samples, *made.lengths, *(rates for _, rates in made.rates))
        text = "\n".join([paper.markdown(made), *map(repr, numbers), *made.notes])
        return text.replace(TEST_SET, "test_corpus")

    def shown(store: Store) -> str:
        show.show(store.root, "parallel.score")
        return capsys.readouterr().out

    def compared(store: Store) -> str:
        systems = find_side(store.root, "parallel").systems
        found = [seed[direction] for system in systems for seed in system.seeds for direction in seed]
        return "\n".join(repr((one.result, one.segments)) for one in found)

    def kept(store: Store) -> str:
        parallel = [record for record in store.records() if record.name == "parallel"]
        return "\n".join(str(candidate.path) for candidate in gc.candidates(store, parallel))

    def jobs(store: Store) -> str:
        """What training, decoding, scoring, `translate`, `data` and `export` do with an artifact before they read it."""
        return "\n".join(repr(job_input(store, record)) for record in store.records())

    for verb in (planned, report, shown, compared, kept, jobs):
        try:
            yield verb.__name__, verb(Store(root))
        except UserError as error:
            yield verb.__name__, str(error)
    yield "doctor", "\n".join(doctor.store_problems(Store(root), verify=True))


def test_no_verb_is_misled_by_a_damaged_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = composed(*RECIPE)
    finish(Store(tmp_path / "store"), *RECIPE)
    root = tmp_path / "store"
    sound = dict(outcomes(root, config, capsys))
    assert sound["doctor"] == sound["planned"] == ""
    assert "parallel.score" in sound["shown"] and len(sound["compared"]) > 1000 and len(sound["jobs"]) > 1000
    files = sorted(path for path in (root / "artifacts").rglob("*") if path.is_file())
    assert len(files) > 15
    named: dict[str, int] = dict.fromkeys(sound, 0)
    for file in files:
        shutil.copy2(file, tmp_path / "kept")
        for harm, act in HARMS.items():
            act(file)
            for verb, text in outcomes(root, config, capsys):
                key = file.parent.name.rpartition("-")[2]
                new = [line for line in text.splitlines() if line not in sound[verb].splitlines()]
                wrong = [line for line in new if not (key in line and any(word in line for word in SAID)) and NOTHING not in line]
                assert not wrong, f"{verb}, {file} {harm}: {wrong[:3]}"
                named[verb] += text != sound[verb]
                if verb == "doctor" or (verb == "jobs" and file.name not in (*LOGS, "record.json")):
                    assert str(file.parent) in text, f"{verb}, {file.name} {harm}"
            shutil.copy2(tmp_path / "kept", file)
    assert all(named.values()), named

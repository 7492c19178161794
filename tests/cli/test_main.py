"""Wrong input: one clear paragraph, exit code 2, no traceback, nothing written."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from alma_pipeline.cli import main, sweep
from alma_pipeline.cli.arguments import parse
from alma_pipeline.cli.interruption import ENDING

CASES: list[tuple[list[str], list[str]]] = [
    (["stage=cpoo"], ["stage=cpoo", "did you mean 'cpo'?"]),
    (["model=14b"], ["model=14b", "did you mean '13b'?"]),
    (["stages.cpo.betta=1"], ["no key 'betta' in stages.cpo", "did you mean 'beta'?"]),
    (["stages.cpo.beta=x"], ["stages.cpo.beta=x", "expected a number"]),
    (["stages.cpo.beta=-1"], ["stages.cpo.beta=-1", "above 0"]),
    (["stages.mono.global_batch_size=0"], ["stages.mono.global_batch_size=0", "at least 1"]),
    (["stages.mono.schedule=cosin"], ["stages.mono.schedule=cosin", "cosine"]),
    (["stages.mono.epochs=2"], ["stages.mono", "steps, epochs, tokens", "found steps, epochs"]),
    (["group=9"], ["group=9", "1, 5"]),
    (["groups.g7.arpo.beta=0.4"], ["groups.g7", "takes no part", "g1, g5"]),
    (["groups.g1.apro.beta=0.4"], ["groups.g1.apro", "did you mean 'arpo'?"]),
    (["stage=cpo", "stages.arpo.beta=1"], ["stages.arpo", "not used by this stage"]),
    (["=3"], ["=3: not a setting; expected GROUP=OPTION or KEY=VALUE"]),
    (["~"], ["~: not a setting"]),
    (["model.released=${x}"], ["model.released: Interpolation key 'x' not found"]),
    (["evaluation.controls.parallel_scratch=paralel"], ["parallel_scratch=paralel: no such node", "did you mean 'parallel'?"]),
    (["+model=13b"], ["+model=13b: the group model has an option already; write model=13b, without +"]),
    (["~seed"], ["~seed: a setting cannot be deleted; give it a value"]),
    (["~model"], ["~model: a setting cannot be deleted; give it a value"]),
    (["data.languages=[de,xx]"], ["'xx' is not in the language table"]),
    (["data.languages=[de,nl]", "languages.de.group=null"], ["'de' has no group"]),
    (["pln"], ["unknown command 'pln'", "did you mean 'plan'?", "Settings are written GROUP=OPTION"]),
    (["--force", "cpoo"], ["--force cpoo", "did you mean 'cpo'?"]),
    (["--force"], ["--force"]),
    (
        ["stage=cpo", "stages.cpo.adapter=continue"],
        [
            "stages.cpo.adapter=continue",
            "parallel produces a full model",
            "set stages.cpo.adapter=new",
            "stages.parallel.adapter=new",
        ],
    ),
    (
        ["stage=cpo", "stages.parallel.adapter=new"],
        ["stages.cpo.adapter=none", "parallel produces a LoRA", "set stages.cpo.adapter=continue"],
    ),
    (["hardware.launcher=local", "hardware.devices=2"], ["launcher=local", "torchrun"]),
]


def run(folder: Path, *words: str, store: str = "store") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"ALMA_PIPELINE_STORE": store}
    command = [sys.executable, "-m", "alma_pipeline", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """`alma-pipeline` in this process, whose start is what takes long, in an empty folder; gives the exit code."""
    before = {number: signal.getsignal(number) for number in ENDING}  # the command takes them for interruptions
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALMA_PIPELINE_STORE", "store")

    def run_here(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["alma-pipeline", *words])
        return main.main()

    yield run_here
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("words", "texts"), CASES, ids=[" ".join(words) for words, _ in CASES])
def test_a_mistake_is_named_and_nothing_is_written(
    tmp_path: Path, command: Callable[..., int], capfd: pytest.CaptureFixture[str], words: list[str], texts: list[str]
) -> None:
    code, said = command(*words), capfd.readouterr()
    assert code == 2, said.out + said.err
    assert "Traceback" not in said.err and not said.out
    for text in texts:
        assert text in said.err
    assert not list(tmp_path.iterdir())


def test_several_mistakes_are_told_at_once(tmp_path: Path) -> None:
    done = run(tmp_path, "model=14b", "stages.cpo.betta=1", "seed=abc", "hardware.devices=0")
    assert done.returncode == 2 and "4 problems" in done.stderr
    for text in ("model=14b", "betta", "seed=abc", "hardware.devices=0"):
        assert text in done.stderr


def test_a_reference_to_nothing_is_told_once(command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("plan", "data.root=${oops}") == 2
    assert capsys.readouterr().err == "alma-pipeline: data.root: Interpolation key 'oops' not found\n"


def test_a_part_of_the_configuration_that_does_not_exist(command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--cfg", "job", "-p", "stages.cpo.bta") == 2
    assert capsys.readouterr().err == "alma-pipeline: stages.cpo.bta: no key 'bta' in stages.cpo; did you mean 'beta'?\n"


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(tmp_path, "stage=mono", store=str(tmp_path / "file" / "store"))
    assert done.returncode == 2 and "ALMA_PIPELINE_STORE" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("number", [signal.SIGINT, *ENDING])
def test_every_signal_that_ends_a_command_gives_its_exit_code(
    command: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    """Whatever the verb; 130 for Ctrl-C, 143 for SIGTERM."""

    def interrupted(arguments: object) -> int:
        os.kill(os.getpid(), number)
        time.sleep(10)
        return 0

    monkeypatch.setattr("alma_pipeline.cli.doctor.main", interrupted)
    assert command("doctor") == 128 + number
    by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
    assert capsys.readouterr().err == (
        f"alma-pipeline: interrupted{by}; finished work is kept, and the same command resumes from there\n"
    )


def test_no_secret_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """B42: a token in the environment, or in an address, is in no output."""
    monkeypatch.setenv("HF_TOKEN", "hf_canary_0123456789")
    done = run(tmp_path, "plan", "stage=mono", "--json")
    assert done.returncode == 0 and "hf_canary" not in done.stdout + done.stderr
    done = run(tmp_path, "plan", "stages.base.repo=hf_canary_0123456789", "stage=mono")
    assert done.returncode == 2 and "credential" in done.stderr and "hf_canary" not in done.stdout + done.stderr


def test_help_is_quick_to_read_and_names_every_option(tmp_path: Path) -> None:
    done = run(tmp_path, "--help")
    assert done.returncode == 0
    for text in ("stage", "group_adapter", "model", "13b", "plan", "--force"):
        assert text in done.stdout


def test_a_sweep_in_a_folder_that_cannot_be_written(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ALMA_PIPELINE_STORE", str(tmp_path / "store"))
    monkeypatch.chdir("/proc")
    assert command("-m", "stage=base", "seed=1") == 2
    assert "the sweep's folder cannot be written: /proc/multirun" in capsys.readouterr().err


def test_a_closed_pipe_is_no_fault_of_a_sweeps_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ALMA_PIPELINE_STORE", str(tmp_path / "store"))

    def closed(*_: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(sweep, "run_hydra", closed)
    with pytest.raises(BrokenPipeError):
        sweep.main(parse(["-m", "stage=base", "seed=1"]), lambda *_: {})


def test_a_path_with_any_letter_is_taken_by_a_plan_and_by_a_sweep(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in ("R&D (1) it's #=数据", "Müller"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "de-en.tsv").write_text("de\ten\nEins\tOne\n")
    words = ["stage=score", "data.test.reader=files", "directions=de-en", "tracking.experiment=Müller & Söhne"]
    paths = [f"{name}/{{direction}}.tsv" for name in ("R&D (1) it's #=数据", "Müller")]
    assert command("plan", *words, f"data.test.path={paths[0]}") == 0
    assert command("plan", "-m", *words, f"data.test.path={','.join(paths)}") == 0
    assert capsys.readouterr().out.count("job ") == 2

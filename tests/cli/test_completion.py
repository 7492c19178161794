"""Tab completion as a person uses it: an interactive bash on a terminal, and the tab key (B28)."""

import dataclasses
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from alma_pipeline.cli.completion import KEYS
from alma_pipeline.paths import CONF
from alma_pipeline.schema import Config

COMMAND = Path(sys.executable).with_name("alma-pipeline")
TO_START, TAB = "\x01", "\t"


class Shell:
    """A bash at a terminal that has `alma-pipeline` and its completion."""

    def __init__(self, folder: Path) -> None:
        bash = shutil.which("bash")
        assert bash, "bash is not installed"
        self.master, slave = pty.openpty()
        path = os.pathsep.join([str(COMMAND.parent), os.environ["PATH"]])
        environment = os.environ | {"PATH": path, "TERM": "dumb", "PS1": "", "HISTFILE": "/dev/null"}
        self.process = subprocess.Popen(
            [bash, "--norc", "--noprofile", "-i"],
            cwd=folder, env=environment, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self.enter('eval "$(alma-pipeline -sc install=bash)"; echo rea""dy')
        self.read_line("ready")

    def enter(self, line: str) -> None:
        os.write(self.master, f"{line}\n".encode())

    def read_line(self, begin: str, seconds: float = 120.0) -> str:
        """The rest of the line that begins so."""
        read, until = "", time.monotonic() + seconds
        while "\n" not in read.partition(begin)[2]:
            assert time.monotonic() < until, read
            if select.select([self.master], [], [], 0.1)[0]:
                read += os.read(self.master, 4096).decode()
        return read.partition(begin)[2].splitlines()[0]

    def completed(self, typed: str) -> str:
        """What stands on the line after a tab, shown by putting an echo before it."""
        self.enter(f"alma-pipeline {typed}{TAB}{TO_START}echo 'now:'")
        return self.read_line("now:alma-pipeline ")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    shell = Shell(tmp_path_factory.mktemp("elsewhere"))
    yield shell
    shell.close()


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("pl", "plan"),
        ("doc", "doctor"),
        ("plan --js", "plan --json"),
        ("--force g", "--force group_"),
        ("plan --diff mono parallel_c", "plan --diff mono parallel_corpus"),
        ("gc --keep parallel_c", "gc --keep parallel_corpus"),
        ("--cfg h", "--cfg hydra"),
        ("report --format l", "report --format latex"),
        ("show parallel_c", "show parallel_corpus"),
        ("adopt model=7b parallel_c", "adopt model=7b parallel_corpus"),
        ("compare cpo parallel_c", "compare cpo parallel_corpus"),
        ("--format=l", "--format=latex"),
        ("plan --why=parallel_c", "plan --why=parallel_corpus"),
        ("direc", "directions="),
        ("plan stage=cp", "plan stage=cpo"),
        ("--only cpo model=smo", "--only cpo model=smollm2_135m"),
        ("stage=cpo stages.cpo.be", "stage=cpo stages.cpo.beta="),
    ],
)
def test_a_tab_completes_verbs_flags_nodes_and_settings(shell: Shell, typed: str, expected: str) -> None:
    assert shell.completed(typed) == expected


def test_every_top_level_setting_is_known() -> None:
    names = {item.name for item in dataclasses.fields(Config)}
    assert names - {path.name for path in CONF.iterdir()} <= set(KEYS)


def test_what_follows_the_cursor_is_left_alone() -> None:
    environment = os.environ | {"COMP_LINE": "alma-pipeline pl stage=cpo", "COMP_POINT": str(len("alma-pipeline pl"))}
    done = subprocess.run([COMMAND, "-sc", "query=bash"], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "plan\n" and not done.stderr


def test_it_is_for_the_command_alone() -> None:
    words = [sys.executable, "-m", "alma_pipeline", "-sc", "install=bash"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "not for python -m" in done.stderr

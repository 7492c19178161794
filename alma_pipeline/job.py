"""The whole interface between the parent process and a stage's `run.py`. Never imports torch.

The parent writes `job.json` into a work folder and every rank reads it. Rank 0 appends to `metrics.jsonl` beside it
and writes `result.json` last. The file `notice` beside it asks a worker that trains to write a resume point and end.
"""

import dataclasses
import functools
import json
import os
import time
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alma_pipeline.files import DigestCache
from alma_pipeline.given_files import GivenFiles
from alma_pipeline.schema import Hardware
from alma_pipeline.schema.kinds import kind_config

RESUME_SCHEMA = 2
"""Version of resume points; those of another version are not used. 2: files that cannot hold code; all rows are counted."""

NOTICE = "notice"
"""Name of a file in the work folder that reaches the ranks of all machines, as signals do not."""


class Again(Exception):
    """The worker ends without a result, to be started again from its resume point; the message is the reason.

    `signal`: the number of the signal that asked for it, or 0. `micro_batch_tokens`: the budget for the next start, or 0.
    """

    def __init__(self, reason: str, signal: int = 0, micro_batch_tokens: int = 0) -> None:
        self.signal, self.micro_batch_tokens = signal, micro_batch_tokens
        super().__init__(reason)


@dataclass(frozen=True)
class Input:
    """A finished artifact that a node reads."""

    key: str
    kind: str
    path: str
    """Its folder."""
    result: dict[str, Any]
    """The result its stage returned."""
    base: str = ""
    """For a checkpoint: the folder of the full base model, which is its own if it is a full model."""
    base_key: str = ""
    adapters: list[str] = field(default_factory=list)
    """Folders of the adapters on that base, in loading order; all but the last are merged into it."""
    adapter_keys: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Job:
    """The work of one node. `config` is its kind's frozen dataclass."""

    name: str
    key: str
    work: str
    config: Any
    hardware: Hardware
    inputs: dict[str, Input]
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 → path of the text files that `config` names by digest."""
    codes: list[str] = field(default_factory=list)
    """Codes of every language in the table, including those that this run does not use."""
    store: str = ""
    """Root of the store whose cache is used; empty: the store that contains the work folder."""

    @property
    def out(self) -> Path:
        """Folder of the artifact's files; it becomes the artifact when the node is done."""
        return Path(self.work) / "out"

    @property
    def resume(self) -> Path:
        """Folder of the resume points; never part of the artifact."""
        return Path(self.work) / "resume"

    @property
    def notice(self) -> Path:
        """The file that asks the worker to write a resume point and end."""
        return Path(self.work) / NOTICE

    @property
    def cache(self) -> Path:
        """The store's cache folder, shared by its nodes; deleting it is always safe."""
        return self._store / "cache"

    @functools.cached_property
    def given(self) -> GivenFiles:
        """The files outside the store that it reads."""
        return GivenFiles(self.files, DigestCache(self._store / "digests.json"))

    @property
    def _store(self) -> Path:
        return Path(self.store) if self.store else Path(self.work).parent.parent

    @property
    def rank(self) -> int:
        """This process's rank among the processes of the node, from 0."""
        return int(os.environ.get("RANK", "0"))

    def log(self, step: int, total: int, metrics: dict[str, float]) -> None:
        """Append a line to `metrics.jsonl` for the progress bar and tracking; only rank 0 writes."""
        if self.rank == 0:
            line = {"time": time.time(), "step": step, "total": total, "metrics": metrics}
            with open(Path(self.work) / "metrics.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def write(self) -> None:
        """Write `job.json` into the work folder, where every rank reads it."""
        text = json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False)
        (Path(self.work) / "job.json").write_text(text, encoding="utf-8")


def build_dataclass(schema: type, value: Any) -> Any:
    """Build the dataclass `schema` from plain values, including nested dataclasses and dictionaries of them."""
    if value is None or not dataclasses.is_dataclass(schema):
        return value
    hints = typing.get_type_hints(schema)
    return schema(**{name: _typed(hints[name], child) for name, child in value.items()})


def _typed(hint: Any, value: Any) -> Any:
    if typing.get_origin(hint) is dict:
        return {key: build_dataclass(typing.get_args(hint)[1], child) for key, child in value.items()}
    return build_dataclass(hint, value)


def read_job(path: Path) -> Job:
    """Read what `Job.write` wrote, with typed configuration and inputs."""
    raw = json.loads(path.read_text(encoding="utf-8"))
    return Job(
        name=raw["name"],
        key=raw["key"],
        work=raw["work"],
        config=build_dataclass(kind_config(raw["config"]["kind"]), raw["config"]),
        hardware=build_dataclass(Hardware, raw["hardware"]),
        inputs={role: Input(**value) for role, value in raw["inputs"].items()},
        files=raw.get("files", {}),
        codes=raw.get("codes", []),
        store=raw.get("store", ""),
    )

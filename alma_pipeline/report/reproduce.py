"""Where each number comes from: the artifacts behind it, who made them with what, and the commands that make them again."""

import shlex
from dataclasses import dataclass

from alma_pipeline.plan.node import is_training
from alma_pipeline.report.jobs import ReportJob
from alma_pipeline.report.systems import System
from alma_pipeline.store.identity import flatten
from alma_pipeline.store.record import Record


@dataclass(frozen=True)
class ArtifactOrigin:
    """Of one artifact."""

    node: str
    kind: str
    folder: str
    key: str
    made: str
    seconds: float
    code: str
    """Commit, and whether files differed from it."""
    command: str
    inputs: dict[str, str]
    """Folder by role."""
    settings: dict[str, str]
    """Of a trained node."""


@dataclass(frozen=True)
class ScoreSource:
    """Which folders a system's scores come from."""

    system: str
    directions: list[str]
    hypotheses: str
    scores: str


def score_sources(systems: list[System]) -> list[ScoreSource]:
    """Of every system and seed; of a group's adapter for the directions it answers."""
    found: dict[tuple[str, str], ScoreSource] = {}
    for system in systems:
        for seed in system.seeds:
            for direction, evaluation in seed.items():
                hypotheses = evaluation.translations.path.name if evaluation.translations else "gone"
                new = ScoreSource(system.label, [], hypotheses, evaluation.scores.path.name)
                found.setdefault((system.label, new.scores), new).directions.append(direction)
    return list(found.values())


def artifact_origins(job: ReportJob) -> list[ArtifactOrigin]:
    """Of every artifact of a job, in the order it was made."""
    folders = {record.key: record.path.name for record in job.records.values()}
    return [
        _origin(step.node.name, record, folders, is_training(step.node))
        for step in job.plan.steps
        if (record := job.records.get(step.node.name))
    ]


def _origin(node: str, record: Record, folders: dict[str, str], trained: bool) -> ArtifactOrigin:
    told = record.provenance
    return ArtifactOrigin(
        node,
        record.kind,
        record.path.name,
        record.key,
        record.created,
        record.seconds,
        _code(told.get("git", {})),
        typed_command(told.get("argv", [])),
        {role: folders.get(key, key[:12]) for role, key in record.payload["inputs"].items()},
        {name: str(value) for name, value in flatten(record.payload["config"]).items() if _says(name, value)} if trained else {},
    )


def _says(name: str, value: object) -> bool:
    return value is not None and not name.startswith("languages.")


def _code(git: dict[str, object]) -> str:
    if not git.get("commit"):
        return "not from a checkout"
    return f"{str(git['commit'])[:12]}{' with changes' if git.get('dirty') else ''}"


def typed_command(argv: list[str]) -> str:
    """As it was typed, without the place of the program."""
    return shlex.join(["alma-pipeline", *argv[1:]])


def package_versions(job: ReportJob) -> dict[str, str]:
    """Versions that made the targets; what differs between artifacts is said as `a, b`."""
    found: dict[str, dict[str, None]] = {}
    for record in job.records.values():
        for name, version in {"python": record.provenance.get("python", ""), **record.provenance.get("packages", {})}.items():
            if version:
                found.setdefault(name, {})[version] = None
    return {name: ", ".join(versions) for name, versions in found.items()}

"""How to reproduce each number: the artifacts behind it, what created them, and the commands that recompute a score."""

import shlex
from dataclasses import dataclass

from alma_pipeline import instants
from alma_pipeline.plan.node import is_training
from alma_pipeline.report.jobs import ReportJob
from alma_pipeline.report.systems import System
from alma_pipeline.schema.metrics import METRICS, signature_parts, tokenizer
from alma_pipeline.store.identity import flatten
from alma_pipeline.store.record import Record

COMET_FILES = {"-s": "source", "-t": "hypothesis", "-r": "reference"}
"""comet-score's options and the files in `$out` that the page's script writes for them."""


@dataclass(frozen=True)
class ArtifactOrigin:
    """What created an artifact, and from what."""

    node: str
    kind: str
    folder: str
    key: str
    made: str
    """Local time of the commit, with its offset from UTC."""
    seconds: float
    code: str
    """Git commit, and whether the working tree differed from it."""
    command: str
    inputs: dict[str, str]
    """Folder by role."""
    settings: dict[str, str]
    """For trained nodes; empty for others."""


@dataclass(frozen=True)
class ScoreSource:
    """The artifact folders that a system's scores come from."""

    system: str
    directions: list[str]
    hypotheses: str
    scores: str


def score_sources(systems: list[System]) -> list[ScoreSource]:
    """One entry per system and score artifact, so per seed and, for group adapters, per group."""
    found: dict[tuple[str, str], ScoreSource] = {}
    for system in systems:
        for seed in system.seeds:
            for direction, evaluation in seed.items():
                hypotheses = evaluation.translations.path.name if evaluation.translations else "deleted"
                new = ScoreSource(system.label, [], hypotheses, evaluation.scores.path.name)
                found.setdefault((system.label, new.scores), new).directions.append(direction)
    return list(found.values())


def artifact_origins(job: ReportJob) -> list[ArtifactOrigin]:
    """The origin of every artifact of a job, in the order of the plan."""
    folders = {record.key: record.path.name for record in job.records.values()}
    return [
        _origin(step.node.name, record, folders, is_training(step.node))
        for step in job.plan.steps
        if (record := job.records.get(step.node.name))
    ]


def _origin(node: str, record: Record, folders: dict[str, str], trained: bool) -> ArtifactOrigin:
    provenance = record.provenance
    settings = flatten(record.payload["config"]) if trained else {}
    return ArtifactOrigin(
        node,
        record.kind,
        record.path.name,
        record.key,
        instants.shown(record.created),
        record.seconds,
        _code(provenance.get("git", {})),
        typed_command(provenance.get("argv", [])),
        {role: folders.get(key, key[:12]) for role, key in record.payload["inputs"].items()},
        {name: str(value) for name, value in settings.items() if value is not None and not name.startswith("languages.")},
    )


def _code(git: dict[str, object]) -> str:
    if not git.get("commit"):
        return "not from a checkout"
    return f"{str(git['commit'])[:12]}{' with local changes' if git.get('dirty') else ''}"


def typed_command(argv: list[str]) -> str:
    """The command as typed, with the program's path replaced by its name."""
    return shlex.join(["alma-pipeline", *argv[1:]])


def package_versions(job: ReportJob) -> dict[str, str]:
    """Versions of Python and packages that created the artifacts; several versions are joined as `a, b`."""
    found: dict[str, dict[str, None]] = {}
    for record in job.records.values():
        for name, version in {"python": record.provenance.get("python", ""), **record.provenance.get("packages", {})}.items():
            if version:
                found.setdefault(name, {})[version] = None
    return {name: ", ".join(versions) for name, versions in found.items()}


def rescore_command(metric: str, signature: str) -> str:
    """The shell command that recomputes a score from the files in `$out`; empty if neither sacrebleu nor COMET computes it."""
    if metric in METRICS:
        return f'sacrebleu "$out/reference" -i "$out/hypothesis" {METRICS[metric].command(tokenizer(signature))}'
    return _comet_score(signature)


def _comet_score(signature: str) -> str:
    """comet-score's command line; empty for a signature that is not a COMET model's.

    comet-score takes no revision, so `hf` downloads the model first. For a local file the signature has only its digest. A
    comment in the command names what it cannot reproduce: that file, and a precision other than comet-score's own.
    """
    parts, model = signature_parts(signature), signature.partition("|")[0]
    if "comet" not in parts:
        return ""
    name, _, revision = model.rpartition("@")
    download = shlex.join(["hf", "download", name, "--revision", revision, "--quiet"])
    words = ["comet-score --model", f'"$({download})/checkpoints/model.ckpt"' if name else "MODEL.ckpt"]
    files = {flag: part for flag, part in COMET_FILES.items() if part != "reference" or parts["reference"] == "yes"}
    words += [f'{flag} "$out/{part}"' for flag, part in files.items()]
    comments = [] if name else [f"MODEL.ckpt: the file with {model}"]
    comments += [f"computes in fp16; the score was computed in {parts['precision']}"] if parts["precision"] != "fp16" else []
    return " ".join(words + ([f"# {'; '.join(comments)}"] if comments else []))

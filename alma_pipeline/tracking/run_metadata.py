"""What is known about an invocation when it starts, and which of it its run gets. Independent of MLflow's server."""

import importlib.metadata
import json
import os
import shlex
from dataclasses import dataclass
from typing import Any

import yaml

from alma_pipeline.redact import redact_values
from alma_pipeline.tracking.mlflow_values import value_text

REFERENCE_TABLES = {"languages"}
"""Parts of the configuration that are equal in every run: logged in config/resolved.yaml, not as parameters."""
GIT_TAGS = {"commit": "commit", "branch": "branch", "dirty": "dirty", "remote": "repoURL"}
"""Name in the provenance → suffix of MLflow's reserved tag."""


@dataclass(frozen=True, kw_only=True)
class Invocation:
    """One command that runs nodes; plain values only."""

    name: str
    """Name of its run, such as `cpo-13b-1f3a9c2e`."""
    stage: str
    """The requested targets, joined by `-`."""
    config: dict[str, Any]
    """The resolved configuration."""
    overrides: list[str]
    plan: Any
    provenance: dict[str, Any]
    """As returned by `provenance.capture`: user, argv, packages, git {commit, branch, dirty, remote}, ..."""
    sweep: str = ""
    """Id shared by the jobs of one sweep; empty outside a sweep."""
    job: int | None = None
    """Number of the job in its sweep."""

    def settings(self) -> dict[str, Any]:
        """The configuration without the parts that are equal in every run."""
        return {key: value for key, value in self.config.items() if key not in REFERENCE_TABLES}

    def source_tags(self) -> dict[str, str]:
        """Reserved tags for every run of the invocation; MLflow itself sets them only in its fluent interface."""
        git = self.provenance.get("git", {})
        return {
            "mlflow.user": value_text(self.provenance.get("user", "")),
            "mlflow.source.name": "alma_pipeline",
            "mlflow.source.type": "JOB" if "SLURM_JOB_ID" in os.environ else "LOCAL",
            **{f"mlflow.source.git.{GIT_TAGS[key]}": value_text(value) for key, value in git.items() if key in GIT_TAGS},
        }

    def tags(self) -> dict[str, str]:
        """Tags of the invocation's own run."""
        overrides = shlex.join(self.overrides)
        hardware = self.config["hardware"]
        tags = {
            "alma.level": "invocation",
            "alma.stage": self.stage,
            "alma.status": "RUNNING",
            "alma.overrides": overrides,
            "alma.launcher": hardware["launcher"],
            "alma.world_size": value_text(hardware["devices"] * hardware["nodes"]),
            "mlflow.note.content": f"`alma-pipeline {overrides}`",
        }
        sweep = {"alma.sweep_id": self.sweep, "alma.job_num": value_text(self.job)} if self.sweep else {}
        return self.source_tags() | tags | sweep

    def artifacts(self) -> dict[str, str]:
        """Redacted texts that describe the invocation, by their artifact path."""
        return {
            "config/resolved.yaml": _yaml(self.config),
            "config/overrides.yaml": _yaml(self.overrides),
            "config/plan.json": _json(self.plan),
            "env/versions.json": _json(self.provenance),
        }


def _yaml(value: Any) -> str:
    dumped: str = yaml.safe_dump(redact_values(value), sort_keys=False, allow_unicode=True)
    return dumped


def _json(value: Any) -> str:
    return json.dumps(redact_values(value), indent=1, ensure_ascii=False)


def installed_packages() -> dict[str, str]:
    """Every installed package as a text artifact; reading them takes a large part of a second."""
    found = {f"{item.metadata['Name']}=={item.version}" for item in importlib.metadata.distributions()}
    return {"env/pip-freeze.txt": "\n".join(sorted(found, key=str.lower)) + "\n"}


@dataclass(frozen=True)
class SweepJob:
    """A job's place in a sweep: the sweep's id, and the job's number."""

    id: str
    job: int

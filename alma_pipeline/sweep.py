"""What a Hydra multirun adds: all jobs checked before the first runs, a place for each, a table at the end."""

from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from rich.table import Table

from alma_pipeline import config as configuration
from alma_pipeline.errors import ConfigError, UserError
from alma_pipeline.invocation import Sweep
from alma_pipeline.store import Record


def check(overrides: list[str]) -> None:
    """Compose every job of a grid. Raises ConfigError with the problems of all of them, before anything runs.

    Another sweeper (`hydra/sweeper=`) decides its jobs as it goes: they are checked one by one then.
    """
    if any(text.startswith("hydra/sweeper=") for text in overrides):
        return
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException as error:
        raise UserError(str(error)) from error
    found: list[str] = []
    for job in BasicSweeper.split_arguments(parsed, None)[0]:
        try:
            configuration.load([text for text in job if not text.startswith("hydra")])
        except ConfigError as error:
            found += [text for text in error.problems if text not in found]
    if found:
        raise ConfigError(found)


def place() -> tuple[Sweep, list[str]]:
    """Where the running job stands, and its overrides."""
    hydra = HydraConfig.get()
    return Sweep(id=str(hydra.sweep.dir), job=int(hydra.job.num)), list(hydra.overrides.task)


def table(jobs: list[tuple[str, str, dict[str, Record]]]) -> Table:
    """One line a job: overrides, how it ended, the average scores of its targets."""
    result = Table(box=None, pad_edge=False, header_style="bold", title="sweep", title_justify="left")
    for name in ("job", "overrides", "status", "scores (chrF++ all directions)"):
        result.add_column(name, overflow="fold")
    for number, (overrides, status, records) in enumerate(jobs):
        result.add_row(str(number), overrides, status, _scores(records))
    return result


def _scores(records: dict[str, Record]) -> str:
    found: list[str] = []
    for name, record in records.items():
        if record.kind == "score":
            average: dict[str, Any] = record.result["averages"].get("all") or {}
            if average.get("chrf++") is not None:
                found.append(f"{name.removesuffix('.score')} {average['chrf++']:.1f}")
    return ", ".join(found)

"""The report as one HTML file that asks nobody for anything: styles, script and pictures are inside."""

from collections.abc import Callable, Iterator
from pathlib import Path

from alma_pipeline.report import charts, recompute
from alma_pipeline.report.content import Report
from alma_pipeline.report.guard_rates import GUARDS
from alma_pipeline.report.names import arrow, p_value_text, signed
from alma_pipeline.report.recipe_graph import BOX_HEIGHT, BOX_WIDTH
from alma_pipeline.report.scoreboard import kinds_of_tests, tab_names
from alma_pipeline.report.significance import LEVEL, SEGMENTS
from alma_pipeline.schema.metrics import metric_label
from alma_pipeline.units import count, duration, energy, size

TEMPLATES = Path(__file__).resolve().parent / "templates"


def render(content: Report) -> str:
    """The page's text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    filters: dict[str, Callable[..., str]] = {
        "arrow": arrow,
        "metric": metric_label,
        "number": lambda value: f"{value:.1f}",
        "signed": signed,
        "count": count,
        "seconds": duration,
        "size": size,
        "energy": energy,
        "chance": p_value_text,
    }
    environment.filters |= filters
    return environment.get_template("page.html.j2").render(
        content=content,
        charts=[(curve, charts.draw(curve, number)) for number, curve in enumerate(content.curves)],
        tabs=tab_names(content.boards),
        guards=GUARDS,
        box_size={"width": BOX_WIDTH, "height": BOX_HEIGHT},
        level=LEVEL,
        won=SEGMENTS in kinds_of_tests(row.cells for board in content.boards for row in board.rows),
        commands=list(_commands(content)),
        style=(TEMPLATES / "style.css").read_text(encoding="utf-8"),
        script=(TEMPLATES / "script.js").read_text(encoding="utf-8"),
    )


def _commands(content: Report) -> Iterator[tuple[str, str]]:
    """Metrics with the command that computes them again, once each, whatever the test sets."""
    for metric, signature in dict.fromkeys((board.metric, board.signature) for board in content.boards):
        if text := recompute.rescore_command(metric, signature):
            yield f"{metric_label(metric)}, {signature}", text

"""Renders the report as one self-contained HTML file: styles, script and charts are inline, and nothing is fetched."""

from collections.abc import Callable, Iterator
from pathlib import Path

from alma_pipeline.report import charts
from alma_pipeline.report.content import Report
from alma_pipeline.report.guard_rates import GUARDS
from alma_pipeline.report.names import arrow, p_value_text, signed
from alma_pipeline.report.recipe_graph import BOX_HEIGHT, BOX_WIDTH
from alma_pipeline.report.reproduce import rescore_command
from alma_pipeline.report.scoreboard import kinds_of_tests, tab_names
from alma_pipeline.report.significance import LEVEL, SEGMENTS
from alma_pipeline.schema.metrics import metric_label
from alma_pipeline.units import count, duration, energy, size

TEMPLATES = Path(__file__).resolve().parent / "templates"


def render(report: Report) -> str:
    """The HTML of the page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # Autoescape: hypotheses are model output and may contain markup.
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
        "p_value": p_value_text,
    }
    environment.filters |= filters
    return environment.get_template("page.html.j2").render(
        report=report,
        charts=[(curve, charts.draw(curve, number)) for number, curve in enumerate(report.curves)],
        tabs=tab_names(report.boards),
        guards=GUARDS,
        box_size={"width": BOX_WIDTH, "height": BOX_HEIGHT},
        level=LEVEL,
        show_wins=SEGMENTS in kinds_of_tests(row.cells for board in report.boards for row in board.rows),
        commands=list(_commands(report)),
        style=(TEMPLATES / "style.css").read_text(encoding="utf-8"),
        script=(TEMPLATES / "script.js").read_text(encoding="utf-8"),
    )


def _commands(report: Report) -> Iterator[tuple[str, str]]:
    """(metric and signature, command that recomputes it), without repetitions across test sets."""
    for metric, signature in dict.fromkeys((board.metric, board.signature) for board in report.boards):
        if text := rescore_command(metric, signature):
            yield f"{metric_label(metric)}, {signature}", text

"""The report as one HTML file that asks nobody for anything: styles, script and pictures are inside."""

from collections.abc import Callable
from pathlib import Path

from alma_pipeline.report import charts, recompute
from alma_pipeline.report.content import Content
from alma_pipeline.report.guard_rates import GUARDS
from alma_pipeline.report.names import arrow, chance, metric_name, signed
from alma_pipeline.report.recipe_graph import HEIGHT, WIDTH
from alma_pipeline.report.scoreboard import tab_names
from alma_pipeline.report.significance import LEVEL
from alma_pipeline.units import count, energy, seconds, size

TEMPLATES = Path(__file__).resolve().parent / "templates"


def render(content: Content) -> str:
    """The page's text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    filters: dict[str, Callable[..., str]] = {
        "arrow": arrow,
        "metric": metric_name,
        "number": lambda value: f"{value:.1f}",
        "signed": signed,
        "count": count,
        "seconds": seconds,
        "size": size,
        "energy": energy,
        "chance": chance,
    }
    environment.filters |= filters
    return environment.get_template("page.html.j2").render(
        content=content,
        charts=[(curve, charts.draw(curve, number)) for number, curve in enumerate(content.curves)],
        tabs=tab_names(content.boards),
        guards=GUARDS,
        box_size={"width": WIDTH, "height": HEIGHT},
        level=LEVEL,
        expressions=_again(content, recompute.expression),
        commands=_again(content, lambda _, signature: recompute.comet_score(signature)),
        style=(TEMPLATES / "style.css").read_text(encoding="utf-8"),
        script=(TEMPLATES / "script.js").read_text(encoding="utf-8"),
    )


def _again(content: Content, how: Callable[[str, str], str]) -> list[tuple[str, str]]:
    """Metrics with what computes them again, once each, whatever the test sets: where `how` knows it of the signature."""
    found = dict.fromkeys((board.metric, how(board.metric, board.signature)) for board in content.boards)
    return [(metric, text) for metric, text in found if text]

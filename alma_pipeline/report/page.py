"""The report as one HTML file that asks nobody for anything: styles, script and pictures are inside."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from alma_pipeline.report import charts
from alma_pipeline.report.content import Content
from alma_pipeline.report.guards import GUARDS
from alma_pipeline.report.picture import HEIGHT, WIDTH
from alma_pipeline.report.significance import LEVEL
from alma_pipeline.report.wording import arrow, chance, metric_name, signed
from alma_pipeline.units import count, energy, seconds, size

TEMPLATES = Path(__file__).resolve().parent / "templates"
RECOMPUTE = {
    "chrf++": "sacrebleu.CHRF(word_order=2)",
    "bleu": 'sacrebleu.BLEU(tokenize="{tok}")',
    "spbleu": 'sacrebleu.BLEU(tokenize="flores200")',
    "ter": "sacrebleu.TER(normalized={norm}, asian_support={asian})",
}
"""How sacrebleu computes a metric again, with the parts of its signature."""


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
        guards=GUARDS,
        box_size={"width": WIDTH, "height": HEIGHT},
        level=LEVEL,
        recompute=[(board, recompute(board.metric, board.signature)) for board in content.boards],
        style=(TEMPLATES / "style.css").read_text(encoding="utf-8"),
        script=(TEMPLATES / "script.js").read_text(encoding="utf-8"),
    )


def recompute(metric: str, signature: str) -> str:
    """The expression that computes a metric again; empty for one that sacrebleu does not have."""
    parts: dict[str, Any] = {"tok": "13a", "norm": "no", "asian": "no"}
    parts |= dict(part.split(":", 1) for part in signature.split("|") if ":" in part)
    parts |= {name: parts[name] == "yes" for name in ("norm", "asian")}
    return RECOMPUTE.get(metric, "").format(**parts)

"""Draws training curves as SVG with matplotlib.

Placeholder colours are replaced with the page's CSS variables, so one drawing serves the light theme, the dark theme and print,
and needs no script.
"""

import io
import re
from typing import Any

from alma_pipeline.report.curves import Curve

PLACEHOLDERS = {"#010203": "var(--train)", "#010204": "var(--dev)", "#010205": "var(--muted)", "#010206": "var(--line)"}
"""Colour that matplotlib writes → CSS variable of the page."""
TRAIN, DEV, TEXT, GRID = PLACEHOLDERS
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "alma_pipeline",
    "font.size": 9,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "path.simplify": True,
}
SIZE = (3.5, 1.9)
"""Width and height in inches; a chart fills the width of a phone without shrinking its text."""


def draw(curve: Curve, number: int) -> str:
    """The chart of one curve as an SVG element. `number` makes its ids unique among the page's charts."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with matplotlib.rc_context(STYLE):
        # Figure without pyplot: no global state and no display.
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        # One line per seed; dev points last, so they stay visible above the training lines.
        for place, series in enumerate(curve.train):
            axes.plot(series.steps, series.values, color=TRAIN, linewidth=1.4, alpha=_opacity(place))
        for place, series in enumerate(curve.dev):
            axes.plot(series.steps, series.values, color=DEV, linewidth=1.6, marker="o", markersize=4, alpha=_opacity(place))
        # Few ticks: the charts are small.
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel("step")
        # Without date and creator, equal data gives equal bytes.
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _embeddable(buffer.getvalue(), f"c{number}-", curve.caption)


def _opacity(place: int) -> float:
    """The first seed is solid, further seeds are faint."""
    return 1.0 if place == 0 else 0.35


def _embeddable(svg: str, prefix: str, caption: str) -> str:
    """The bare <svg> element, with ids unique on the page and the page's colours and font."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", svg)
    svg = re.sub(r" font-family: [^;\"]*;", "", svg)
    for placeholder, colour in PLACEHOLDERS.items():
        svg = svg.replace(placeholder, colour)
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box
    label = caption.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return re.sub(r"<svg[^>]*>", f'<svg role="img" aria-label="{label}" {box[0]}>', svg, count=1)

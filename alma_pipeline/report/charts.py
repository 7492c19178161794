"""Curves as SVG by matplotlib, in the page's own colours: what is drawn in a stand-in colour takes a CSS variable's.

One drawing then serves the light and the dark page, prints, and asks for no script.
"""

import io
import re
from typing import Any

from alma_pipeline.report.curves import Curve

STAND_INS = {"#010203": "var(--train)", "#010204": "var(--dev)", "#010205": "var(--muted)", "#010206": "var(--line)"}
"""Colour that matplotlib writes → colour of the page."""
TRAIN, DEV, TEXT, GRID = STAND_INS
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
"""Inches: on a telephone a chart is as wide as the screen, and its letters keep their size."""


def draw(curve: Curve, number: int) -> str:
    """The chart of one curve. `number` keeps its names apart from those of the page's other charts."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        for place, series in enumerate(curve.train):
            axes.plot(series.steps, series.values, color=TRAIN, linewidth=1.4, alpha=_strength(place))
        for place, series in enumerate(curve.dev):
            axes.plot(series.steps, series.values, color=DEV, linewidth=1.6, marker="o", markersize=4, alpha=_strength(place))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel("step")
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _embedded(written.getvalue(), f"c{number}-", curve.told)


def _strength(place: int) -> float:
    """The first seed stands out."""
    return 1.0 if place == 0 else 0.35


def _embedded(svg: str, prefix: str, told: str) -> str:
    """The bare element, its ids unique on the page, its colours the page's."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", svg)
    svg = re.sub(r" font-family: [^;\"]*;", "", svg)
    for stand_in, colour in STAND_INS.items():
        svg = svg.replace(stand_in, colour)
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box
    label = told.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return re.sub(r"<svg[^>]*>", f'<svg role="img" aria-label="{label}" {box[0]}>', svg, count=1)

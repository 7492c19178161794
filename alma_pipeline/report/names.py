"""How a report writes names and numbers, wherever it writes them."""

METRICS = {"chrf++": "chrF++", "bleu": "BLEU", "ter": "TER", "spbleu": "spBLEU"}
MARKS = {"better": "▲", "worse": "▼", "tie": "≈"}


def arrow(direction: str) -> str:
    """`en-de` → `en→de`."""
    return direction.replace("-", "→")


def metric_name(metric: str) -> str:
    """A metric as papers write it."""
    return METRICS.get(metric, metric)


def signed(value: float) -> str:
    """With a real minus: `−2.2`, `+0.8`, `0.0`."""
    text = f"{value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def chance(p: float | None) -> str:
    """`p < 0.001`, `p = 0.037`; empty where nothing was tested."""
    if p is None:
        return ""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"

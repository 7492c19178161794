"""The recipe as a picture: which nodes stand where, which lines join them, and what each has to say.

Places only; the page's template draws them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from alma_pipeline.plan.node import is_training
from alma_pipeline.plan.plan import Step
from alma_pipeline.report.jobs import ReportJob
from alma_pipeline.units import count

BOX_WIDTH, BOX_HEIGHT = 166, 50
"""Of a box, in the picture's own units."""
COLUMN_STEP, ROW_STEP = 188, 74
"""From one box to the next."""
STATUS = {"reuse": "done", "adopt": "published", "resume": "unfinished", "run": "not there", "skip": "not needed"}
STATUS_MARKS = {"done": "✓", "published": "⇩", "unfinished": "◐", "not there": "○", "not needed": "–"}
MEASURES = (("bits_per_byte", "bits/byte"), ("rewards/accuracies", "pair accuracy"), ("loss", "dev loss"))


@dataclass
class Box:
    """A node, with its place on a grid."""

    name: str
    kind: str
    status: str
    says: str
    x: int = 0
    y: int = 0
    target: bool = False
    after: list["Box"] = field(default_factory=list)
    """Boxes that were made from this one first of all: the picture as a tree."""

    @property
    def mark(self) -> str:
        """The sign of its status."""
        return STATUS_MARKS[self.status]


@dataclass(frozen=True)
class Edge:
    """From the right side of one box to the left side of another."""

    path: str
    light: bool
    """Goes past boxes between the two."""


@dataclass(frozen=True)
class RecipeGraph:
    """The recipe's nodes and the lines between them, in pixels."""

    boxes: list[Box]
    lines: list[Edge]
    width: int
    height: int

    @property
    def roots(self) -> list[Box]:
        """Boxes that were made from no other."""
        below = {id(box) for parent in self.boxes for box in parent.after}
        return [box for box in self.boxes if id(box) not in below]


def draw_graph(job: ReportJob, scores: dict[str, str]) -> RecipeGraph:
    """Models and preference data; corpora and evaluations stand in the tables. `scores`: text by checkpoint."""
    steps = {step.node.name: step for step in job.plan.steps if _shown(step)}
    boxes = {name: _box(job, step, scores) for name, step in steps.items()}
    sources = {name: [source for source in step.node.inputs.values() if source in steps] for name, step in steps.items()}
    depth: dict[str, int] = {}
    for name, before in sources.items():
        depth[name] = 1 + max((depth[source] for source in before), default=-1)
    first = {name: max(before, key=lambda source: depth[source]) for name, before in sources.items() if before}
    for name, parent in first.items():
        boxes[parent].after.append(boxes[name])
    lanes = _lanes(list(steps), first, {name: step.node.group is not None for name, step in steps.items()})
    for name, box in boxes.items():
        box.x, box.y = depth[name] * COLUMN_STEP, lanes[name] * ROW_STEP
    taken = {(depth[name], lanes[name]) for name in boxes}
    lines = [
        _line(boxes[source], boxes[name], any((place, lanes[name]) in taken for place in range(depth[source] + 1, depth[name])))
        for name, before in sources.items()
        for source in before
    ]
    return RecipeGraph(
        list(boxes.values()),
        lines,
        max(depth.values(), default=0) * COLUMN_STEP + BOX_WIDTH,
        max(lanes.values(), default=0) * ROW_STEP + BOX_HEIGHT,
    )


def _shown(step: Step) -> bool:
    return is_training(step.node) or step.node.kind in ("base", "preferences")


def _lanes(names: list[str], first: dict[str, str], grouped: dict[str, bool]) -> dict[str, int]:
    """The longest way that is no group's on top, other branches below it, those of groups last."""
    children = {name: [child for child in names if first.get(child) == name] for name in names}

    def length(name: str) -> int:
        return 1 + max((length(child) for child in children[name]), default=0)

    lanes: dict[str, int] = {}

    def lay(name: str, lane: int) -> None:
        lanes[name] = lane
        for place, child in enumerate(sorted(children[name], key=lambda child: (grouped[child], -length(child)))):
            lay(child, lane if place == 0 else max(lanes.values()) + 1)

    for root in [name for name in names if name not in first]:
        lay(root, max(lanes.values(), default=-1) + 1)
    below = {lane: any(grouped[name] for name in names if lanes[name] == lane) for lane in lanes.values()}
    order = sorted(below, key=lambda lane: (below[lane], lane))
    return {name: order.index(lane) for name, lane in lanes.items()}


def _line(source: Box, target: Box, passes: bool) -> Edge:
    x, y = source.x + BOX_WIDTH, source.y + BOX_HEIGHT / 2
    u, v = target.x, target.y + BOX_HEIGHT / 2
    if passes and source.y == target.y:
        over = source.y - 10
        return Edge(f"M{x - 24},{source.y} C{x},{over} {u},{over} {u + 24},{target.y}", True)
    bend = x + (COLUMN_STEP - BOX_WIDTH) / 2
    return Edge(f"M{x},{y} C{bend},{y} {bend},{v} {bend + 14},{v} L{u},{v}" if y != v else f"M{x},{y} L{u},{v}", passes)


def _box(job: ReportJob, step: Step, scores: dict[str, str]) -> Box:
    node = step.node
    return Box(node.name, node.kind, STATUS[step.verdict], " · ".join(_says(job, step, scores)), target=node.target)


def _says(job: ReportJob, step: Step, scores: dict[str, str]) -> Iterator[str]:
    """What a box has to say: its score, else what training did to the dev set, else how much there is of it."""
    record = job.records.get(step.node.name)
    if record is None:
        yield step.reason if step.verdict == "adopt" else STATUS[step.verdict]
        return
    if step.node.name in scores:
        yield scores[step.node.name]
        return
    after = record.result.get("after", {})
    for name, label in MEASURES:
        if name in after:
            yield f"{label} {after[name]:.3g}"
            return
    examples = record.result.get("counts", {}).get("train_examples")
    if examples:
        yield f"{examples:,} pairs"
    elif record.result.get("parameters"):
        yield f"{count(record.result['parameters'])} parameters"

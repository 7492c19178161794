"""The recipe graph: position and text of each box, and the edges between them. The page's template draws it."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from alma_pipeline.plan.node import is_training
from alma_pipeline.plan.plan import Step
from alma_pipeline.report.jobs import ReportJob
from alma_pipeline.units import count

BOX_WIDTH, BOX_HEIGHT = 166, 50
"""Size of a box, in SVG units."""
COLUMN_STEP, ROW_STEP = 188, 74
"""Distance between neighbouring boxes, left edge to left edge and top to top."""
STATUS = {"reuse": "done", "adopt": "published", "resume": "unfinished", "run": "missing", "skip": "not needed"}
STATUS_MARKS = {"done": "✓", "published": "⇩", "unfinished": "◐", "missing": "○", "not needed": "–"}
MEASURES = (("bits_per_byte", "bits/byte"), ("rewards/accuracies", "pair accuracy"), ("loss", "dev loss"))


@dataclass
class Box:
    """A node of the recipe, with its position in SVG units."""

    name: str
    kind: str
    status: str
    summary: str
    x: int = 0
    y: int = 0
    target: bool = False
    children: list["Box"] = field(default_factory=list)
    """Boxes whose deepest input is this one: the graph as a tree, for narrow screens."""

    @property
    def mark(self) -> str:
        """The symbol for its status."""
        return STATUS_MARKS[self.status]


@dataclass(frozen=True)
class Edge:
    """A line from the right side of one box to the left side of another."""

    path: str
    """SVG path data."""
    dashed: bool
    """Whether it passes boxes in between."""


@dataclass(frozen=True)
class RecipeGraph:
    """Boxes and edges, and the size of the drawing in SVG units."""

    boxes: list[Box]
    edges: list[Edge]
    width: int
    height: int

    @property
    def roots(self) -> list[Box]:
        """Boxes that are no other box's child."""
        below = {id(box) for parent in self.boxes for box in parent.children}
        return [box for box in self.boxes if id(box) not in below]


def draw_graph(job: ReportJob, scores: dict[str, str]) -> RecipeGraph:
    """Lay out models and preference data; corpora and evaluations are left to the tables. `scores`: text by checkpoint."""
    steps = {step.node.name: step for step in job.plan.steps if _shown(step)}
    boxes = {name: _box(job, step, scores) for name, step in steps.items()}
    sources = {name: [source for source in step.node.inputs.values() if source in steps] for name, step in steps.items()}
    # Column: the longest path from a base; plan order guarantees that inputs come first.
    depth: dict[str, int] = {}
    for name, before in sources.items():
        depth[name] = 1 + max((depth[source] for source in before), default=-1)
    # Row: the tree formed by each node's deepest input decides it.
    parents = {name: max(before, key=lambda source: depth[source]) for name, before in sources.items() if before}
    for name, parent in parents.items():
        boxes[parent].children.append(boxes[name])
    lanes = _lanes(list(steps), parents, {name: step.node.group is not None for name, step in steps.items()})
    for name, box in boxes.items():
        box.x, box.y = depth[name] * COLUMN_STEP, lanes[name] * ROW_STEP
    # An edge that skips over a box in its target's row is bent around it and dashed.
    taken = {(depth[name], lanes[name]) for name in boxes}
    edges = [
        _edge(boxes[source], boxes[name], any((place, lanes[name]) in taken for place in range(depth[source] + 1, depth[name])))
        for name, before in sources.items()
        for source in before
    ]
    return RecipeGraph(
        list(boxes.values()),
        edges,
        max(depth.values(), default=0) * COLUMN_STEP + BOX_WIDTH,
        max(lanes.values(), default=0) * ROW_STEP + BOX_HEIGHT,
    )


def _shown(step: Step) -> bool:
    return is_training(step.node) or step.node.kind in ("base", "preferences")


def _lanes(names: list[str], parents: dict[str, str], grouped: dict[str, bool]) -> dict[str, int]:
    """Row by node: the longest branch without a language group on top, other branches below it, group branches last."""
    children = {name: [child for child in names if parents.get(child) == name] for name in names}

    def length(name: str) -> int:
        return 1 + max((length(child) for child in children[name]), default=0)

    lanes: dict[str, int] = {}

    # Depth first: the best child stays in its parent's lane, each other one opens a new lane.
    def assign(name: str, lane: int) -> None:
        lanes[name] = lane
        for place, child in enumerate(sorted(children[name], key=lambda child: (grouped[child], -length(child)))):
            assign(child, lane if place == 0 else max(lanes.values()) + 1)

    for root in [name for name in names if name not in parents]:
        assign(root, max(lanes.values(), default=-1) + 1)
    # Group lanes move below all others, in their order.
    below = {lane: any(grouped[name] for name in names if lanes[name] == lane) for lane in lanes.values()}
    order = sorted(below, key=lambda lane: (below[lane], lane))
    return {name: order.index(lane) for name, lane in lanes.items()}


def _edge(source: Box, target: Box, passes: bool) -> Edge:
    x, y = source.x + BOX_WIDTH, source.y + BOX_HEIGHT / 2
    u, v = target.x, target.y + BOX_HEIGHT / 2
    # In the same row, an arc above the boxes in between; otherwise an S-curve in the gap right of the source.
    if passes and source.y == target.y:
        over = source.y - 10
        return Edge(f"M{x - 24},{source.y} C{x},{over} {u},{over} {u + 24},{target.y}", True)
    bend = x + (COLUMN_STEP - BOX_WIDTH) / 2
    return Edge(f"M{x},{y} C{bend},{y} {bend},{v} {bend + 14},{v} L{u},{v}" if y != v else f"M{x},{y} L{u},{v}", passes)


def _box(job: ReportJob, step: Step, scores: dict[str, str]) -> Box:
    node = step.node
    return Box(node.name, node.kind, STATUS[step.verdict], " · ".join(_summary(job, step, scores)), target=node.target)


def _summary(job: ReportJob, step: Step, scores: dict[str, str]) -> Iterator[str]:
    """The text below a box's name: its score, else a dev set measure, else its size."""
    record = job.records.get(step.node.name)
    if record is None:
        yield step.reason if step.verdict == "adopt" else STATUS[step.verdict]
        return
    if step.node.name in scores:
        yield scores[step.node.name]
        return
    # The order of MEASURES is one of preference: pair accuracy is more informative than a preference loss.
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

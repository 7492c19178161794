"""How `--help` looks, and what it shows beside verbs and flags: option groups, settings and examples. Composes nothing."""

import argparse
import re
import shutil
import textwrap
from pathlib import Path

from alma_pipeline.config.groups import option_groups
from alma_pipeline.paths import CONF

COLUMN = 26
"""Where the right-hand column starts; an entry that needs more gets a line of its own."""
ARTIFACT = "a node name (its newest artifact), the beginning of a key, or an artifact's folder name"
GROUPS = {
    "stage": "the target: how far along the recipe to go",
    "model": "the base model; picks matching data, hardware, budget and evaluation",
    "data": "languages and text",
    "test": "a test set to use instead of the data option's",
    "hardware": "devices, launcher and ZeRO stage; never changes a result",
    "budget": "how much text and how many steps",
    "evaluation": "which checkpoints are translated and scored, and how",
    "scorers": "the neural metrics that evaluation.comet.models can name",
    "tracking": "where runs are tracked",
    "experiment": "a whole request under one name",
}
"""What each group of options chooses, in the order in which they are listed."""
SETTINGS = {
    "stages.NODE.FIELD=VALUE": "one node's setting, also of a node on the way: stages.cpo.beta=0.2",
    "groups.gN.NODE.FIELD=VALUE": "the same for one language group: groups.g5.arpo.beta=0.4",
    "group=all": "language groups that take part: all, 5 or '[1,5]'",
    "directions=de-en,en-de": "all (the default), some directions, or those of a group, as in g5",
    "tokens=20e9": "train the target for this many tokens instead of its steps or epochs",
    "data.root=FOLDER": "local copies of the hub data sets, or ALMA's folders",
    "'data.languages=[de,nl]'": "the languages beside English",
    "seed=42": "with -m: seed=1,2,3 or 'seed=range(1,4)'",
    "upstream=train": "train the nodes before the target even if they are published",
    "target=train": "train the target even if it is published",
    "--cfg job": "prints every setting",
}
EXAMPLES = {
    "alma-pipeline": "the whole recipe on a tiny model, on this machine",
    "alma-pipeline plan stage=cpo model=13b": "what ALMA-13B-R would take, and why",
    "alma-pipeline stage=parallel stages.parallel.learning_rate=1e-3": "",
    "alma-pipeline --from mono --only mono": "train one node again",
    "alma-pipeline -m stage=cpo stages.cpo.beta=0.1,0.2 seed=1,2": "a sweep",
    "alma-pipeline show cpo": "the newest checkpoint of that node",
    'echo "Das Haus ist klein." | alma-pipeline translate stage=cpo direction=de-en': "",
    "alma-pipeline report -m stage=cpo seed=1,2,3": "scores with their spread over seeds",
    "alma-pipeline compare parallel cpo": "two checkpoints",
}
END = """\
The store ($ALMA_PIPELINE_STORE, or .alma here) holds all that a run writes.
Exit codes: 0 done, 1 a stage failed, 2 a wrong request, 128 + n ended by signal n (130: Ctrl-C).
`python -m alma_pipeline` is the same command."""


class Formatter(argparse.HelpFormatter):
    """Argparse's layout with a wider left column, one metavar per flag, verbs directly under their title, and kept line breaks.

    Argparse has no public way to change the last three.
    """

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=COLUMN, width=width())

    def _fill_text(self, text: str, columns: int, indent: str) -> str:
        lines = text.splitlines()
        return "\n".join(line if line.startswith(" ") else textwrap.fill(line, width()) for line in lines)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        takes = "" if action.nargs == 0 else f" {self._format_args(action, action.dest.upper())}"
        return f"{', '.join(action.option_strings)}{takes}"

    def _format_action(self, action: argparse.Action) -> str:
        if isinstance(action, argparse._SubParsersAction):
            return "".join(self._format_action(verb) for verb in action._get_subactions())
        return super()._format_action(action)


def width() -> int:
    """Columns of the terminal, as $COLUMNS or the terminal gives them."""
    return shutil.get_terminal_size().columns


def epilog(examples: bool = False) -> str:
    """What follows the flags of a verb that takes settings; with examples after the list of all verbs."""
    parts = [f"options, as in model=13b (* is the default):\n{options(CONF)}", f"settings:\n{_rows(SETTINGS, COLUMN + 4)}"]
    if examples:
        parts += [f"examples:\n{_rows(EXAMPLES, 48)}", END]
    return "\n\n".join(parts)


def options(conf: Path) -> str:
    """Each group's phrase, then its options."""
    chosen = dict(re.findall(r"^  - (\w+): (\w+)", (conf / "config.yaml").read_text(encoding="utf-8"), re.MULTILINE))
    groups = option_groups(conf)
    lines = []
    for group in sorted(groups, key=[*GROUPS, *groups].index):
        marked = " | ".join(f"{name}*" if chosen.get(group) == name else name for name in groups[group])
        lines += [_rows({group: GROUPS.get(group, "")}, 14), _rows({"": marked}, 14)]
    return "\n".join(lines)


def _rows(rows: dict[str, str], column: int) -> str:
    """Two columns, the right one wrapped to the terminal; a left entry without room gets a line of its own."""
    lines = []
    for left, right in rows.items():
        head = f"  {left}"
        if len(head) > column - 2 and right:
            lines.append(head)
            head = ""
        text = textwrap.wrap(right, max(width() - column, 24), break_on_hyphens=False) or [""]
        lines += [f"{head:{column}}{text[0]}".rstrip(), *(" " * column + line for line in text[1:])]
    return "\n".join(lines)

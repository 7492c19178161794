"""What `--help` says: verbs, flags, and the options that the configuration folder holds. Composes nothing."""

import re
from pathlib import Path

from alma_pipeline import __doc__ as about
from alma_pipeline import __version__
from alma_pipeline.cli.arguments import CONFIGURED, FLAGS, HYDRA_FLAGS, SHORT, VERBS, Flag
from alma_pipeline.paths import CONF

GROUPS = {
    "stage": "how far to go: the target, with every node it needs",
    "model": "the base model; picks fitting data, hardware, budget and evaluation",
    "data": "languages and text",
    "hardware": "devices, launcher, ZeRO stage: never changes a result",
    "budget": "how much text and how many steps",
    "evaluation": "which checkpoints are translated and scored, and how",
    "tracking": "where runs are tracked",
    "experiment": "a whole request by name",
}
"""In the order of interest; `node`, `kind` and `languages` are building blocks, not choices."""
SETTINGS = """\
  stages.<node>.<field>=VALUE         a setting of one node, on the way too: stages.cpo.beta=0.2
  groups.g<N>.<node>.<field>=VALUE    the same for one language group: groups.g5.arpo.beta=0.4
  group=all | group=5 | 'group=[1,5]' which language groups take part
  directions=de-en,en-de              all, some of them, or a group's as g5
  tokens=20e9                         how long the target trains, in place of its steps or epochs
  data.root=FOLDER                    copies of the hub data sets, or ALMA's folders
  'data.languages=[de,nl]'            which languages, beside English
  seed=42                             with -m: seed=1,2,3 or 'seed=range(1,4)'
  upstream=train  target=train        train even where a published checkpoint fits
  --cfg job prints every setting there is."""
EXAMPLES = """\
  alma-pipeline                                  the whole recipe on a tiny model, on this machine
  alma-pipeline plan stage=cpo model=13b         what ALMA-13B-R would take, and why
  alma-pipeline stage=parallel stages.parallel.learning_rate=1e-3
  alma-pipeline --from mono --only mono          train one node again
  alma-pipeline -m stage=cpo stages.cpo.beta=0.1,0.2 seed=1,2
  alma-pipeline show cpo                         the newest checkpoint of that node
  echo "Das Haus ist klein." | alma-pipeline translate stage=cpo direction=de-en
  alma-pipeline report -m stage=cpo seed=1,2,3   scores with their spread over seeds
  alma-pipeline compare parallel cpo             two checkpoints"""


def answer(words: list[str]) -> int:
    """Print the version, or the help of the verb among the words, or all of it."""
    if "--version" in words:
        print(f"alma-pipeline {__version__}")
        return 0
    verb = next((word for word in words if word in VERBS), "")
    print(verb_help(verb) if verb else whole_help())
    return 0


def whole_help() -> str:
    """What `--help` prints."""
    verbs = "\n".join(f"  {name:10}{text}" for name, text in VERBS.items())
    return "\n".join(
        [
            f"alma-pipeline {__version__}. {about}",
            "\nusage: alma-pipeline [VERB] [--FLAGS] [GROUP=OPTION] [KEY=VALUE] ...       (or: python -m alma_pipeline ...)",
            f"\nverbs (alma-pipeline VERB --help says more)\n{verbs}",
            f"\nflags\n{_flags(FLAGS)}",
            f"\nflags of Hydra\n{_flags(HYDRA_FLAGS)}",
            f"\noptions (* is the default)\n{options(CONF)}",
            f"\nsettings\n{SETTINGS}",
            f"\nexamples\n{EXAMPLES}",
            "\nEverything a run leaves is in the store: $ALMA_PIPELINE_STORE, else .alma here."
            "\nExit codes: 0 done, 2 a mistake in the request, 1 a stage failed, 130 interrupted.",
        ]
    )


def verb_help(verb: str) -> str:
    """What `VERB --help` prints."""
    mine = {name: flag for name, flag in FLAGS.items() if verb in flag.verbs}
    takes = {
        "show": "NAME|KEY",
        "doctor": "[--FLAGS]",
        "gc": "[--FLAGS]",
        "compare": 'A B, each a NAME, a KEY or "SETTINGS"',
        "adopt": "NODE FOLDER|OWNER/NAME[@REVISION] [GROUP=OPTION] [KEY=VALUE] ...",
        "export": "NAME|KEY FOLDER [--FLAGS]",
        "translate": "[FILE ...] [--FLAGS] direction=de-en [GROUP=OPTION] [KEY=VALUE] ...",
    }.get(verb, "[--FLAGS] [GROUP=OPTION] [KEY=VALUE] ...")
    parts = [f"usage: alma-pipeline {verb} {takes}\n\n{VERBS[verb][0].upper()}{VERBS[verb][1:]}."]
    parts += [f"flags\n{_flags(mine)}"] if mine else []
    if verb in CONFIGURED:
        parts += [
            f"flags of Hydra\n{_flags({name: flag for name, flag in HYDRA_FLAGS.items() if verb in flag.verbs})}",
            f"options (* is the default)\n{options(CONF)}",
            f"settings\n{SETTINGS}",
        ]
    return "\n\n".join(parts)


def options(conf: Path) -> str:
    """One line of options and one of explanation for each group."""
    chosen = dict(re.findall(r"^  - (\w+): (\w+)", (conf / "config.yaml").read_text(encoding="utf-8"), re.MULTILINE))
    lines = []
    for group, text in GROUPS.items():
        names = sorted(path.stem for path in (conf / group).glob("*.yaml"))
        marked = " | ".join(f"{name}*" if chosen.get(group) == name else name for name in names)
        lines += [f"  {group}={marked}", f"      {text}"]
    return "\n".join(lines)


def _flags(flags: dict[str, Flag]) -> str:
    short = {name: letter for letter, name in SHORT.items()}
    heads = {
        name: " ".join(filter(None, [short.get(name, "") + ("," if name in short else ""), name, flag.takes]))
        for name, flag in flags.items()
    }
    return "\n".join(f"  {heads[name]:25}{flag.text}{_where(flag)}" for name, flag in flags.items())


def _where(flag: Flag) -> str:
    return f" ({flag.verbs[0]})" if len(flag.verbs) == 1 else ""

"""The words of the command line: verb, flags, and what is left for Hydra. Knows no configuration and runs nothing."""

from dataclasses import dataclass, field

from alma_pipeline.config.overrides import _listed, _quoted
from alma_pipeline.errors import UserError, nearest
from alma_pipeline.paths import CONF

VERBS = {
    "run": "make the target's checkpoint and its scores exist (the default)",
    "plan": "print what would run and why, with steps, tokens, memory, disk and time; writes nothing",
    "data": "prepare the text, and show how one example of each stage is tokenised and masked",
    "show": "one artifact by node name or key: record, lineage, scores",
    "adopt": "an existing checkpoint becomes a node's: `adopt mono FOLDER|OWNER/NAME@REVISION model=7b`",
    "export": "a checkpoint as a plain Hugging Face folder with a model card: `export cpo ./my-model`",
    "translate": "translate files or standard input with a stage's checkpoint, each language by its group's adapter",
    "gc": "what in the store can go, and how much that frees; deletes with --delete only",
    "report": "scores, training and cost of a finished recipe: a table here, and a page in the store",
    "compare": "two checkpoints, or two requests in quotes: what they differ in, then their scores",
    "doctor": "check the environment and the store",
}
COMPOSING = ("run", "plan", "data")
REQUESTING = (*COMPOSING, "report")
"""Verbs that take settings and nothing else."""
CONFIGURED = (*REQUESTING, "translate", "adopt")
"""Verbs that take settings, so that they know which checkpoint is meant."""


@dataclass(frozen=True)
class Flag:
    """A word that starts with a dash."""

    text: str
    takes: str = ""
    """Names of the words that follow it; in square brackets when it may stand alone."""
    verbs: tuple[str, ...] = COMPOSING
    values: tuple[str, ...] = ()
    """What the word that follows may be; empty: anything."""


FLAGS = {
    "--force": Flag("make this node again; may be repeated", "NODE"),
    "--from": Flag("make this node and everything after it again; may be repeated", "NODE"),
    "--only": Flag("make no other node; may be repeated", "NODE"),
    "--json": Flag("the plan as JSON; for translate, JSON lines in and out", verbs=("plan", "translate")),
    "--output": Flag("where the result goes: translations, a report's page or tables", "FILE", ("translate", "report")),
    "--diff": Flag("in which settings and inputs two artifacts differ", "A B", ("plan",)),
    "--why": Flag("explain this node: every difference from its nearest earlier artifact; may be repeated", "NODE", ("plan",)),
    "--adapter": Flag("the adapter alone, not a full model", verbs=("export", "adopt")),
    "--precision": Flag("of the merged weights; without it that of the base", "TYPE", ("export",), ("fp32", "bf16", "fp16")),
    "--push": Flag("then upload it, with the token in HF_TOKEN; a new repository is private", "OWNER/NAME", ("export",)),
    "--keep": Flag("what this artifact needs stays, and the rest can go; may be repeated", "NAME|KEY", ("gc",)),
    "--delete": Flag("delete what can go", verbs=("gc",)),
    "--format": Flag(
        "html writes a page; the others print tables for a paper", "KIND", ("report",), ("html", "markdown", "latex")
    ),
    "--significance": Flag(
        "the paired test of sacrebleu's metrics; a report takes evaluation.significance",
        "TEST",
        ("compare",),
        ("bootstrap", "randomisation"),
    ),
    "--verify": Flag("compare every file with its recorded digest", verbs=("doctor",)),
}
HYDRA_FLAGS = {
    "--multirun": Flag("a run for each value: `-m seed=1,2,3`, `-m model=tiny,smollm2_135m`", verbs=REQUESTING),
    "--cfg": Flag("print the configuration", "SHOWN", values=("job", "hydra", "all")),
    "--resolve": Flag("with --cfg: interpolations filled in"),
    "--package": Flag("with --cfg: one part of it, as in `--package stages.cpo`", "KEY"),
    "--info": Flag(
        "how the configuration comes about",
        "[ABOUT]",
        values=("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
    ),
    "--config-dir": Flag("a folder with options of your own, as in DIR/experiment/mine.yaml", "DIR", CONFIGURED),
    "--shell-completion": Flag('tab completion: eval "$(alma-pipeline -sc install=bash)"', verbs=tuple(VERBS)),
    "--hydra-help": Flag("Hydra's own help"),
}
SHORT = {"-m": "--multirun", "-c": "--cfg", "-p": "--package", "-i": "--info", "-cd": "--config-dir", "-sc": "--shell-completion"}
COMMANDS = ("--multirun", "--cfg", "--info", "--hydra-help")
"""Hydra does one of them at a time."""


@dataclass
class Command:
    """A command line taken apart."""

    verb: str = "run"
    flags: dict[str, list[str]] = field(default_factory=dict)
    """This project's own and Hydra's, under their long names, with the words they took."""
    names: list[str] = field(default_factory=list)
    """Bare words after the verb: what `show` shows and `compare` compares."""
    overrides: list[str] = field(default_factory=list)

    def hydra_words(self) -> list[str]:
        """What Hydra's own command line understands."""
        flags = [word for name, taken in self.flags.items() if name in HYDRA_FLAGS for word in (name, *taken)]
        return [*flags, *self.overrides]


def parse(words: list[str]) -> Command:
    """Take a command line apart. Raises UserError for a wrong verb, flag or flag value."""
    command = Command()
    left = list(words)
    bare: list[str] = []
    while left:
        word = left.pop(0)
        if word.startswith("-"):
            name, taken = _flag(word, left)
            command.flags[name] = [*command.flags.get(name, []), *taken]
        elif ("=" in word or word.startswith(("+", "~"))) and bare[:1] != ["compare"]:
            command.overrides.append(word)
        else:
            bare.append(word)
    if bare:
        command.verb = bare.pop(0)
    command.names = bare
    if "--multirun" not in command.flags:
        command.overrides = [_listed(text) for text in command.overrides]
    command.overrides = [_quoted(text) for text in command.overrides]
    _check(command)
    return command


def _flag(word: str, left: list[str]) -> tuple[str, list[str]]:
    """A flag's long name and the words it takes, which leave `left`."""
    name, equals, value = word.partition("=")
    name = SHORT.get(name, name)
    known = FLAGS | HYDRA_FLAGS
    if name not in known:
        raise UserError(_unknown_flag(word, name))
    flag = known[name]
    count = len(flag.takes.split())
    if equals:
        taken = [value]
    elif flag.takes.startswith("["):
        taken = [left.pop(0)] if left and left[0] in flag.values else [flag.values[0]]
    else:
        taken = left[:count]
        del left[:count]
    if len(taken) != count or any(not text or text.startswith("--") for text in taken):
        found = " ".join(taken) or "nothing"
        raise UserError(f"{name}: expected {flag.takes if count else 'no value'} after it, found {found} ({flag.text})")
    if flag.values and taken[0] not in flag.values:
        raise UserError(f"{name} {taken[0]}: expected one of {', '.join(flag.values)}; {nearest(taken[0], list(flag.values))}")
    return name, taken


def _unknown_flag(word: str, name: str) -> str:
    if name in ("--config-name", "-cn", "--config-path", "-cp", "--experimental-rerun"):
        return f"{name} is not taken: the primary configuration is this project's; add files of your own with --config-dir DIR"
    if not name.startswith("--") or len(name) < 3:
        return f"{word}: no such flag; known: {', '.join([*SHORT, '-h'])}, and the long ones of --help"
    setting = word.lstrip("-")
    if (CONF / name.lstrip("-")).is_dir() or "." in name:
        return f"{word}: no such flag; a setting has no dashes: {setting if '=' in setting else f'{setting}=VALUE'}"
    return f"{word}: no such flag; {nearest(name, [*FLAGS, *HYDRA_FLAGS, '--help', '--version'])}"


def _check(command: Command) -> None:
    verb = command.verb
    if verb not in VERBS:
        raise UserError(
            f"'{verb}' is no verb, and a setting is GROUP=OPTION or KEY=VALUE, without spaces; {nearest(verb, list(VERBS))}"
        )
    known = FLAGS | HYDRA_FLAGS
    for name in command.flags:
        if verb not in known[name].verbs:
            raise UserError(f"{name} goes with {' and '.join(known[name].verbs)}, found the verb {verb} ({known[name].text})")
    if verb in REQUESTING and command.names:
        raise UserError(f"'{command.names[0]}' is no setting; expected GROUP=OPTION or KEY=VALUE, without spaces")
    if verb not in CONFIGURED and command.overrides:
        raise UserError(f"{verb} takes no settings, found {command.overrides[0]}; ALMA_PIPELINE_STORE says which store")
    together = [name for name in COMMANDS if name in command.flags]
    if len(together) > 1:
        raise UserError(f"{' and '.join(together)} do not go together; give one of them")
    for name in ("--resolve", "--package"):
        if name in command.flags and "--cfg" not in command.flags:
            raise UserError(f"{name} goes with --cfg, as in `--cfg job {name}`")

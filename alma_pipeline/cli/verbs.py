"""Declares every verb and flag once; parsing, `--help` and tab completion all read this declaration.

It does not live in the verbs' own modules: those import Hydra, and neither `--help` nor the tab key may wait for that.
"""

import argparse
from collections.abc import Callable
from typing import NoReturn

from alma_pipeline import __doc__ as about
from alma_pipeline import __version__
from alma_pipeline.cli import help
from alma_pipeline.errors import UserError, nearest

PROGRAM = "alma-pipeline"
SETTINGS = "[GROUP=OPTION] [KEY=VALUE] ..."
NODE, ARTIFACT, ONE, OTHER = NAMES = ("NODE", "NAME|KEY", "A", "B")
"""Metavars of words that can be node names, which completion offers."""
SHOWN = ("job", "hydra", "all")
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
SHELLS = ("bash", "zsh", "fish")
Group = argparse._ArgumentGroup


class Parser(argparse.ArgumentParser):
    """Raises UserError where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("argument "):
            raise UserError(message.removeprefix("argument "))
        raise UserError(f"{message}; usage: {self.usage}")


def command_line() -> tuple[Parser, dict[str, Parser]]:
    """The parser of the whole command line, which prints `--help`, and the parser of each verb, `run` first."""
    usage = f"{PROGRAM} [VERB] [--FLAGS] {SETTINGS}"
    top = Parser(PROGRAM, usage, f"{PROGRAM} {__version__}. {about}", help.epilog(examples=True),
                 add_help=False, formatter_class=help.Formatter)  # fmt: skip
    verbs = top.add_subparsers(title=f"verbs ({PROGRAM} VERB --help lists the flags of each)", metavar="", parser_class=Parser)
    for declare in (_run, _plan, _data, _show, _adopt, _export, _translate, _gc, _report, _compare, _doctor):
        declare(verbs)
    flags = _flags(top, "flags of run, the default verb")
    _rerun_flags(flags)
    flags.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}", help="print the version")
    hydra = _hydra_flags(top)
    text = f'tab completion: eval "$({PROGRAM} -sc install=bash)"'
    hydra.add_argument("-sc", "--shell-completion", metavar="install=SHELL", help=text)
    return top, verbs.choices


def _verb(verbs: "argparse._SubParsersAction[Parser]", name: str, usage: str, text: str, settings: bool = False) -> Parser:
    """A verb's parser. `settings`: whether it takes GROUP=OPTION and KEY=VALUE."""
    parser = verbs.add_parser(
        name, help=text, usage=f"{PROGRAM} {name} {usage}{f' {SETTINGS}' if settings else ''}",
        description=f"{text[0].upper()}{text[1:]}.", epilog=help.epilog() if settings else None,
        add_help=False, allow_abbrev=False, formatter_class=help.Formatter,
    )  # fmt: skip
    if settings:
        parser.set_defaults(overrides=[])
    return parser


def _flags(parser: Parser, title: str = "flags") -> Group:
    group = parser.add_argument_group(title)
    group.add_argument("-h", "--help", action="help", help="print this help")
    return group


def _run(verbs: "argparse._SubParsersAction[Parser]") -> None:
    text = "build the target's checkpoint and its scores, reusing what exists (the default verb)"
    parser = _verb(verbs, "run", "[--FLAGS]", text, settings=True)
    _rerun_flags(_flags(parser))
    _hydra_flags(parser)


def _plan(verbs: "argparse._SubParsersAction[Parser]") -> None:
    text = "print what would run and why, with steps, tokens, memory, disk and time; writes nothing"
    parser = _verb(verbs, "plan", "[--FLAGS]", text, settings=True)
    flags = _flags(parser)
    flags.add_argument("--json", action="store_true", help="print the plan as JSON")
    text = "print the settings and inputs in which two artifacts differ, instead of a plan"
    flags.add_argument("--diff", nargs=2, metavar=(ARTIFACT, ARTIFACT), help=text)
    text = "explain this node: every difference from its nearest earlier artifact; repeatable"
    flags.add_argument("--why", metavar=NODE, action="append", default=[], help=text)
    _rerun_flags(flags)
    _hydra_flags(parser)


def _data(verbs: "argparse._SubParsersAction[Parser]") -> None:
    text = "prepare the text and show how one example of each stage is tokenised and masked"
    parser = _verb(verbs, "data", "[--FLAGS]", text, settings=True)
    _rerun_flags(_flags(parser))
    _hydra_flags(parser)


def _show(verbs: "argparse._SubParsersAction[Parser]") -> None:
    parser = _verb(verbs, "show", ARTIFACT, "print an artifact's record, lineage, settings and result")
    parser.add_argument_group("arguments").add_argument("artifact", metavar=ARTIFACT, help=help.ARTIFACT)
    _flags(parser)


def _adopt(verbs: "argparse._SubParsersAction[Parser]") -> None:
    text = "use an existing checkpoint as a node's output"
    parser = _verb(verbs, "adopt", "NODE FOLDER|OWNER/NAME[@REVISION] [--FLAGS]", text, settings=True)
    arguments = parser.add_argument_group("arguments")
    arguments.add_argument("node", metavar=NODE, help="the node that would otherwise be trained, as in mono")
    text = "the checkpoint: a local folder, or a repository on the Hugging Face Hub"
    arguments.add_argument("source", metavar="FOLDER|OWNER/NAME[@REVISION]", help=text)
    flags = _flags(parser)
    flags.add_argument("--adapter", action="store_true", help="the checkpoint is a LoRA adapter (detected for a local folder)")
    _config_dir(flags)


def _export(verbs: "argparse._SubParsersAction[Parser]") -> None:
    text = "write a checkpoint as a plain Hugging Face folder with a model card"
    parser = _verb(verbs, "export", f"{ARTIFACT} FOLDER [--FLAGS]", text)
    arguments = parser.add_argument_group("arguments")
    arguments.add_argument("artifact", metavar=ARTIFACT, help=help.ARTIFACT)
    arguments.add_argument("folder", metavar="FOLDER", help="an empty or new folder")
    flags = _flags(parser)
    flags.add_argument("--adapter", action="store_true", help="write the adapter alone instead of a merged model")
    _choice(flags, "--precision", ("fp32", "bf16", "fp16"), "precision of the merged weights (default: the base model's)")
    text = "then upload the folder with the token in HF_TOKEN; a new repository is private"
    flags.add_argument("--push", metavar="OWNER/NAME", help=text)


def _translate(verbs: "argparse._SubParsersAction[Parser]") -> None:
    text = "translate files or standard input with a stage's checkpoint, each language with its group's adapter"
    parser = _verb(verbs, "translate", "[FILE ...] [--FLAGS] direction=de-en", text, settings=True)
    text = "plain text, or JSON lines if its name ends in .jsonl (default: standard input); plain text needs direction=de-en"
    parser.add_argument_group("arguments").add_argument("files", metavar="FILE", nargs="*", help=text)
    flags = _flags(parser)
    flags.add_argument("--json", action="store_true", help="read every FILE as JSON lines with `source` and `direction`")
    flags.add_argument("--output", metavar="FILE", help="write the translations to FILE instead of standard output")
    _config_dir(flags)


def _gc(verbs: "argparse._SubParsersAction[Parser]") -> None:
    text = "list artifacts that can be deleted and the space this frees; --delete deletes them"
    flags = _flags(_verb(verbs, "gc", "[--FLAGS]", text))
    text = "keep this artifact and everything it depends on; the rest may be deleted; repeatable"
    flags.add_argument("--keep", metavar=ARTIFACT, action="append", default=[], help=text)
    flags.add_argument("--delete", action="store_true", help="delete what is listed")


def _report(verbs: "argparse._SubParsersAction[Parser]") -> None:
    text = "report the scores, training and cost of a finished recipe: tables here, and a page in the store"
    parser = _verb(verbs, "report", "[--FLAGS]", text, settings=True)
    flags = _flags(parser)
    text = "html writes the page (the default); markdown and latex print tables for a paper"
    _choice(flags, "--format", ("html", "markdown", "latex"), text)
    flags.add_argument("--output", metavar="FILE", help="write the page or the tables to FILE")
    flags.add_argument("-m", "--multirun", action="store_true", help="report on a sweep, as in -m seed=1,2,3")
    _config_dir(flags)


def _compare(verbs: "argparse._SubParsersAction[Parser]") -> None:
    text = "print what two checkpoints, runs or requests differ in, then their scores"
    parser = _verb(verbs, "compare", "A B [--FLAGS]", text)
    text = (
        "a checkpoint (node name, key or folder name), a run in MLflow (name or id), or a request in quotes, as in "
        '"stage=cpo stages.cpo.beta=0.2"'
    )
    arguments = parser.add_argument_group("arguments")
    arguments.add_argument("one", metavar=ONE, help=text)
    arguments.add_argument("other", metavar=OTHER, help="what to compare it with, written in the same way")
    text = "paired test for sacrebleu's metrics (default: the sides' evaluation.significance)"
    _choice(_flags(parser), "--significance", ("bootstrap", "randomisation"), text)


def _doctor(verbs: "argparse._SubParsersAction[Parser]") -> None:
    flags = _flags(_verb(verbs, "doctor", "[--FLAGS]", "check the environment and the store"))
    flags.add_argument("--verify", action="store_true", help="compare every file with its recorded digest")


def _rerun_flags(flags: Group) -> None:
    for name, attribute, text in (
        ("--force", "force", "rebuild this node; repeatable"),
        ("--from", "from_", "rebuild this node and everything that depends on it; repeatable"),
        ("--only", "only", "build no node but this one; repeatable"),
    ):
        flags.add_argument(name, dest=attribute, metavar=NODE, action="append", default=[], help=text)


def _hydra_flags(parser: Parser) -> Group:
    flags = parser.add_argument_group("flags of Hydra")
    alone = flags.add_mutually_exclusive_group()
    text = "run once for each value, as in -m seed=1,2,3"
    alone.add_argument("-m", "--multirun", action="store_true", help=text)
    alone.add_argument("-c", "--cfg", choices=SHOWN, type=_one_of(SHOWN), help="print the configuration instead of running")
    text = "print how the configuration is composed"
    alone.add_argument("-i", "--info", nargs="?", const=INFO[0], choices=INFO, type=_one_of(INFO), metavar="ABOUT", help=text)
    alone.add_argument("--hydra-help", action="store_true", help="print Hydra's own help")
    flags.add_argument("--resolve", action="store_true", help="with --cfg: resolve interpolations")
    flags.add_argument("-p", "--package", metavar="KEY", help="with --cfg: print only this part, as in -p stages.cpo")
    _config_dir(flags)
    return flags


def _config_dir(flags: Group) -> None:
    text = "a folder with options of your own, as in DIR/experiment/mine.yaml; repeatable"
    flags.add_argument("-cd", "--config-dir", metavar="DIR", action="append", default=[], help=text)


def _choice(flags: Group, name: str, values: tuple[str, ...], text: str) -> None:
    flags.add_argument(name, choices=values, type=_one_of(values), help=text)


def _one_of(values: tuple[str, ...]) -> Callable[[str], str]:
    """Checks a flag's value before argparse does, and names the nearest right one."""

    def checked(text: str) -> str:
        if text in values:
            return text
        hint = nearest(text, list(values))
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(values)}, found '{text}'{f'; {hint}' if hint else ''}")

    return checked

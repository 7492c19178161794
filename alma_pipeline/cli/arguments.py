"""Parses the command line: the verb, its flags, and the settings left for Hydra. Knows no configuration and runs nothing.

Argparse parses each verb's flags and arguments. It cannot take a verb, flags and settings in any order, so the words are sorted
before that.
"""

import argparse
from dataclasses import dataclass, field

from alma_pipeline.cli.verbs import NODE, Parser, command_line
from alma_pipeline.config.overrides import as_list, as_text
from alma_pipeline.errors import UserError, suggestion
from alma_pipeline.paths import CONF

Flags = dict[str, argparse.Action]
NOT_TAKEN = ("--config-name", "-cn", "--config-path", "-cp", "--experimental-rerun")
"""Flags of Hydra that this command does not pass on."""
SYNTAX = "settings are written GROUP=OPTION or KEY=VALUE, without spaces"


class Arguments(argparse.Namespace):
    """A parsed command line; a verb's flags and arguments are further attributes, named as `cli.verbs` declares them."""

    verb: str
    overrides: list[str]
    """Settings, ready for Hydra."""
    multirun: bool = False


@dataclass
class Words:
    """The words of a command line, sorted."""

    flags: list[tuple[str, list[str]]] = field(default_factory=list)
    """Each flag with the words it takes."""
    rest: list[str] = field(default_factory=list)
    """Verb, settings and names, in order."""

    def verb(self) -> str:
        """The first word that is neither a flag nor a setting; empty if there is none."""
        return next((word for word in self.rest if not is_setting(word)), "")


def parse(words: list[str]) -> Arguments:
    """Parse a command line. Raises UserError for a mistake, and SystemExit once `--help` or `--version` is printed."""
    top, verbs = command_line()
    flags = known_flags(top, verbs)
    found = sort_words(words, flags)
    verb = found.verb()
    # Flags first: the value of a mistyped one looks like a verb.
    for name, taken in found.flags:
        if name not in flags:
            raise UserError(_unknown_flag(name, taken, list(flags), list(verbs.get(verb, top)._option_string_actions)))
    # Then the verb.
    if verb and verb not in verbs:
        for name in (name for name, taken in found.flags if flags[name].nargs == "?" and not taken):
            choices = [str(choice) for choice in flags[name].choices or ()]
            raise UserError(f"{name}: expected one of {', '.join(choices)}, found '{verb}'; {suggestion(verb, choices)}")
        hint = f"did you mean '--{verb}'?" if f"--{verb}" in flags else suggestion(verb, list(verbs))
        raise UserError(f"unknown command '{verb}'; {hint}{'' if hint.endswith('?') else '.'} S{SYNTAX[1:]}")
    # Help is printed even if arguments are missing.
    names = [name for name, _ in found.flags]
    if "--version" in names:
        top.parse_args(["--version"])
    if "-h" in names or "--help" in names:
        verbs.get(verb, top).parse_args(["--help"])
    for name, taken in found.flags:
        _check_flag(name, taken, verb or "run", verbs)
    return _parsed(found, verb or "run", verbs[verb or "run"])


def known_flags(top: Parser, verbs: dict[str, Parser]) -> Flags:
    """Every flag of every verb. A flag takes the same number of words with each of its verbs."""
    return {name: action for parser in (top, *verbs.values()) for name, action in parser._option_string_actions.items()}


def sort_words(words: list[str], flags: Flags) -> Words:
    """Sort words by what they are. Checks nothing: a flag may be unknown or lack a value."""
    found, left = Words(), list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("-") or word == "-":
            found.rest.append(word)
            continue
        name, equals, value = word.partition("=")
        taken = [value] if value else []
        action = flags.get(name)
        while action and not equals and left and len(taken) < room(action) and _may_take(action, left[0]):
            taken.append(left.pop(0))
        found.flags.append((name, taken))
    return found


def room(action: argparse.Action) -> int:
    """How many words a flag takes at most."""
    return action.nargs if isinstance(action.nargs, int) else 1


def is_setting(word: str) -> bool:
    """Whether a word is written as an override."""
    return "=" in word or word.startswith(("+", "~"))


def _may_take(action: argparse.Action, word: str) -> bool:
    """An optional value must be a valid one, and no setting names a node: `--info stage=cpo` leaves the setting alone."""
    if action.nargs == "?":
        return word in (action.choices or ())
    return not word.startswith("--") and not (action.metavar == NODE and is_setting(word))


def _check_flag(name: str, taken: list[str], verb: str, verbs: dict[str, Parser]) -> None:
    """Raises UserError for a flag of another verb, and for one without the words it takes."""
    owners = {other: action for other, parser in verbs.items() if (action := parser._option_string_actions.get(name))}
    if verb not in owners:
        raise UserError(f"{verb} has no flag {name}; it belongs to {', '.join(owners)} ({next(iter(owners.values())).help})")
    action = owners[verb]
    if len(taken) != room(action) and not (action.nargs == "?" and not taken):
        metavar = action.metavar or "|".join(action.choices or ())
        expected = (" ".join(metavar) if isinstance(metavar, tuple) else metavar) if room(action) else "no value"
        raise UserError(f"{name}: expected {expected}, found {' '.join(taken) or 'nothing'} ({action.help})")


def _unknown_flag(name: str, taken: list[str], flags: list[str], own: list[str]) -> str:
    """What to write instead: a flag of any verb if one is close, else `own`, those of this verb."""
    if name in NOT_TAKEN:
        return f"{name} is not supported: the primary configuration is fixed; add files of your own with --config-dir DIR"
    key = name.lstrip("-")
    if name.startswith("--") and ("." in key or (key and (CONF / key).is_dir())):
        return f"unknown flag {name}; settings have no dashes: {key}={taken[0] if taken else 'VALUE'}"
    hint = suggestion(name, [flag for flag in flags if flag.startswith("--") == name.startswith("--")])
    return f"unknown flag {name}; {hint if hint.endswith('?') else suggestion(name, own)}"


def _parsed(found: Words, verb: str, parser: Parser) -> Arguments:
    """What the verb's own parser makes of the sorted words."""
    # Separate settings from names; only verbs that take settings have any.
    rest = list(found.rest)
    if verb in rest:
        rest.remove(verb)
    overrides = [word for word in rest if is_setting(word)] if parser.get_default("overrides") is not None else []
    names = [word for word in rest if word not in overrides]
    # Parse names and flags.
    words = [*names, *(word for name, taken in found.flags for word in (name, *taken))]
    arguments, unexpected = parser.parse_known_args(words, Arguments())
    if unexpected:
        raise UserError(_unexpected(verb, unexpected[0], parser))
    arguments.verb = verb
    # Commas sweep with -m; without it they list.
    arguments.overrides = [as_text(text if arguments.multirun else as_list(text)) for text in overrides]
    for name in ("resolve", "package"):
        if getattr(arguments, name, None) and not arguments.cfg:
            example = {"resolve": "--resolve", "package": "--package stages.cpo"}[name]
            raise UserError(f"--{name} needs --cfg, as in `--cfg job {example}`")
    return arguments


def _unexpected(verb: str, word: str, parser: Parser) -> str:
    if parser.get_default("overrides") is not None:
        return f"unexpected word '{word}'; {SYNTAX}"
    if is_setting(word):
        return f"{verb} takes no settings, found {word}; ALMA_PIPELINE_STORE names the store"
    return f"unexpected word '{word}'; usage: {parser.usage}"

"""Tab completion of the console script: verbs, flags, their values and node names; Hydra completes options and settings.

`eval "$(alma-pipeline -sc install=bash)"` in the shell. Hydra cannot complete `python -m` (its issue 1957, B28).
"""

import os
import sys
from argparse import Action

from alma_pipeline.cli.arguments import Flags, Words, is_setting, known_flags, room, sort_words
from alma_pipeline.cli.verbs import NAMES, PROGRAM, SHELLS, Parser, command_line
from alma_pipeline.config.groups import node_names
from alma_pipeline.errors import UserError
from alma_pipeline.paths import CONF

KEYS = (
    *("decoding", "directions", "group", "groups", "languages", "rounds", "seed"),
    *("stages", "target", "targets", "tokens", "upstream"),
)
"""Top-level settings that are not option groups."""


def answer(words: list[str]) -> int:
    """Print what the shell asked for. Raises UserError for an unknown shell, and under `python -m`."""
    asked = words[-1]
    action, _, shell = asked.partition("=")
    if action not in ("install", "uninstall", "query") or shell not in SHELLS:
        raise UserError(
            f'-sc {asked}: expected install=SHELL with one of {", ".join(SHELLS)}: eval "$({PROGRAM} -sc install=bash)"'
        )
    if sys.argv[0].endswith(".py"):
        raise UserError(f"tab completion works for {PROGRAM}, not for python -m: {PROGRAM} -sc install=bash")
    if action == "query" and not _query(_before_cursor()):
        return 0
    from alma_pipeline.config import load

    return load.ask_hydra(["--shell-completion", asked])


def _before_cursor() -> str:
    """The line up to the cursor; bash gives its place in bytes."""
    line = os.environ.get("COMP_LINE", "").encode()
    place = os.environ.get("COMP_POINT", "")
    return line[: int(place) if place.isdigit() else len(line)].decode(errors="ignore")


def _query(line: str) -> bool:
    """Print this project's candidates. True if Hydra may have more; COMP_LINE then holds the line as Hydra expects it."""
    *typed, last = line.split(" ")[1:] or [""]
    before = [word for word in typed if word]
    top, verbs = command_line()
    flags = known_flags(top, verbs)
    found = sort_words(before, flags)
    verb = next((word for word in found.rest if word in verbs), "")

    # Print what this project knows: a flag's values, flags, a verb's arguments, or verbs.
    flag = _open_flag(found, before, flags)
    name, equals, _ = last.partition("=")
    if flag:
        known = _values(flag)
    elif equals and name in flags:
        known = [f"{name}={value}" for value in _values(flags[name])]
    elif last.startswith("-"):
        known = [*verbs[verb]._option_string_actions] if verb else [*flags]
    else:
        known = _argument(found, verb, verbs) if verb else [*verbs]
    print("".join(f"{name}\n" for name in known if name.startswith(last)), end="", flush=True)

    # Hydra completes settings, without the verb and flags that it does not know.
    takes_settings = verbs[verb or "run"].get_default("overrides") is not None
    if flag or not takes_settings or last.startswith("-") or not _may_be_setting(last):
        return False
    os.environ["COMP_LINE"] = " ".join([PROGRAM, *filter(is_setting, found.rest), last])
    os.environ["COMP_POINT"] = str(len(os.environ["COMP_LINE"]))
    return True


def _open_flag(found: Words, before: list[str], flags: Flags) -> Action | None:
    """The flag that takes the next word."""
    name, taken = found.flags[-1] if found.flags else ("", [])
    action = flags.get(name)
    is_open = action and [name, *taken] == before[-1 - len(taken) :] and len(taken) < room(action)
    return action if is_open else None


def _values(flag: Action) -> list[str]:
    """The values of a flag, as far as they are known."""
    return [*flag.choices] if flag.choices else _node_names(flag)


def _argument(found: Words, verb: str, verbs: dict[str, Parser]) -> list[str]:
    """Node names, if the verb's next argument can be one."""
    names = [word for word in found.rest if not is_setting(word)]
    names.remove(verb)
    arguments = verbs[verb]._get_positional_actions()
    return _node_names(arguments[len(names)]) if len(names) < len(arguments) else []


def _node_names(action: Action) -> list[str]:
    metavars = action.metavar if isinstance(action.metavar, tuple) else (action.metavar,)
    return node_names(CONF) if set(metavars) & set(NAMES) else []


def _may_be_setting(last: str) -> bool:
    """Whether Hydra may know `last`: asking it takes a second, and `pla` begins no setting."""
    names = [*KEYS, *(path.name for path in CONF.iterdir())]
    return any(name.startswith(last) or last.startswith(name) for name in names)

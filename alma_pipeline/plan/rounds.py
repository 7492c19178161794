"""Rounds of preference optimisation: `rounds=n` repeats preferences and training on the newest checkpoint.

Each round is a pair of ordinary nodes, `preferences_2` and `cpo_2`, with the settings of the first: its triples are sampled from
the previous round's checkpoint (on-policy), and training continues from it. Reads no store; `stopped` only interprets a result.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from alma_pipeline.errors import ConfigError
from alma_pipeline.schema import Config, NodeConfig, Source

ROLES = {"init", "preferences"}
"""The inputs that make a node one to repeat."""
OF_CANDIDATES = ("engine", "outputs", "score_by", "rule", "min_margin")
"""Settings of preferences that have no effect on released ones. The number of candidates and their temperature are left alone,
since the budget sets them for every kind of preferences."""


def unrolled(config: Config) -> Config:
    """The configuration with the nodes of every round; the same one for `rounds=1`. Raises ConfigError.

    The last round replaces its node as a target, every round is evaluated if the first one is, and group overrides such as
    `groups.g5.arpo` apply to all rounds.
    """
    released = dict(_released(config))
    if config.rounds <= 1:  # values below 1 are refused by the limit of the setting
        return config
    repeated = [name for name, node in config.stages.items() if set(node.roles()) == ROLES]
    if not repeated:
        raise ConfigError([f"rounds={config.rounds}: no node of this stage learns from preferences; use stage=cpo, arpo or all"])
    _check_own_preferences(config, repeated)
    # The later rounds' nodes, then every place that names a repeated node.
    nodes = {key: node for name in repeated for key, node in _later_rounds(config, name)}
    last = {name: round_name(name, config.rounds) for name in repeated}
    evaluation = dataclasses.replace(
        config.evaluation,
        checkpoints=_named(config.evaluation.checkpoints, repeated, config),
        every_direction=_named(config.evaluation.every_direction, repeated, config),
    )
    return dataclasses.replace(
        config,
        stages=config.stages | released | nodes,
        targets=[last.get(name, name) for name in config.targets],
        evaluation=evaluation,
        groups={group: _for_all_rounds(changes, nodes) for group, changes in config.groups.items()},
    )


def _released(config: Config) -> Iterator[tuple[str, NodeConfig]]:
    """The nodes that read released preferences, without the settings that make and choose candidates: later rounds use those.

    Raises ConfigError if such settings are changed but there is no later round.
    """
    problems = []
    for name, node in config.stages.items():
        settings: Any = node
        if node.kind != "preferences" or settings.pairs.reader == "candidates":
            continue
        # Changed settings and further checkpoints to sample from, neither of which a released set uses.
        plain = type(node)()
        also = {role for role in node.inputs if role.startswith("also_")}
        idle = [key for key in OF_CANDIDATES if getattr(node, key) != getattr(plain, key)]
        yield (
            name,
            dataclasses.replace(
                node,
                **{key: getattr(plain, key) for key in idle},
                inputs={role: source for role, source in node.inputs.items() if role not in also},
            ),
        )
        if config.rounds <= 1 and (idle or also):
            changed = ", ".join([*idle, *(f"inputs.{role}" for role in sorted(also))])
            problems.append(
                f"stages.{name}: {changed} make and choose candidates, but pairs.reader={settings.pairs.reader} has none; "
                "set pairs.reader=candidates, or rounds=2 or more, whose later rounds sample candidates"
            )
    if problems:
        raise ConfigError(problems)


def _check_own_preferences(config: Config, repeated: list[str]) -> None:
    """Raises ConfigError if two nodes share preferences: each later round learns from samples of its own checkpoint."""
    learners: dict[str, list[str]] = {}
    for name in repeated:
        learners.setdefault(config.stages[name].inputs["preferences"], []).append(name)
    problems = [
        f"rounds={config.rounds}: {' and '.join(names)} both learn from {source}, but later rounds sample from one checkpoint; "
        "give each its own preferences node (+node@stages.NAME=preferences), or run them one at a time"
        for source, names in learners.items()
        if len(names) > 1
    ]
    if problems:
        raise ConfigError(problems)


def _later_rounds(config: Config, name: str) -> Iterator[tuple[str, NodeConfig]]:
    """The nodes of the second and later rounds: preferences sampled from the previous round, and training that continues it."""
    first: Any = config.stages[name]
    source = first.inputs["preferences"]
    preferences: Any = config.stages[source]
    for number in range(2, config.rounds + 1):
        # Preferences: sampled from the previous checkpoint, and compared with the previous round's dev score.
        parent, now = round_name(name, number - 1), round_name(source, number)
        inputs = config.stages[source].inputs | {"init": parent}
        if number > 2 or preferences.pairs.reader == "candidates":  # released preferences have no dev score to compare with
            inputs |= {"before": round_name(source, number - 1)}
        yield now, dataclasses.replace(preferences, pairs=Source(reader="candidates"), inputs=inputs)
        # The first round's LoRA is trained further; any other setting means the same in every round.
        adapter = "continue" if first.adapter == "new" else first.adapter
        again = dataclasses.replace(first, inputs={"init": parent, "preferences": now}, adapter=adapter)
        yield round_name(name, number), again


def _named(names: list[str], repeated: list[str], config: Config) -> list[str]:
    """`names`, each repeated node followed by its later rounds."""
    rounds = range(1, config.rounds + 1)
    return [each for name in names for each in ([round_name(name, n) for n in rounds] if name in repeated else [name])]


def _for_all_rounds(changes: Any, nodes: Mapping[str, NodeConfig]) -> Any:
    """One group's settings by node, repeated under the names of the later rounds."""
    if not isinstance(changes, dict):
        return changes  # not settings: `graph` reports it
    later = {name: changes[first] for name in nodes if (first := first_round(name)) in changes}
    return changes | {name: _with(own, changes.get(name)) for name, own in later.items()}


def _with(settings: Any, more: Any) -> Any:
    """One node's settings, overridden by those of a later round itself."""
    return settings | more if isinstance(settings, dict) and isinstance(more, dict) else more or settings


def round_name(name: str, number: int) -> str:
    """`cpo`, `cpo_2`, `cpo_3`: the first round keeps the node's own name, and so its key."""
    return name if number == 1 else f"{name}_{number}"


def first_round(name: str) -> str:
    """The node whose settings a round uses: `cpo` of `cpo_2`."""
    return re.sub(r"_\d+$", "", name)


def stopped(result: Mapping[str, Any]) -> str:
    """Why no node that reads these preferences runs, from their result; empty if they may run."""
    found = result.get("rounds") or {}
    return f"no further round: the dev score fell {found['before']:.2f} → {found['now']:.2f}" if found.get("stopped") else ""

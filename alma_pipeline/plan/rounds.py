"""Rounds of preference optimisation: `rounds=n` repeats preferences and training on the newest checkpoint.

Each round is a pair of nodes like any other, `preferences_2` and `cpo_2`, with the settings of the first: its triples
are sampled from the round before (on-policy), and training goes on from there. Knows nothing of what is stored; that a
round is not run because the dev score fell is the `preferences` stage's finding and the plan's rule (`stopped`).
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from alma_pipeline.errors import ConfigError
from alma_pipeline.schema import Config, NodeConfig, Source

ROLES = {"init", "preferences"}
"""The inputs of a node that is repeated."""
OF_CANDIDATES = ("engine", "outputs", "scorer", "mean_of", "rule", "min_margin")
"""Settings of preferences that mean nothing where they are read from a release. How many and how free candidates are is the
budget's word for every kind of preferences, and is let be."""


def unrolled(config: Config) -> Config:
    """The configuration with the nodes of every round; the same one for `rounds=1`. Raises ConfigError.

    The last round takes the place of a target, every round is evaluated where the first one is, and what
    `groups.g5.arpo` changes holds for all of its rounds.
    """
    released = dict(_released(config))
    if config.rounds <= 1:  # below 1 is a mistake that is told of by its limit
        return config
    repeated = [name for name, node in config.stages.items() if set(node.roles()) == ROLES]
    if not repeated:
        raise ConfigError([f"rounds={config.rounds}: no node of this stage learns from preferences; take stage=cpo, arpo or all"])
    _check_own_preferences(config, repeated)
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
    """The nodes that read released preferences, without what makes and chooses candidates: that is for later rounds.

    Raises ConfigError where it is asked for and there is no later round.
    """
    problems = []
    for name, node in config.stages.items():
        settings: Any = node
        if node.kind != "preferences" or settings.pairs.reader == "candidates":
            continue
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
            asked = ", ".join([*idle, *(f"inputs.{role}" for role in sorted(also))])
            problems.append(
                f"stages.{name}: {asked} make and choose candidates, and pairs.reader={settings.pairs.reader} brings none; "
                "expected pairs.reader=candidates, or rounds=2 and more, whose later rounds have them"
            )
    if problems:
        raise ConfigError(problems)


def _check_own_preferences(config: Config, repeated: list[str]) -> None:
    """Raises ConfigError where two nodes would share the samples of one: a later round learns from its own checkpoint's."""
    learners: dict[str, list[str]] = {}
    for name in repeated:
        learners.setdefault(config.stages[name].inputs["preferences"], []).append(name)
    problems = [
        f"rounds={config.rounds}: {' and '.join(names)} learn from {source}, whose later rounds are sampled from one checkpoint; "
        "give each a preferences node of its own (+node@stages.NAME=preferences), or run them one by one"
        for source, names in learners.items()
        if len(names) > 1
    ]
    if problems:
        raise ConfigError(problems)


def _later_rounds(config: Config, name: str) -> Iterator[tuple[str, NodeConfig]]:
    """The nodes of rounds 2 and on: preferences sampled from the round before, and training that goes on from it."""
    first: Any = config.stages[name]
    source = first.inputs["preferences"]
    preferences: Any = config.stages[source]
    for number in range(2, config.rounds + 1):
        parent, now = round_name(name, number - 1), round_name(source, number)
        inputs = config.stages[source].inputs | {"init": parent}
        if number > 2 or preferences.pairs.reader == "candidates":  # released ones have no dev score to compare with
            inputs |= {"before": round_name(source, number - 1)}
        yield now, dataclasses.replace(preferences, pairs=Source(reader="candidates"), inputs=inputs)
        adapter = "continue" if first.adapter == "new" else first.adapter
        again = dataclasses.replace(first, inputs={"init": parent, "preferences": now}, adapter=adapter)
        yield round_name(name, number), again


def _named(names: list[str], repeated: list[str], config: Config) -> list[str]:
    """`names`, each repeated node followed by its later rounds."""
    rounds = range(1, config.rounds + 1)
    return [each for name in names for each in ([round_name(name, n) for n in rounds] if name in repeated else [name])]


def _for_all_rounds(changes: Any, nodes: Mapping[str, NodeConfig]) -> Any:
    """One group's settings by node, also under the names of the later rounds."""
    if not isinstance(changes, dict):
        return changes  # a mistake, and the recipe says so
    later = {name: changes[first] for name in nodes if (first := first_round(name)) in changes}
    return changes | {name: _with(own, changes.get(name)) for name, own in later.items()}


def _with(settings: Any, more: Any) -> Any:
    """One node's settings; what is said of a later round itself counts there."""
    return settings | more if isinstance(settings, dict) and isinstance(more, dict) else more or settings


def round_name(name: str, number: int) -> str:
    """`cpo`, `cpo_2`, `cpo_3`: the first round keeps the node's own name, and so its key."""
    return name if number == 1 else f"{name}_{number}"


def first_round(name: str) -> str:
    """The node whose settings a round has: `cpo` of `cpo_2`."""
    return re.sub(r"_\d+$", "", name)


def stopped(result: Mapping[str, Any]) -> str:
    """Why nothing that reads these preferences is run, from their result; empty where it is."""
    found = result.get("rounds") or {}
    return f"no further round: the dev score fell {found['before']:.2f} → {found['now']:.2f}" if found.get("stopped") else ""

"""`translate`: translates with a stage's checkpoint, each language with its group's adapter. Trains nothing.

Decodes with the settings of `stages.translate`, like test sets. Downloads nothing but a requested scorer that is missing.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

from alma_pipeline import output_file
from alma_pipeline.cli.arguments import Arguments
from alma_pipeline.config import load
from alma_pipeline.config.compose import with_search_path
from alma_pipeline.errors import ConfigError, UserError, suggestion
from alma_pipeline.execution import downloads, preflight
from alma_pipeline.execution.runner import job_input
from alma_pipeline.job import Input
from alma_pipeline.paths import store_root
from alma_pipeline.plan import model_limits, node_settings, requirements, rounds
from alma_pipeline.plan.node import EXAMPLES
from alma_pipeline.plan.plan import Cause, Plan, make_plan
from alma_pipeline.schema import Config
from alma_pipeline.schema.kinds import kind_config
from alma_pipeline.store.identity import NODE_FIELDS
from alma_pipeline.store.store import Store
from alma_pipeline.translation import output, segments, source_languages
from alma_pipeline.translation.job import note, translations
from alma_pipeline.translation.segments import Segment


def main(arguments: Arguments) -> int:
    """Translate files or standard input, to standard output or `--output`. Raises UserError."""
    # `direction` is a setting of this verb, not of the configuration.
    given = [text for text in arguments.overrides if text.startswith("direction=")]
    direction = given[-1].removeprefix("direction=") if given else ""
    file = Path(arguments.output).expanduser() if arguments.output not in (None, output_file.STANDARD_OUTPUT) else None
    output.check_files(arguments.files, file)
    overrides = with_search_path([text for text in arguments.overrides if text not in given], arguments.config_dir)
    config = load.load(overrides)

    # Everything that can be wrong is checked before the model is loaded.
    store = Store(store_root())
    plan = make_plan(config, store)
    targets = _targets(config, plan)
    settings = _settings(config, list(targets))
    _check_made(config, plan, list(targets.values()))
    wrong = list(model_limits.of_settings(settings, "stages.translate", config.model.architecture))
    wrong += requirements.missing_quantiser() if settings.quantization == "nf4" else []
    if wrong:
        raise ConfigError(wrong)
    inputs = {name: job_input(store, record) for name, node in targets.items() if (record := plan[node].record)}
    inputs |= _examples(settings.num_shots, plan, store)
    found = segments.read(arguments.files, direction, arguments.json)
    _check_directions(config, found, targets)
    preflight.check_scorers(settings.scorers, config.hardware)
    preflight.check_engines({"stages.translate": settings.engine}, config.hardware)
    downloads.download(settings.scorers, config.hardware, lambda text: print(text, file=sys.stderr, flush=True))

    # A segment has several lines or none: each line is translated for itself.
    parents = [segment for segment in found for _ in segment.lines()]
    lines = [(segment.direction, line) for segment in found for line in segment.lines()]
    if not lines:
        note("nothing to translate: the input has no text")
        output.write(file, "".join(output.rendered(found, [], [])))
        return 0
    others = source_languages.other_languages(lines, config.languages)
    for text in source_languages.warnings(parents, others, config.languages):
        note(text)
    with translations(settings, config.hardware, store, lines, inputs) as made:
        output.write(file, "".join(output.rendered(found, made, others)))
    output.warn(parents, made, settings)
    return 0


def _targets(config: Config, plan: Plan) -> dict[str, str]:
    """The target's node by language group, as in `g5`; under `all` if one checkpoint serves every language."""
    if len(config.targets) > 1:
        raise UserError(
            f"this stage has the targets {', '.join(config.targets)}; choose the one that translates, as in stage=cpo"
        )
    nodes = [step.node for step in plan.steps if step.node.target]
    return {f"g{node.group}" if node.group else "all": last_built_round(plan, node.name) for node in nodes}


def last_built_round(plan: Plan, name: str) -> str:
    """The node, or the last round that was run if the rounds stopped before it."""
    first, step = rounds.first_round(name), plan[name]
    if step.cause is not Cause.ROUND_STOPPED:
        return name
    number = int(name.removeprefix(f"{first}_"))
    return last_built_round(plan, rounds.round_name(first, number - 1))


def _settings(config: Config, targets: list[str]) -> Any:
    """The settings of `stages.translate` with routes to these adapters. Raises UserError for an engine without routing."""
    given: Any = config.stages["translate"]
    groups = {code: f"g{config.languages[code].group}" for code in config.data.languages}
    routes = {code: name for code, name in groups.items() if name in targets}
    if routes and given.engine != "native":
        raise UserError(
            f"stages.translate.engine={given.engine}: cannot route each sentence to its group's adapter; use engine=native, or a "
            "stage with one checkpoint for every language"
        )
    shared = {item.name: getattr(given, item.name) for item in dataclasses.fields(given) if item.name not in NODE_FIELDS}
    own = {
        "languages": node_settings.language_table(config, config.data.languages),
        "scorers": node_settings.scorer_table(config, given.scorer_names()),
        "routes": routes,
    }
    return kind_config("translate_text")(**(shared | own))


def _check_made(config: Config, plan: Plan, names: list[str]) -> None:
    missing = [f"{name} ({plan[name].verdict}: {plan[name].reason})" for name in names if plan[name].record is None]
    if missing:
        raise UserError(
            f"no checkpoint to translate with: {', '.join(missing)}; run the same settings first"
            + (", with target=adopt to use a published one" if config.model.released else "")
        )


def _examples(num_shots: int, plan: Plan, store: Store) -> dict[str, Input]:
    """The corpus of few-shot examples, as the input `examples`. Raises UserError if it is missing."""
    if not num_shots:
        return {}
    asked = f"stages.translate.num_shots={num_shots} needs pairs of {EXAMPLES}"
    step = next((step for step in plan.steps if step.node.name == EXAMPLES), None)
    if step is None:
        raise UserError(f"{asked}, which this stage does not have; use stage=base, parallel or cpo, or num_shots=0")
    if step.record is None:
        raise UserError(
            f"{asked}, which do not exist yet ({step.verdict}: {step.reason}); run --only {EXAMPLES} first, or use num_shots=0"
        )
    return {"examples": job_input(store, step.record)}


def _check_directions(config: Config, found: list[Segment], targets: dict[str, str]) -> None:
    """Raises ConfigError with the first problem of each direction."""
    problems = {segment.direction: f"{segment.where}: {text}" for segment in reversed(found)
                if (text := _direction_problem(config, segment.direction, targets))}  # fmt: skip
    if problems:
        raise ConfigError(list(reversed(problems.values())))


def _direction_problem(config: Config, direction: str, targets: dict[str, str]) -> str:
    if not direction:
        return "no direction; give direction=de-en for all, or a 'direction' in each JSON line"
    source, _, target = direction.partition("-")
    others = [code for code in (source, target) if code != "en"]
    if len(others) != 1 or not target:
        return f"direction={direction}: expected English on one side, as in de-en or en-de"
    if others[0] not in config.data.languages:
        known = config.data.languages
        return f"direction={direction}: this checkpoint translates {', '.join(known)}; {suggestion(others[0], known)}"
    if "all" not in targets and f"g{config.languages[others[0]].group}" not in targets:
        return f"direction={direction}: needs group {config.languages[others[0]].group}, which group={config.group} excludes"
    return ""

"""Renders the model card of an exported checkpoint: summary, usage, training, data, scores, limitations, licence and citation.

Everything comes from the records in the store; what they do not contain is left out or called unknown.
"""

import re
import shlex
from pathlib import Path
from typing import Any

from alma_pipeline import __version__
from alma_pipeline.model_card import scores, training
from alma_pipeline.model_card.training import published_as
from alma_pipeline.redact import redact
from alma_pipeline.report.reproduce import typed_command
from alma_pipeline.report.systems import ScoredCheckpoint
from alma_pipeline.store.record import Record
from alma_pipeline.store.store import Store

TEMPLATES = Path(__file__).resolve().parent / "templates"
ALMA_PROMPT = r"Translate this from {source} to {target}:\n{source}: {text}\n{target}:"
"""ALMA's prompt as the body of a Python literal; X-ALMA's is the same as the user's turn of a Llama 2 chat."""
EXAMPLES = {"de": "Das Haus ist klein.", "en": "The house is small."}
LICENCE_ID = re.compile(r"[a-z0-9.-]+")
"""The hub's licence identifiers are lower-case; anything else that a base model states goes into the text only."""


def render_card(store: Store, record: Record, measured: dict[str, Any], as_adapter: bool, name: str) -> str:
    """The card as Markdown with the hub's YAML metadata.

    `measured`: the export's own results: precision, adapters, logit differences. `name`: what loads the model, a folder or
    OWNER/NAME.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # The lineage has the training, the newest evaluations the scores; all sections are views of these two.
    lineage = training.ancestors(store, record)
    base = store.find(record.checkpoint["base_key"]) or lineage[-1]
    evaluations = scores.newest_evaluations(store, record)
    title = name.rpartition("/")[2]
    papers = _papers(lineage)
    values = {
        "header": _header(store, lineage, evaluations, base if as_adapter else None, title),
        "title": title,
        "name": name,
        "version": __version__,
        "spoken": _spoken(store, lineage),
        "form": "a LoRA adapter" if as_adapter else "a full model",
        "origin": _origin(lineage),
        "recipe": {"x_alma": "X-ALMA", "alma_r": "ALMA-R", "alma": "ALMA"}[papers[-1]] if papers else "",
        "adapter": as_adapter,
        "base": _base(base),
        **_usage(store, lineage, evaluations),
        "weights": _weights(record, measured, as_adapter),
        "stages": training.stage_rows(lineage),
        "hardware": _hardware(record),
        "key": record.key,
        "texts": list(training.text_lines(store, lineage)),
        "evaluations": [scores.score_table(evaluation) for evaluation in evaluations],
        "limits": _limits(store, lineage, evaluations),
        "command": typed_command(record.provenance["argv"]) if record.provenance.get("argv") else "",
        "export": shlex.join(["alma-pipeline", "export", record.name, title, *(["--adapter"] if as_adapter else [])]),
        "made": _made(record),
        "licence": _licence_text(lineage),
        "papers": papers,
    }
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # Markdown, not HTML: nothing is escaped
    return redact(environment.get_template("model_card.md.j2").render(values))


def _header(store: Store, lineage: list[Record], evaluations: list[ScoredCheckpoint], base: Record | None, title: str) -> str:
    """The hub's metadata as YAML, without unknown fields. `base`: what an adapter is loaded on; None for a full model."""
    from huggingface_hub import ModelCardData

    results = list(scores.hub_results(store, evaluations))
    # `base_model` must be on the hub: the nearest ancestor that is, whatever was trained in between.
    published = next((name for one in lineage if (name := published_as(one))), None)
    relation = "adapter" if base and published_as(base) else "finetune"
    adapted = base is not None or any(one.payload["config"].get("adapter", "none") != "none" for one in lineage)
    data = ModelCardData(
        model_name=title,
        language=sorted(training.languages(store, lineage)),
        license=_licence(lineage) or None,
        library_name="peft" if base else "transformers",
        pipeline_tag="translation",
        tags=["alma_pipeline", lineage[0].kind, *(["lora"] if adapted else [])],
        base_model=published,
        base_model_relation=relation if published else None,
        datasets=training.datasets(store, lineage) or None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        eval_results=results or None,
    )
    if not results:
        data.model_name = None  # part of `model-index`, which needs results
    return str(data.to_yaml(original_order=["language", "license", "library_name", "pipeline_tag", "tags", "base_model"])).strip()


def _spoken(store: Store, lineage: list[Record]) -> str:
    names = [name for code, name in training.languages(store, lineage).items() if code != "en"]
    each = "each of " if len(names) > 1 else ""
    return f"English and {each}{', '.join(names) or 'other languages'}"


def _origin(lineage: list[Record]) -> str:
    """Where the weights come from, as a clause."""
    base, verb = lineage[-1], "trained from" if len(lineage) > 1 else "unchanged:"
    config = base.payload["config"]
    if repo := published_as(base):
        return f"{verb} [{repo}](https://huggingface.co/{repo}) at revision `{_revision(base)}`"
    if config.get("repo"):
        return f"{verb} the model in the Python package `{config['repo']}` {config.get('revision') or ''}".rstrip()
    if base.kind == "released":
        return f"{verb} a checkpoint that was adopted from a local folder"
    size = f", {base.result['parameters']:,} parameters" if base.result.get("parameters") else ""
    return f"{verb} random weights ({config.get('architecture', {}).get('model_type', 'llama')} architecture{size})"


def _revision(record: Record) -> str:
    return str(record.result.get("commit") or record.payload["config"].get("revision") or "main")


def _papers(lineage: list[Record]) -> list[str]:
    """The papers whose stages were trained, of alma, alma_r and x_alma, in order of publication."""
    kinds = {one.kind for one in lineage}
    grouped = kinds & {"group_adapter", "arpo"}
    found = {"alma": kinds & {"mono", "parallel"} and not grouped, "alma_r": "cpo" in kinds, "x_alma": grouped}
    return [name for name, used in found.items() if used]


def _base(base: Record) -> dict[str, Any]:
    """How the snippet loads the base of an adapter."""
    repo = published_as(base)
    return {
        "path": repo or base.path.name,
        "revision": _revision(base) if repo else "",
        "published": bool(repo),
        "node": base.name,
    }


def _usage(store: Store, lineage: list[Record], evaluations: list[ScoredCheckpoint]) -> dict[str, Any]:
    """Prompt, decoding settings and example for the card's snippet."""
    decoding = scores.decoding_settings(evaluations[0]) if evaluations else {}
    names = training.languages(store, lineage)
    # Prefer a direction that was scored and that has an example; German is the most common.
    scored = [direction for one in evaluations for direction in one.result["directions"]]
    others = [code for code in names if code != "en"]
    known = scored or [pair for code in others for pair in (f"{code}-en", f"en-{code}")]
    direction = next((pair for pair in ("de-en", *known) if pair in known and pair.split("-")[0] in EXAMPLES), "en-de")
    source, target = direction.split("-")
    return {
        "prompt": f"[INST] {ALMA_PROMPT} [/INST]" if training.prompt_form(store, lineage) == "x_alma" else ALMA_PROMPT,
        "num_beams": decoding.get("num_beams", 1),
        "max_new_tokens": decoding.get("max_new_tokens", 256),
        "example": {"text": EXAMPLES[source], "source": names.get(source, source), "target": names.get(target, target)},
    }


def _weights(record: Record, measured: dict[str, Any], as_adapter: bool) -> str:
    """The number and precision of the weights, and for merged adapters the measured error of the merge."""
    number = record.result.get("trained_parameters" if as_adapter else "parameters")
    counted = f"{number:,} parameters" if number else "The weights are"
    if as_adapter:
        return f"A LoRA for PEFT with {number:,} parameters; load it on the base above." if number else "A LoRA for PEFT."
    if not measured.get("adapters"):
        return f"{counted} in {measured['precision']}."
    adapters = f"{measured['adapters']} adapters" if measured["adapters"] > 1 else "One adapter"
    return (
        f"{adapters} merged into the base in fp32 and cast to {measured['precision']}. Largest logit difference on a probe: "
        f"{measured['difference']:.3g} from merging (allowed: {measured['tolerance']:.3g}), "
        f"{measured['cast_difference']:.3g} from the cast."
    )


def _hardware(record: Record) -> str:
    used = record.hardware
    if not used.get("device"):
        return ""
    nodes = f" on each of {used['nodes']} machines" if used.get("nodes", 1) > 1 else ""
    device = {"cpu": "CPU", "cuda": "GPU"}.get(used["device"], used["device"])
    return f"{used.get('devices', 1)} {device}{'s' if used.get('devices', 1) > 1 and device == 'GPU' else ''}{nodes}"


def _limits(store: Store, lineage: list[Record], evaluations: list[ScoredCheckpoint]) -> list[str]:
    """Known contamination, what is unknown about it, and the model's input format."""
    overlaps = training.overlapping_tests(store, lineage)
    scored = {name for evaluation in evaluations for name in scores.names_of_test_set(store, evaluation)}
    found = []
    for name, stages in overlaps.items():
        here = " This applies to the scores above." if name in scored else ""
        read = f"Contamination: {', '.join(f'`{stage}`' for stage in stages)} read text that is or overlaps with {name}"
        found.append(f"{read}; scores on {name} do not measure quality on unseen text.{here}")
    if not overlaps:
        pretrained = (
            "" if lineage[-1].payload["config"].get("source") == "random" else " The base's pretraining data was not checked."
        )
        found.append(f"No training text is known to overlap with a published test set.{pretrained}")
    return [*found, "It was trained on single sentences: translate a text line by line; a line break ends the output."]


def _made(record: Record) -> str:
    """The code and packages that trained it, as a sentence; empty if unknown."""
    git, packages = record.provenance.get("git", {}), record.provenance.get("packages", {})
    code = (
        f"alma_pipeline at commit `{git['commit'][:12]}`{' with local changes' if git.get('dirty') else ''}"
        if git.get("commit")
        else ""
    )
    parts = [code, *(f"{name} {version}" for name, version in packages.items())]
    return f"Trained with {', '.join(filter(None, parts))}." if any(parts) else ""


def _stated(lineage: list[Record]) -> dict[str, str]:
    """Repository or package of each imported checkpoint in the lineage, to the licence it states; empty text if none is known."""
    taken = [one for one in lineage if one.payload["config"].get("repo")]
    return {str(one.payload["config"]["repo"]): str(one.result.get("licence") or "") for one in reversed(taken)}


def _licence(lineage: list[Record]) -> str:
    """The hub's licence identifier, if all imported checkpoints state the same one; else empty."""
    stated = {licence.lower() for licence in _stated(lineage).values()}
    only = stated.pop() if len(stated) == 1 else ""
    return only if LICENCE_ID.fullmatch(only) else ""


def _licence_text(lineage: list[Record]) -> str:
    if not (stated := _stated(lineage)):
        if lineage[-1].kind == "released":
            return "Unknown: the weights were adopted from a local folder, which states no licence."
        return "No licence: the weights were trained from random initialisation, and no licence has been chosen for them."
    words = [f"`{repo}` states {f'`{licence}`' if licence else 'no known licence'}" for repo, licence in stated.items()]
    return f"The licences of the models it was trained from apply: {'; '.join(words)}. Licences of training text are not listed."

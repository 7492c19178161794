"""Builds preference triples from checkpoints' own samples: two candidates per source, selected by score and rule."""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from alma_pipeline.errors import UserError
from alma_pipeline.job import Input, Job
from alma_pipeline.ml.data import released_preferences
from alma_pipeline.ml.data.prompts import Prompter, one_line
from alma_pipeline.ml.data.readers.raw_rows import Rejects
from alma_pipeline.ml.data.readers.text import TextReader
from alma_pipeline.ml.data.rows import directions
from alma_pipeline.ml.data.system_outputs import SystemOutputs
from alma_pipeline.ml.decoding import decode, hypotheses
from alma_pipeline.ml.decoding.decode import PartialOutputs
from alma_pipeline.ml.decoding.search import Sampling
from alma_pipeline.ml.device_memory import free_device_memory
from alma_pipeline.ml.scoring import candidates
from alma_pipeline.ml.scoring.candidates import ScoredCandidate, SourceSentence, Triples, UnscoredCandidate
from stages.preferences.config import Config

ALSO = "also_"
"""Prefix of the roles of further checkpoints."""


def run(job: Job) -> dict[str, Any]:
    """Inputs: `init` and `also_...`, checkpoints to sample from; `corpus`, sentence pairs; in later rounds `before`, the
    preferences of the previous round. Writes train.jsonl and dev.jsonl, and dropped.jsonl with the sources without a pair.

    Training sources come from the train part of the corpus, held-out ones from its dev part; no source is in both.
    """
    config: Config = job.config
    if config.pairs.reader != "candidates":
        return _released(job, config)
    hypotheses.init_process_group(job)
    # All ranks sample; `seconds` covers sampling and scoring, not the choice of sources.
    sources, dropped = _sources(Path(job.inputs["corpus"].path), config)
    started = time.perf_counter()
    unscored, sampled = _candidates(job, config, sources["train"] + sources["dev"])
    free_device_memory()  # free every device for neural scorers
    if job.rank != 0:
        return {}  # rank 0 alone scores and returns the result
    found, signatures = candidates.score_candidates(job, config.score_by, sources["train"] + sources["dev"], unscored)
    seconds = time.perf_counter() - started
    # Train and dev were scored together; they are paired and written apart.
    split = len(sources["train"])
    made = {
        "train": candidates.build_triples(sources["train"], found[:split], config.min_margin, config.rule),
        "dev": candidates.build_triples(sources["dev"], found[split:], config.min_margin, config.rule),
    }
    _check(made, sources)
    for name, triples in made.items():
        _write(job.out / f"{name}.jsonl", triples.rows)
    if left := [row for triples in made.values() for row in triples.unpaired]:
        _write(job.out / "dropped.jsonl", left)
    # The mean score of `init` on held-out sources decides whether another round follows.
    dev_score = _dev_score(found[split:])
    rounds = _compared(job.inputs["before"], dev_score) if "before" in job.inputs else {}
    result = {"counts": _counts(made, dropped), "scorers": signatures, "seconds": seconds, "dev_score": dev_score}
    return result | sampled | rounds


def _released(job: Job, config: Config) -> dict[str, Any]:
    """Read triples from a released data set and split them into train and dev, in one process."""
    rejects = Rejects(config.pairs.on_error, job.out / "rejected.jsonl")
    text = TextReader(config.pairs, config.languages, job.files, rejects, job.codes, "data.preferences")
    wanted = config.directions or directions(config.languages)
    counts = released_preferences.write_preferences(text, wanted, config, job)
    commits = {"commits": {config.pairs.repo: config.pairs.revision}} if config.pairs.reader == "hub" else {}
    return {"counts": counts | {"rejected": rejects.count}, **commits}


def _sources(corpus: Path, config: Config) -> tuple[dict[str, list[SourceSentence]], dict[str, Counter[str]]]:
    """The sources by split, and the number of rows left out, by direction and reason."""
    train, dropped = candidates.choose_sources(_read(corpus / "train.jsonl", config), config.sources, config.seed)
    taken = frozenset(item.source for item in train)
    dev, lost = candidates.choose_sources(_read(corpus / "dev.jsonl", config), config.held_out, config.seed, taken)
    for direction, reasons in lost.items():
        dropped[direction] = dropped.get(direction, Counter[str]()) + reasons
    assert not taken & {item.source for item in dev}
    return {"train": train, "dev": dev}, dropped


def _read(path: Path, config: Config) -> dict[str, list[SourceSentence]]:
    """The corpus's sentences by direction, for directions between this node's languages. Raises UserError if there are none."""
    found: dict[str, list[SourceSentence]] = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            if set(row["direction"].split("-")) <= set(config.languages):
                item = SourceSentence(row["id"], row["direction"], row["source"], row["target"])
                found.setdefault(item.direction, []).append(item)
    if not found:
        raise UserError(f"{path} has no sentence pair in a direction between {', '.join(config.languages)}")
    return found


def _candidates(job: Job, config: Config, sources: list[SourceSentence]) -> tuple[list[list[UnscoredCandidate]], dict[str, Any]]:
    """The candidates of each source: every checkpoint's samples, other systems' outputs, and the reference; and their counts."""
    candidate_lists: list[list[UnscoredCandidate]] = [[] for _ in sources]
    counts: Counter[str] = Counter(sentences=len(sources))
    decoding: dict[str, Any] = {}
    # Read files first, so that mistakes in them are found before sampling.
    systems = {system: _outputs_of(job, system, config, sources) for system in sorted(config.system_outputs)}
    # Samples, then other systems, then the reference: of equal scores the earlier candidate wins, after the reference.
    for role in ["init", *sorted(name for name in job.inputs if name.startswith(ALSO))]:
        samples = _sampled(job, role, config, sources, decoding)
        origin = candidates.SAMPLE if role == "init" else role.removeprefix(ALSO)
        for found, drawn in zip(candidate_lists, samples, strict=True):
            found += [UnscoredCandidate(one_line(text)[0], origin) for text, _ in drawn]
        counts["samples"] += sum(map(len, samples))
        counts["output_tokens"] += sum(tokens for drawn in samples for _, tokens in drawn)
        counts["newlines"] += sum(one_line(text)[1] for drawn in samples for text, _ in drawn)
    for system, outputs in systems.items():
        for found, texts in zip(candidate_lists, outputs, strict=True):
            found += [UnscoredCandidate(one_line(text)[0], system) for text in texts]
        counts["newlines"] += sum(one_line(text)[1] for texts in outputs for text in texts)
    for found, source in zip(candidate_lists, sources, strict=True):
        found.append(UnscoredCandidate(source.reference, candidates.REFERENCE))
    output_counts = {
        system: {"outputs": sum(map(len, outputs)), "sentences_without": sum(not texts for texts in outputs)}
        for system, outputs in systems.items()
    }
    return candidate_lists, dict(counts) | decoding | ({"system_outputs": output_counts} if output_counts else {})


def _outputs_of(job: Job, system: str, config: Config, sources: list[SourceSentence]) -> list[list[str]]:
    """Another system's outputs for each source; an empty list for sources it did not translate.

    Raises UserError if it translated none of them.
    """
    outputs = SystemOutputs(system, config.system_outputs[system], config.languages, job)
    # The system is asked direction by direction; results go back to the sources' own order.
    result: list[list[str]] = [[] for _ in sources]
    for direction in dict.fromkeys(item.direction for item in sources):
        places = [place for place, item in enumerate(sources) if item.direction == direction]
        if outputs.has(direction):
            found = outputs.candidates(direction, [sources[place].source for place in places])
            for place, texts in zip(places, found, strict=True):
                result[place] = texts
    if not any(result):
        raise UserError(
            f"outputs.{system}: its files contain none of the {len(sources)} selected sources, of which the first is "
            f"{sources[0].source!r}; expected rows with these in 'source'"
        )
    return result


def _sampled(
    job: Job, role: str, config: Config, sources: list[SourceSentence], decoding: dict[str, Any]
) -> list[list[tuple[str, int]]]:
    """For each source, (text, number of tokens) of one checkpoint's samples. A resumed run reuses the samples it saved.

    `decoding` takes what the record has about it: the signature of an engine that is not our own, and a lowered token budget.
    """
    kept, checkpoint = PartialOutputs(job, f"samples-{role}"), job.inputs[role]
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.path, local_files_only=True)
    # With all samples saved, the model need not be loaded.
    if len(kept.found) == len(sources):
        outputs = [kept.found[place] for place in range(len(sources))]
    else:
        prompts = Prompter(tokenizer, config.prompt, config.languages).prompts(
            [(item.direction, item.source) for item in sources]
        )
        model, _ = hypotheses.load(job, checkpoint, max(map(len, prompts)) + config.max_new_tokens, num_beams=1)
        sampling = Sampling(width=config.candidates, temperature=config.temperature, top_p=config.top_p, seed=config.seed)
        tokens = hypotheses.token_budget(job, model, prompts, config.candidates)
        limits = decode.limits(tokenizer, config.max_new_tokens, tokens)
        lowered = [decoding["decode_tokens"]] if "decode_tokens" in decoding else []
        outputs = decode.sample(model, prompts, sampling, limits, decode.log_progress(job), kept=kept, on_lowered=lowered.append)
        engine = hypotheses.end(model)
        decoding |= ({"decode_tokens": min(lowered)} if lowered else {}) | ({"engine": engine} if engine else {})
    return [[(decode.text(tokenizer, ids), len(ids)) for ids in drawn] for drawn in outputs]


def _dev_score(found: Sequence[Sequence[ScoredCandidate]]) -> float:
    """Mean score of the samples of `init` for the held-out sources."""
    scores = [item.score for each in found for item in each if item.origin == candidates.SAMPLE]
    return sum(scores) / len(scores)


def _compared(before: Input, now: float) -> dict[str, Any]:
    """The previous and the present dev score; no further round follows if it fell. Raises UserError without a previous one."""
    earlier = before.result.get("dev_score")
    if earlier is None:
        raise UserError("the previous round's preferences have no dev score to compare with; rebuild them with --force")
    return {"rounds": {"before": earlier, "now": now, "stopped": now < earlier}}


def _check(made: Mapping[str, Triples], sources: Mapping[str, list[SourceSentence]]) -> None:
    for split, triples in made.items():
        if not triples.rows:
            reasons = dict(sum(triples.dropped.values(), Counter[str]()))
            raise UserError(
                f"no preference pair is left for {split}: {len(sources[split])} sources were sampled, and all were dropped: "
                f"{reasons}. Lower min_margin, or increase candidates, temperature, sources or held_out."
            )


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _counts(made: Mapping[str, Triples], left_out: Mapping[str, Counter[str]]) -> dict[str, Any]:
    """Numbers of pairs and dropped sources, in total and by direction. `left_out`: sources dropped before sampling."""
    # A direction's dropped sources are those without a pair in either split, and those never sampled.
    by_split = {split: Counter(row["direction"] for row in triples.rows) for split, triples in made.items()}
    dropped = {
        direction: sum((triples.dropped.get(direction, Counter[str]()) for triples in made.values()), reasons)
        for direction, reasons in left_out.items()
    }
    return {
        "train_examples": len(made["train"].rows),
        "dev_examples": len(made["dev"].rows),
        "chosen_is_reference": sum(triples.chosen_is_reference.total() for triples in made.values()),
        "chosen_from": dict(sum((triples.chosen_from for triples in made.values()), Counter[str]())),
        "rejected_from": dict(sum((triples.rejected_from for triples in made.values()), Counter[str]())),
        "dropped": dict(sum(dropped.values(), Counter[str]())),
        "directions": {
            direction: {
                "train": by_split["train"][direction],
                "dev": by_split["dev"][direction],
                "chosen_is_reference": sum(triples.chosen_is_reference[direction] for triples in made.values()),
                "dropped": dict(reasons),
            }
            for direction, reasons in dropped.items()
        },
    }

"""One side of a benchmark in a process of its own: steps on request, one JSON line for each on stdout.

`python benchmarks/sides.py SIDE '{"model": ..., "text": ..., "pairs": ..., "runs": ..., "threads": ..., ...}'` prints a line when
it is ready, then does one optimiser step for every line on stdin, or measures the rate of matrix products for `gemm`.
Standard error is the side's own chatter.
"""

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ALMA_LENGTH = 512
"""Tokens that the published scripts pad every example to (fe1ixxu/ALMA: max_source_length + max_new_tokens)."""


def load(folder: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return model.train(), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def batches(settings: dict[str, Any], tokenizer: Any) -> list[Any]:
    """For each run its pairs: rows of text, and the same as examples (chosen, rejected)."""
    import text

    rows = text.sentences(Path(settings["text"]), settings["pairs"] * settings["runs"])
    chosen, worse = text.examples(tokenizer, rows), text.rejected(tokenizer, rows)
    spans = [slice(i * settings["pairs"], (i + 1) * settings["pairs"]) for i in range(settings["runs"])]
    return [list(zip(chosen[span], worse[span], strict=True)) for span in spans]


Step = Callable[[list[Any]], float]
"""One optimiser step on a batch; returns its loss before the step."""


def ours(settings: dict[str, Any], model: Any, objective_of: Callable[[Any, int], Any], example_of: Callable[[Any], Any]) -> Step:
    """The project's own loop body: `accumulate` and the engine, as `train` calls them."""
    from alma_pipeline.ml.distributed import join
    from alma_pipeline.ml.engine import Engine, adamw
    from alma_pipeline.ml.training import accumulate
    from alma_pipeline.schema import Hardware, Training

    hardware = Hardware(name="benchmark", threads=settings["threads"], row_tokens=settings["row_tokens"])
    config = Training(kind="benchmark", steps=1, clip=0.0, learning_rate=1e-6, seed=0)
    world = join(hardware)
    objective = objective_of(model, hardware.row_tokens)
    engine = Engine(objective, adamw(objective, config), config, hardware, world.size)

    def step(batch: list[Any]) -> float:
        given = [example_of(pair) for pair in batch]
        totals = accumulate(objective, engine, given, world, hardware, engine.backward)
        engine.step(1e-6)
        return objective.measures({name: float(value) for name, value in totals.items()})["loss"]

    return step


def ours_sft(settings: dict[str, Any], model: Any, tokenizer: Any) -> Step:
    from alma_pipeline.ml.objective import LanguageModel

    return ours(settings, model, LanguageModel, tokens)


def tokens(pair: Any) -> Any:
    import numpy as np

    from alma_pipeline.ml.examples import Tokens

    return Tokens(np.array(pair[0].ids, np.int32), pair[0].prompt)


def ours_preference(tau: Any) -> Callable[..., Step]:
    def side(settings: dict[str, Any], model: Any, tokenizer: Any) -> Step:
        import numpy as np

        from alma_pipeline.ml.pairs import Pair
        from alma_pipeline.ml.preference import Terms
        from alma_pipeline.ml.preference_objective import PreferenceModel

        def pair_of(pair: Any) -> Pair:
            chosen, rejected = pair
            parts = (chosen.ids[: chosen.prompt], chosen.ids[chosen.prompt :], rejected.ids[rejected.prompt :])
            return Pair(*(np.array(part, np.int32) for part in parts))

        terms = Terms(beta=0.1, nll_weight=1.0, nll_norm="token", tau=tau() if tau else None)
        return ours(settings, model, lambda model, row: PreferenceModel(model, row, terms), pair_of)

    return side


def plain_packed(settings: dict[str, Any], model: Any, tokenizer: Any) -> Step:
    """Plain torch on the very rows that ours packs: the model, its head at the labels, cross-entropy, AdamW."""
    from alma_pipeline.ml.batches import packed_batches
    from alma_pipeline.ml.objective import LanguageModel

    objective = LanguageModel(model, settings["row_tokens"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def step(batch: list[Any]) -> float:
        given = [tokens(pair) for pair in batch]
        labels, total = objective.norms(given), 0.0
        for places in packed_batches([len(example.ids) for example in given], settings["row_tokens"], 1)[0]:
            rows = objective.collate([given[place] for place in places])
            hidden = model.model(**rows["inputs"], use_cache=False).last_hidden_state[0, rows["positions"]]
            loss = torch.nn.functional.cross_entropy(model.lm_head(hidden), rows["labels"], reduction="sum") / labels
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        return total

    return step


def alma_sft(settings: dict[str, Any], model: Any, tokenizer: Any) -> Step:
    """Every row padded to 512 on the left, logits of every token, as the published script's collator does."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    size = settings["micro_batch"]

    def step(batch: list[Any]) -> float:
        labels, total = sum(len(c.ids) - c.prompt for c, _ in batch), 0.0
        for start in range(0, len(batch), size):
            part = [pair[0] for pair in batch[start : start + size]]
            ids = torch.full((len(part), ALMA_LENGTH), tokenizer.pad_token_id)
            mask, target = torch.zeros_like(ids), torch.full_like(ids, -100)
            for row, example in enumerate(part):
                length = len(example.ids)
                ids[row, -length:], mask[row, -length:] = torch.tensor(example.ids), 1
                target[row, example.prompt - length :] = torch.tensor(example.ids[example.prompt :])
            loss = model(input_ids=ids, attention_mask=mask, labels=target, num_items_in_batch=labels).loss
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        return total

    return step


def trl_steps(trainer: Any, batch: list[Any], dataset: Any) -> float:
    """One optimiser step of a TRL trainer over its own data loader, collator and loss."""
    trainer.train_dataset = dataset
    found = list(trainer.get_train_dataloader())
    trainer.current_gradient_accumulation_steps = len(found)
    labels = [part["labels"] for part in found if "labels" in part]
    count = sum((label[..., 1:] != -100).sum() for label in labels) if labels else None
    total = 0.0
    for part in found:
        loss = trainer.training_step(trainer.model, part, num_items_in_batch=count)
        total += float(loss)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    return total


def trl_arguments(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "output_dir": settings["work"],
        "per_device_train_batch_size": settings["micro_batch"],
        "gradient_checkpointing": False,  # faster without, and memory suffices
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "save_strategy": "no",
        "learning_rate": 1e-6,
        "max_steps": 1000,
        "optim": "adamw_torch_fused",
        "disable_tqdm": True,
    }


def trl_sft(packing: bool) -> Callable[..., Step]:
    def side(settings: dict[str, Any], model: Any, tokenizer: Any) -> Step:
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        arguments = trl_arguments(settings) | {"max_length": 1024, "packing": packing, "completion_only_loss": True}
        if packing:
            arguments |= {"per_device_train_batch_size": 1}
        else:
            arguments |= {"train_sampling_strategy": "group_by_length"}

        def rows(batch: list[Any]) -> Any:
            found = [chosen for chosen, _ in batch]
            masks = [[0] * example.prompt + [1] * (len(example.ids) - example.prompt) for example in found]
            return Dataset.from_dict({"input_ids": [list(example.ids) for example in found], "completion_mask": masks})

        trainers: dict[int, Any] = {}

        def prepared(batch: list[Any]) -> Any:
            """Its own packing and labels: done before the clock starts."""
            made = SFTTrainer(model=model, args=SFTConfig(**arguments), train_dataset=rows(batch), processing_class=tokenizer)
            trainers.setdefault(0, made)
            return made.train_dataset

        def step(dataset: Any) -> float:
            trainer = trainers[0]
            if trainer.optimizer is None:
                trainer.create_optimizer()
            return trl_steps(trainer, [], dataset)

        step.prepare = prepared  # type: ignore[attr-defined]
        return step

    return side


def trl_cpo(settings: dict[str, Any], model: Any, tokenizer: Any) -> Step:
    from datasets import Dataset
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    arguments = trl_arguments(settings) | {"max_length": 1024, "beta": 0.1, "cpo_alpha": 1.0, "remove_unused_columns": False}
    trainers: dict[int, Any] = {}

    def prepared(batch: list[Any]) -> Any:
        rows = {
            "prompt": [tokenizer.decode(c.ids[1 : c.prompt]) for c, _ in batch],
            "chosen": [tokenizer.decode(c.ids[c.prompt : -1]) for c, _ in batch],
            "rejected": [tokenizer.decode(r.ids[r.prompt : -1]) for _, r in batch],
        }
        made = CPOTrainer(
            model=model, args=CPOConfig(**arguments), train_dataset=Dataset.from_dict(rows), processing_class=tokenizer
        )
        trainers.setdefault(0, made)
        return made.train_dataset

    def step(dataset: Any) -> float:
        trainer = trainers[0]
        if trainer.optimizer is None:
            trainer.create_optimizer()
        # Its loss is a mean over a micro-batch; equal micro-batches make their mean the batch's (but for the NLL).
        return trl_steps(trainer, [], dataset)

    step.prepare = prepared  # type: ignore[attr-defined]
    return step


def released() -> Any:
    from alma_pipeline.ml.preference import released_tau

    return released_tau(gradient=True)


SIDES: dict[str, Callable[..., Step]] = {
    "ours-sft": ours_sft,
    "ours-cpo": ours_preference(None),
    "ours-arpo": ours_preference(released),
    "plain-packed": plain_packed,
    "alma-sft": alma_sft,
    "trl-sft-padding": trl_sft(packing=False),
    "trl-sft-packing": trl_sft(packing=True),
    "trl-cpo": trl_cpo,
}


def memory(name: str) -> int:
    """Bytes of `VmRSS` (now) or `VmHWM` (the most since the mark was reset) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise ValueError(name)


def gemm_rate(model: Any, tokens: int = 1024) -> float:
    """FLOP/s of the model's largest projection, forward and both backward products: the median of 9 rounds."""
    weight = model.model.layers[0].mlp.up_proj.weight.detach()
    states, outer = torch.randn(tokens, weight.shape[1]), torch.randn(tokens, weight.shape[0])
    seconds = []
    for _ in range(9):
        start = time.perf_counter()
        for _ in range(5):
            states @ weight.t(), outer @ weight, outer.t() @ states
        seconds.append(time.perf_counter() - start)
    return 5 * 6 * tokens * weight.numel() / sorted(seconds)[4]


def useful_flops(model: Any, batch: list[Any], answers: int) -> float:
    """Matrix products that a step cannot do without: the layers on each prompt once and on `answers` of its answers,
    the head at the labels; forward, and backward at twice that. Attention among tokens is left out."""
    layers = sum(weight.numel() for weight in model.model.layers.parameters() if weight.ndim > 1)
    labels = [sum(len(side.ids) - side.prompt for side in pair[:answers]) for pair in batch]
    tokens_ = sum(pair[0].prompt for pair in batch) + sum(labels)
    return 6.0 * (layers * tokens_ + model.lm_head.weight.numel() * sum(labels))


def timed(step: Step, batch: Any) -> dict[str, float]:
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    start = time.perf_counter()
    loss = step(batch)
    return {"seconds": time.perf_counter() - start, "loss": loss, "peak": memory("VmHWM")}


def main(side: str, settings: dict[str, Any]) -> None:
    # What a library prints must not land among the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    torch.set_num_threads(settings["threads"])
    model, tokenizer = load(settings["model"])
    parts = batches(settings, tokenizer)
    step = SIDES[side](settings, model, tokenizer)
    torch.set_num_threads(settings["threads"])
    flops = [useful_flops(model, batch, answers=1 if "sft" in side or "plain" in side else 2) for batch in parts]
    parts = [getattr(step, "prepare", lambda batch: batch)(batch) for batch in parts]
    parameters = sum(weight.numel() for weight in model.parameters())
    gc.collect()
    answers.write(json.dumps({"parameters": parameters, "ready": memory("VmRSS")}) + "\n")
    for number, line in enumerate(sys.stdin):
        if line.strip() == "gemm":
            answers.write(json.dumps({"gemm": gemm_rate(model)}) + "\n")
            continue
        place = number % len(parts)
        answers.write(json.dumps(timed(step, parts[place]) | {"flops": flops[place]}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))

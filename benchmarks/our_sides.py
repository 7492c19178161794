"""The project's sides of the training benchmark, and plain torch on the same packed rows."""

from collections.abc import Callable
from typing import Any

import torch
from measures import Step


def ours(settings: dict[str, Any], model: Any, objective_of: Callable[[Any, int], Any], example_of: Callable[[Any], Any]) -> Step:
    """The project's own loop body: `accumulate` and the engine, as `train` calls them."""
    from alma_pipeline.ml.distributed import init_process_group
    from alma_pipeline.ml.training.engine import Engine, adamw
    from alma_pipeline.ml.training.loop import accumulate
    from alma_pipeline.ml.training.microbatches import stream
    from alma_pipeline.schema import Hardware, Training

    hardware = Hardware(name="benchmark", threads=settings["threads"], micro_batch_tokens=settings["micro_batch_tokens"])
    config = Training(kind="benchmark", steps=1, max_grad_norm=0.0, learning_rate=1e-6, seed=0)
    world = init_process_group(hardware)
    objective = objective_of(model, hardware.micro_batch_tokens)
    engine = Engine(objective, adamw(objective, config), config, hardware, world.size)

    def step(batch: list[Any]) -> float:
        given = [example_of(pair) for pair in batch]
        _, totals = accumulate(engine, stream(objective, [given], world, hardware), engine.backward)
        engine.step(1e-6)
        return float(objective.measures({name: float(value) for name, value in totals.items()})["loss"])

    return step


def ours_sft(settings: dict[str, Any], model: Any, tokenizer: Any) -> Step:
    from alma_pipeline.ml.training.objective import LanguageModel

    return ours(settings, model, LanguageModel, tokens)


def tokens(pair: Any) -> Any:
    import numpy as np

    from alma_pipeline.ml.data.token_arrays import Tokens

    return Tokens(np.array(pair[0].ids, np.int32), pair[0].prompt)


def ours_preference(tau: Any) -> Callable[..., Step]:
    def side(settings: dict[str, Any], model: Any, tokenizer: Any) -> Step:
        import numpy as np

        from alma_pipeline.ml.data.preference_pairs import PreferencePair
        from alma_pipeline.ml.training.preference_losses import LossSettings
        from alma_pipeline.ml.training.preference_objective import PreferenceModel

        def pair_of(pair: Any) -> PreferencePair:
            chosen, rejected = pair
            parts = (chosen.ids[: chosen.prompt], chosen.ids[chosen.prompt :], rejected.ids[rejected.prompt :])
            prompt, better, worse = (np.array(part, np.int32) for part in parts)
            return PreferencePair(prompt, better, worse)

        terms = LossSettings(beta=0.1, nll_weight=1.0, nll_norm="token", tau=tau() if tau else None)
        return ours(settings, model, lambda model, row: PreferenceModel(model, row, terms), pair_of)

    return side


def plain_packed(settings: dict[str, Any], model: Any, tokenizer: Any) -> Step:
    """Plain torch on the very rows that ours packs: the model, its head at the labels, cross-entropy, AdamW."""
    from alma_pipeline.ml.training.batching import packed_batches
    from alma_pipeline.ml.training.objective import LanguageModel

    objective = LanguageModel(model, settings["micro_batch_tokens"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def step(batch: list[Any]) -> float:
        given = [tokens(pair) for pair in batch]
        labels, total = objective.norms(given), 0.0
        for places in packed_batches([len(example.ids) for example in given], settings["micro_batch_tokens"], 1)[0]:
            rows = objective.collate([given[place] for place in places])
            hidden = model.model(**rows["inputs"], use_cache=False).last_hidden_state[0, rows["positions"]]
            loss = torch.nn.functional.cross_entropy(model.lm_head(hidden), rows["labels"], reduction="sum") / labels
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        return total

    return step


def released() -> Any:
    from alma_pipeline.ml.training.preference_losses import released_tau

    return released_tau(gradient=True)

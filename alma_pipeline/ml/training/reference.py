"""Log-probabilities of preference pairs under the model that training starts from, computed once before it."""

from collections.abc import Sequence

import torch

from alma_pipeline.ml.data.preference_pairs import Pair
from alma_pipeline.ml.distributed import World, everyone
from alma_pipeline.ml.training.preference_objective import PreferenceModel, answer_sums
from alma_pipeline.ml.training.prefetch import on_device


@torch.no_grad()
def with_reference(objective: PreferenceModel, pairs: Sequence[Pair], world: World) -> list[Pair]:
    """The pairs with their `reference`, in order. The ranks share the work; each ends with all of it.

    To be called before the engine takes the model: a resumed run computes the same again from the parent.
    """
    blank = [pair._replace(reference=(0.0, 0.0)) for pair in pairs]
    objective.to(world.device).eval()
    pieces = [piece for piece in objective.micro_batches(blank, world.size, overhead=0)[world.rank] if piece]
    batches = on_device((objective.collate([blank[place] for place in piece]) for piece in pieces), world.device)
    found: dict[int, tuple[float, float]] = {}
    for piece, batch in zip(pieces, batches, strict=True):
        sums = answer_sums(objective.logprobs(batch), batch["answers"])
        found |= dict(zip(piece, zip(sums.chosen.tolist(), sums.rejected.tolist(), strict=True), strict=True))
    objective.train()
    for others in everyone(found):
        found |= others
    return [pair._replace(reference=found[place]) for place, pair in enumerate(pairs)]

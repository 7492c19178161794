"""Whether training has left its parent behind for the worse, told by the dev set's measures of both.

The limits are the node's `diverged_*`; all of them are our choice, for the recipe's papers name none.
"""

from collections.abc import Mapping

from alma_pipeline.schema import Training

TRANSLATES = 10.0
"""chrF++ from which on a parent translates at all (our choice): what a random model writes gets less, and has nothing to lose."""


def divergence(config: Training, parent: Mapping[str, float], now: Mapping[str, float], when: str) -> str | None:
    """What is wrong with the measures `now` beside the parent's, in words; None while nothing is. `when`: `after step 3 of 6`.

    `loss` is always measured; `score` (chrF++, 0 to 100) and `loops` (a share, 0 to 1) only where the node has a dev score.
    """
    limit = config.diverged_above * parent["loss"]
    if not now["loss"] <= limit:  # not a number is above, too
        return (
            f"the dev loss is {now['loss']:.4g} {when}, above {limit:.4g} = diverged_above x {parent['loss']:.4g}, the parent's"
        )
    if parent.get("score", 0.0) < TRANSLATES:
        return None
    floor = config.diverged_below * parent["score"]
    if now["score"] < floor:
        told = f"below {floor:.4g} = diverged_below x {parent['score']:.4g}, the parent's"
        return f"the dev score is {now['score']:.4g} {when}, {told}"
    # A run that was begun before loops were counted knows none of its parent.
    before = parent.get("loops", 0.0)
    if now["loops"] > max(config.diverged_loops, before):
        told = f"above {config.diverged_loops:.0%} = diverged_loops and above the parent's {before:.0%}"
        return f"{now['loops']:.0%} of the dev translations are repetition loops {when}, {told}"
    return None

"""How many sentences share a decoding cache, in numbers alone."""

import pytest

from alma_pipeline.ml.decoding.batch_size import GROW_STEPS, BatchSize
from alma_pipeline.ml.decoding.search import Beams, DecodeLimits, Sampling


def size(decode_tokens: int, width: int = 5, row_step: int = 1, column_step: int = 8, samples: bool = False) -> BatchSize:
    limits = DecodeLimits(max_new_tokens=256, decode_tokens=decode_tokens, eos=1, pad=2)
    settings = Sampling(width=width, temperature=1.0, top_p=1.0, seed=0) if samples else Beams(width=width)
    return BatchSize(settings, limits, row_step, column_step)


def test_beams_share_their_prompt_and_reserve_no_longest_output() -> None:
    """70 tokens of prompt: 10 sentences were admitted to 16,384 tokens when each reserved (70 + 256) x 5."""
    assert size(16_384).joining([], 70, 1000) == 16_384 // (140 + GROW_STEPS * 5 + 4) == 89
    assert size(16_384).joining([150] * 60, 70, 1000) == 16_384 // (150 + GROW_STEPS * 5 + 2) - 60


def test_samples_share_only_their_prompt() -> None:
    assert size(16_384, width=16, samples=True).joining([], 70, 1000) == 16_384 // (70 + 16 * 70 + GROW_STEPS * 16 + 2)


def test_after_some_steps_outputs_are_expected_to_be_at_most_twice_as_long() -> None:
    batch = size(16_384, width=16, samples=True)
    assert batch.joining([], 70, 1000, steps=10) == 16_384 // (70 + 16 * 20 + GROW_STEPS * 16 + 2) > batch.joining([], 70, 1000)
    assert batch.joining([], 70, 1000, steps=200) == batch.joining([], 70, 1000)


def test_of_rows_that_grew_the_oldest_stay() -> None:
    small = size(1000)
    assert small.staying([100, 110, 120, 60]) == 4
    assert small.staying([100, 110, 300, 60]) == 2  # the third makes all rows wider than three may be
    assert small.joining([100, 110], 60, 9) > 0
    assert small.staying([5000, 10]) == 1 and small.staying([]) == 0, "a lone sentence may exceed the budget"
    assert small.joining([], 5000, 3) == 1 and small.joining([5000], 10, 3) == 0


@pytest.mark.parametrize("row_step", [1, 16])
@pytest.mark.parametrize("samples", [False, True])
def test_rows_times_columns_never_exceed_the_budget(row_step: int, samples: bool) -> None:
    for tokens in range(300, 9000, 371):
        batch = size(tokens, 4, row_step, 64, samples)
        for longest in (3, 40, 111):
            count = batch.joining([], longest, 500)
            assert count == 1 or batch.rows(count) * batch.columns(longest) <= tokens
            held = [longest + 7 * row for row in range(count)]
            fit = batch.staying(held)
            assert fit == 1 or batch.rows(fit) * batch.columns(held[fit - 1]) <= tokens
            more = batch.joining(held[:fit], longest, 500)
            assert not more or batch.rows(fit + more) * batch.columns(max(held[fit - 1], longest)) <= tokens


def test_shapes_of_recorded_steps_are_few() -> None:
    batch = size(10_000, row_step=16, column_step=64)
    assert {batch.rows(count) for count in range(1, 49)} == {1, 2, 4, 8, 16, 32, 48}
    assert {batch.columns(held) for held in range(24, 152)} == {64, 128, 192}

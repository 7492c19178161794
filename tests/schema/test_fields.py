"""Limits beside the fields, and the texts they give."""

import math
from dataclasses import dataclass, field

import pytest

from alma_pipeline.errors import suggestion
from alma_pipeline.schema.fields import choice, number, problems


@dataclass(frozen=True, kw_only=True)
class Leaf:
    rate: float = number(0.5, above=0, at_most=1)


@dataclass(frozen=True, kw_only=True)
class Tree:
    count: int | None = number(None, at_least=1)
    share: float = number(0.0, at_least=0, below=1)
    word: str = choice("one", "two")
    leaf: Leaf = field(default_factory=Leaf)
    leaves: dict[str, Leaf] = field(default_factory=dict)

    def conflicts(self) -> list[str]:
        return ["count and share do not go together"] if self.count and self.share else []


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (Tree(), []),
        (Tree(count=1, leaf=Leaf(rate=1)), []),
        (Tree(share=0.0), []),
        (Tree(count=0), ["t.count=0: expected a number at least 1"]),
        (Tree(share=1.0), ["t.share=1.0: expected a number below 1"]),
        (Tree(share=-0.1), ["t.share=-0.1: expected a number at least 0"]),
        (Tree(leaf=Leaf(rate=0)), ["t.leaf.rate=0: expected a number above 0"]),
        (Tree(leaf=Leaf(rate=1.5)), ["t.leaf.rate=1.5: expected a number at most 1"]),
        (Tree(leaves={"x": Leaf(rate=2), "y": Leaf()}), ["t.leaves.x.rate=2: expected a number at most 1"]),
        (Tree(share=math.nan), ["t.share=nan: expected a finite number"]),
        (Tree(share=math.inf), ["t.share=inf: expected a finite number"]),
        (Tree(share="abc"), ["t.share=abc: expected a number, found str"]),  # type: ignore[arg-type]
        (Tree(count=True), ["t.count=True: expected a number, found bool"]),
        (Tree(word="tow"), ["t.word=tow: expected one of one, two; did you mean 'two'?"]),
        (Tree(count=2, share=0.5), ["t: count and share do not go together"]),
    ],
)
def test_every_limit_with_its_key(config: Tree, expected: list[str]) -> None:
    assert list(problems(config, "t")) == expected


def test_all_problems_at_once() -> None:
    found = list(problems(Tree(count=0, share=2, word="x", leaf=Leaf(rate=9)), ""))
    assert [text.partition("=")[0] for text in found] == ["count", "share", "word", "leaf.rate"]


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("bta", ["beta", "alpha"], "did you mean 'beta'?"),
        ("zzz", ["beta", "alpha"], "known: alpha, beta"),
        ("x", [], "known: "),
    ],
)
def test_nearest(word: str, known: list[str], expected: str) -> None:
    assert suggestion(word, known) == expected

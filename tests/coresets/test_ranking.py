"""Ranking: who is chosen by a score, how a number is shared out among classes, and what decides between equals."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from alignprune.coresets.ranking import (
    central,
    largest,
    largest_of_each_class,
    largest_with_floor,
    ranked,
    shares,
    smallest,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_rankings_take_the_ends_and_the_middle() -> None:
    score = torch.tensor([3.0, -1.0, 7.0, 5.0, 0.0, 9.0])
    assert ranked(score, generator()).tolist() == [5, 2, 3, 0, 4, 1]
    assert largest(score, 2, generator()).tolist() == [5, 2]
    assert smallest(score, 3, generator()).tolist() == [1, 4, 0]
    assert sorted(central(score, 2, generator()).tolist()) == [0, 3]
    assert sorted(central(score, 3, generator()).tolist()) == [0, 2, 3]  # one left out above, two below


def test_equal_scores_are_equally_likely() -> None:
    score = torch.tensor([1.0, 0.0, 0.0, 2.0, 0.0, 0.0])
    firsts = Counter()
    for seed in range(2000):
        order = ranked(score, generator(seed)).tolist()
        assert order[:2] == [3, 0]
        firsts[order[2]] += 1
    assert sorted(firsts) == [1, 2, 4, 5]
    assert stats.chisquare(list(firsts.values())).pvalue > 1e-3


@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any), data=st.data())
@settings(max_examples=100, deadline=None)
def test_shares_sum_to_the_size_and_lie_within_one_of_proportion(counts: list[int], data: st.DataObject) -> None:
    total = sum(counts)
    size = data.draw(st.integers(0, total))
    given = shares(torch.tensor(counts), size).tolist()
    exact = [Fraction(size * count, total) for count in counts]
    assert sum(given) == size
    assert all(abs(share - wanted) < 1 for share, wanted in zip(given, exact, strict=True))
    assert all(share <= count for share, count in zip(given, counts, strict=True))
    # Largest remainders: whoever was rounded up had no smaller remainder than whoever was rounded down.
    up = [wanted % 1 for share, wanted in zip(given, exact, strict=True) if share > wanted]
    down = [wanted % 1 for share, wanted in zip(given, exact, strict=True) if share < wanted]
    assert not up or not down or min(up) >= max(down)


def test_of_equal_remainders_the_lower_class_is_rounded_up() -> None:
    assert shares(torch.tensor([5, 5, 5, 5]), 10).tolist() == [3, 3, 2, 2]


@given(seed=st.integers(0, 999), samples=st.integers(1, 40), data=st.data())
@settings(max_examples=50, deadline=None)
def test_every_class_gives_its_best(seed: int, samples: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, samples))
    score = torch.randn(samples, generator=generator(seed))
    labels = torch.randint(4, (samples,), generator=generator(seed + 1))
    chosen = largest_of_each_class(score, labels, 5, size, generator()).tolist()
    quota = shares(torch.bincount(labels, minlength=5), size).tolist()
    expected: list[int] = []
    for c in range(5):
        members = [i for i in range(samples) if labels[i] == c]
        expected += sorted(members, key=lambda i: -float(score[i]))[: quota[c]]
    assert sorted(chosen) == sorted(expected)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("floor, size", [(0.0, 4), (0.5, 6), (1.0, 6), (1.0, 3), (0.7, 9)])
def test_the_floor_costs_as_little_score_as_possible(seed: int, floor: float, size: int) -> None:
    score = torch.randn(10, generator=generator(seed)).double()
    labels = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1, 2])  # class 2 has fewer than any floor of 2
    least = [min(n, int(floor * size / 3)) for n in (6, 3, 1)]
    allowed = [
        subset
        for subset in combinations(range(10), size)
        if all(sum(int(labels[i]) == c for i in subset) >= least[c] for c in range(3))
    ]
    best = max(allowed, key=lambda subset: float(score[list(subset)].sum()))
    assert sorted(largest_with_floor(score, labels, 3, size, floor, generator()).tolist()) == list(best)

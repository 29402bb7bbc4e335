"""CCS against a slow loop from its algorithm, and what it is for: some of every difficulty."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from alignprune import coresets
from alignprune.coresets import Proxy, area_under_margin, budgets, strata

Make = Callable[..., Proxy]


def test_the_area_under_the_margin_is_its_mean_over_the_epochs() -> None:
    margins = 2 * torch.rand(7, 5, generator=torch.Generator().manual_seed(0)) - 1
    expected = [statistics.fmean(margins[:, i].tolist()) for i in range(5)]
    assert area_under_margin(margins).tolist() == pytest.approx(expected, rel=1e-12)


def slow_budgets(counts: list[int], size: int) -> list[int]:
    """The algorithm of the paper: the smallest stratum first gives an even part of what is left, or all it has."""
    left, out = list(range(len(counts))), [0] * len(counts)
    while left:
        smallest = min(left, key=lambda k: (counts[k], k))
        out[smallest] = min(counts[smallest], size // len(left))
        size -= out[smallest]
        left.remove(smallest)
    return out


@given(counts=st.lists(st.integers(0, 12), min_size=1, max_size=12), share=st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_budgets_are_even_and_what_a_stratum_does_not_have_goes_to_others(counts: list[int], share: float) -> None:
    size = math.floor(share * sum(counts))
    found = budgets(torch.tensor(counts), size).tolist()
    assert found == slow_budgets(counts, size)
    assert sum(found) == size
    assert all(0 <= given <= has for given, has in zip(found, counts, strict=True))
    most = max(found)  # nobody gives less than the most, but by one, unless it has no more
    assert all(given >= most - 1 or given == has for given, has in zip(found, counts, strict=True))


def slow_stratum(score: list[float], count: int) -> list[int]:
    least, greatest = min(score), max(score)
    if least == greatest:
        return [0] * len(score)
    return [min(int((x - least) / (greatest - least) * count), count - 1) for x in score]


@pytest.mark.parametrize("count", [1, 2, 7, 50])
def test_strata_are_intervals_of_one_length(count: int) -> None:
    score = torch.randn(200, generator=torch.Generator().manual_seed(1)).double()
    assert strata(score, count).tolist() == slow_stratum(score.tolist(), count)
    assert strata(torch.full((9,), 0.25), count).tolist() == [0] * 9


@pytest.mark.parametrize("size", [1, 6, 30, 55, 60])
@pytest.mark.parametrize("beta", [None, 0.0, 0.05])
@pytest.mark.parametrize("count", [4, 50])
def test_ccs_is_its_algorithm(make_proxy: Make, size: int, beta: float | None, count: int) -> None:
    proxy = make_proxy()
    rows = proxy.margins
    assert rows is not None
    if beta == 0.05 and size == 60:
        return  # three of them would be left out
    aum = [statistics.fmean(rows[:, i].tolist()) for i in range(60)]
    hardest = math.floor(round(((1 - size / 60) / 3 if beta is None else beta) * 60, 9))
    kept = sorted(range(60), key=lambda i: aum[i])[hardest:]
    stratum = dict(zip(kept, slow_stratum([aum[i] for i in kept], count), strict=True))
    chosen = coresets.select("ccs", proxy, size, seed=0, beta=beta, strata=count).tolist()
    assert set(chosen) <= set(kept)
    counts = [sum(k == of for of in stratum.values()) for k in range(count)]
    given = Counter(stratum[i] for i in chosen)
    assert [given[k] for k in range(count)] == slow_budgets(counts, size)


def test_of_a_stratum_every_sample_is_as_likely(make_proxy: Make) -> None:
    margins = torch.tensor([0.0] * 10 + [1.0] * 10).expand(3, 20).contiguous()
    proxy = make_proxy(samples=20, epochs=3, margins=margins)
    counts = Counter(i for seed in range(1_000) for i in coresets.select("ccs", proxy, 6, seed, beta=0.0).tolist())
    assert sum(counts[i] for i in range(10)) == 3_000
    assert stats.chisquare([counts[i] for i in range(20)]).pvalue > 1e-3


def test_wrong_labels_go_with_the_hardest_and_every_difficulty_is_kept(make_proxy: Make) -> None:
    level = torch.cat([torch.full((20,), -0.8), torch.linspace(-0.2, 1.0, 180)])
    proxy = make_proxy(samples=200, epochs=4, margins=level.expand(4, 200).contiguous())
    chosen = coresets.select("ccs", proxy, 60, seed=0, beta=0.1, strata=6)
    assert chosen.min() >= 20
    assert torch.histc(level[chosen], 6, -0.2, 1.0).tolist() == [10.0] * 6

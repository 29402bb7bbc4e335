"""OrderDP against its rule in a slow loop, and against the chances that its paper's equation gives to every rank."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignprune._ranks import Draws
from alignprune.policies import DynamicRandom, Evidence, OrderDP
from alignprune.selection import Selection

NAN = math.nan


def chosen(policy: OrderDP | DynamicRandom, score: Tensor, seed: int = 0) -> Selection:
    return policy.select(Evidence(score, "high", 1, 20, Draws(seed, 1)))


def random_scores(seed: int, samples: int, unknown: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    score = torch.randn(samples, generator=generator)
    score[torch.rand(samples, generator=generator) < unknown] = NAN
    return score


def exact_floor(share_left_out: float, count: int) -> int:
    return math.floor((1 - Fraction(str(share_left_out))) * count)


def pool_size(policy: OrderDP, samples: int) -> int:
    kept = exact_floor(policy.prune_ratio, samples)
    return max(kept, math.floor(round((1 - policy.prune_ratio) ** policy.chance * samples, 9)))


@given(
    seed=st.integers(0, 10_000),
    samples=st.integers(20, 80),
    unknown=st.sampled_from([0.0, 0.2, 0.9, 1.0]),
    prune_ratio=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 0.95]),
    chance=st.sampled_from([0.0, 0.3, 0.6, 1.0]),
    ties=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_orderdp_is_its_rule(
    seed: int, samples: int, unknown: float, prune_ratio: float, chance: float, ties: bool
) -> None:
    score = random_scores(seed, samples, unknown)
    score = score.round() if ties else score
    policy = OrderDP(prune_ratio, chance)
    kept = chosen(policy, score, seed).indices.tolist()
    pool = Draws(seed, 1).choose("pool", samples, pool_size(policy, samples)).tolist()
    assert set(kept) <= set(pool)
    assert len(kept) == exact_floor(prune_ratio, samples)
    rank = {i: math.inf if math.isnan(score[i]) else float(score[i]) for i in pool}
    best = sorted(rank.values(), reverse=True)[: len(kept)]
    assert sorted((rank[i] for i in kept), reverse=True) == best


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.29, 0.58])
@pytest.mark.parametrize("samples", [20, 101, 50_000])
def test_the_ratio_is_exact(ratio: float, samples: int) -> None:
    selection = chosen(OrderDP(ratio), random_scores(0, samples))
    assert len(selection) == exact_floor(ratio, samples)
    assert selection.weights is None


def test_a_rank_is_kept_as_often_as_the_papers_equation_says() -> None:
    """gamma_j, of the j-th highest of n: the chance to be in a pool of s and among its q highest."""
    n, runs, policy = 12, 4_000, OrderDP(prune_ratio=0.5, chance=0.5)
    q, s = n // 2, pool_size(policy, n)
    assert (q, s) == (6, 8)
    score = torch.arange(n, 0, -1).float()  # sample j - 1 is the j-th highest
    counts = Counter(i for seed in range(runs) for i in chosen(policy, score, seed).indices.tolist())
    gamma = [
        sum(
            math.comb(j - 1, place - 1) * math.comb(n - j, s - place) / math.comb(n, s)
            for place in range(max(1, s - n + j), min(q, j) + 1)
        )
        for j in range(1, n + 1)
    ]
    assert math.fsum(gamma) == pytest.approx(q)
    for found, expected in zip((counts[i] / runs for i in range(n)), gamma, strict=True):
        assert abs(found - expected) <= 5 * math.sqrt(expected * (1 - expected) / runs) + 1e-9


def test_without_chance_the_highest_scores_of_all_are_kept() -> None:
    score = random_scores(3, 100)
    assert set(chosen(OrderDP(0.6, chance=0), score).indices.tolist()) == set(score.topk(40).indices.tolist())


def test_by_chance_alone_no_score_is_read() -> None:
    for seed in range(5):
        first, second = (chosen(OrderDP(0.6, chance=1), random_scores(s, 100), seed).indices for s in (0, 1))
        assert torch.equal(first, second)


def test_samples_without_a_score_are_kept_before_all_others_of_the_pool() -> None:
    score = random_scores(0, 200, unknown=0.2)
    pool = Draws(0, 1).choose("pool", 200, pool_size(OrderDP(), 200))
    unknown = {int(i) for i in pool if math.isnan(score[i])}
    assert unknown <= set(chosen(OrderDP(), score).indices.tolist())


def test_of_equal_scores_chance_decides() -> None:
    draws = Counter(i for seed in range(2_000) for i in chosen(OrderDP(0.4), torch.zeros(20), seed).indices.tolist())
    assert all(abs(draws[i] / 2_000 - 0.6) < 5 * math.sqrt(0.24 / 2_000) for i in range(20))


@pytest.mark.parametrize("prune_ratio, pool", [(0.7, 0.5), (0.4, 0.75), (0.28, 0.8)])
def test_the_pools_are_close_to_those_of_the_authors(prune_ratio: float, pool: float) -> None:
    assert pool_size(OrderDP(prune_ratio), 10_000) / 10_000 == pytest.approx(pool, abs=0.025)


def test_what_decides_is_reported_as_the_threshold() -> None:
    score = random_scores(1, 50)
    selection = chosen(OrderDP(0.5), score)
    assert selection.thresholds == (float(score[selection.indices].min()),)
    assert chosen(OrderDP(0.5), torch.full((50,), NAN)).thresholds == ()
    assert not selection.uniform


@pytest.mark.parametrize("value", [1.0, -0.1, NAN, 50])
def test_a_share_outside_its_interval_is_named(value: float) -> None:
    with pytest.raises(ValueError, match=rf"prune_ratio={value!r} is out of range, expected a number in \[0, 1\)"):
        OrderDP(prune_ratio=value)


def test_more_than_all_of_the_chance_is_refused() -> None:
    with pytest.raises(ValueError, match=r"chance=1.1 is out of range, expected a number in \[0, 1\]: 0.6 comes"):
        OrderDP(chance=1.1)


def test_a_data_set_of_which_nothing_would_stay_is_refused() -> None:
    with pytest.raises(ValueError, match="prune_ratio=0.9 leaves none of num_samples=5, expected one at least: choose"):
        OrderDP(0.9).check(5)

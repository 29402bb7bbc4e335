"""The baselines: every sample, and a random part of them."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import pytest
import torch

import alignprune as ap
from alignprune._ranks import Draws
from alignprune.policies import DynamicRandom, Evidence, Full, Policy
from alignprune.selection import Selection

NAN = math.nan


def chosen(policy: Policy, samples: int, seed: int = 0) -> Selection:
    score = torch.randn(samples, generator=torch.Generator().manual_seed(samples))
    return policy.select(Evidence(score, "high", 1, 20, Draws(seed, 1)))


def test_full_takes_all() -> None:
    selection = chosen(Full(), 7)
    assert selection.indices.tolist() == list(range(7))
    assert (selection.weights, selection.uniform) == (None, True)


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.29, 0.58, 0.57, 1 / 4])
@pytest.mark.parametrize("samples", [20, 100, 101, 1_000, 50_000])
def test_dynamic_random_keeps_an_exact_count(ratio: float, samples: int) -> None:
    selection = chosen(DynamicRandom(prune_ratio=ratio), samples)
    assert len(selection) == math.floor((1 - Fraction(str(ratio))) * samples)  # in exact arithmetic
    assert selection.weights is None
    assert selection.uniform


def test_dynamic_random_gives_every_sample_the_same_chance() -> None:
    draws = Counter(i for seed in range(2_000) for i in chosen(DynamicRandom(0.3), 20, seed).indices.tolist())
    error = math.sqrt(0.3 * 0.7 / 2_000)
    assert all(abs(draws[i] / 2_000 - 0.7) < 5 * error for i in range(20))


def test_dynamic_random_never_anneals() -> None:
    assert DynamicRandom().annealing == Full().annealing == 1.0


@pytest.mark.parametrize("value", [1.2, -0.1, NAN, math.inf, 50, 1.0])
def test_a_share_outside_its_interval_is_named(value: float) -> None:
    with pytest.raises(ValueError, match=rf"prune_ratio={value!r} is out of range, expected a number in \[0, 1\)"):
        DynamicRandom(prune_ratio=value)


def test_a_data_set_of_which_nothing_would_stay_is_refused() -> None:
    with pytest.raises(ValueError, match="prune_ratio=0.9 leaves none of num_samples=5, expected one at least: choose"):
        DynamicRandom(0.9).check(5)
    DynamicRandom(0.9).check(10)


# Without replacement, RS2.


def dealt(ratio: float, samples: int, epochs: int, seed: int = 0) -> list[list[int]]:
    policy, score = DynamicRandom(ratio, replacement=False), torch.zeros(samples)
    evidence = (Evidence(score, "high", epoch, epochs, Draws(seed, epoch)) for epoch in range(epochs))
    return [policy.select(each).indices.tolist() for each in evidence]


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("samples", [20, 57])
def test_without_replacement_nobody_is_seen_again_before_all_others_were(ratio: float, samples: int) -> None:
    """A slow loop: a pass keeps a list of those that it has not dealt yet, and ends with those that it began with."""
    count, epochs = math.floor((1 - Fraction(str(ratio))) * samples), 40
    unseen: set[int] = set()
    first: list[int] = []
    for kept in dealt(ratio, samples, epochs):
        assert len(kept) == len(set(kept)) == count
        if not unseen:
            unseen, first = set(range(samples)), kept
        fresh = set(kept) & unseen
        assert len(fresh) == min(count, len(unseen))
        assert set(kept) - fresh <= set(first)
        unseen -= set(kept)


def test_every_pass_has_an_order_of_its_own_and_every_sample_the_same_chance() -> None:
    halves = [tuple(kept) for kept in dealt(0.5, 20, 40)][::2]
    assert len(set(halves)) == 20
    draws = Counter(i for seed in range(2_000) for i in dealt(0.3, 20, 2, seed)[1])
    assert all(abs(draws[i] / 2_000 - 0.7) < 5 * math.sqrt(0.3 * 0.7 / 2_000) for i in range(20))


def test_what_is_dealt_depends_on_epoch_and_seed_alone() -> None:
    assert dealt(0.3, 50, 6, seed=1) == dealt(0.3, 50, 6, seed=1) != dealt(0.3, 50, 6, seed=2)
    policy = DynamicRandom(0.3, replacement=False)
    alone = policy.select(Evidence(torch.ones(50), "low", 5, 9, Draws(1, 5)))  # as a run that is resumed asks
    assert alone.indices.tolist() == dealt(0.3, 50, 6, seed=1)[5]
    assert alone.uniform


def test_the_named_baselines_differ_by_replacement_alone() -> None:
    assert ap.PRESETS["rs2"].policy == DynamicRandom(0.3, replacement=False)
    assert ap.PRESETS["rs2"].with_knobs(replacement=True).policy == ap.PRESETS["dynamic-random"].policy

"""The baselines: every sample, and a random part of them."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import pytest
import torch

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

"""SeTa against its rule in a slow loop over groups that ckwrap makes."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import ckwrap
import numpy as np
import pytest
import torch
from torch import Tensor

from alignprune._ranks import Draws
from alignprune.policies import Evidence, SeTa
from alignprune.selection import Selection

NAN = math.nan


def evidence(score: Tensor, epoch: int = 1, seed: int = 0, suspect: Any = "high") -> Evidence:
    """Evidence whose draws are the same in every epoch, so that only the window moves."""
    return Evidence(score, suspect, epoch, 20, Draws(seed, 0))


def chosen(policy: SeTa, score: Tensor, epoch: int = 1, seed: int = 0, suspect: Any = "high") -> Selection:
    return policy.select(evidence(score, epoch, seed, suspect))


def exact_floor(share_left_out: float, count: int) -> int:
    """floor((1 - share) * count) in exact arithmetic of the decimal number that was written."""
    return math.floor((1 - Fraction(str(share_left_out))) * count)


def random_scores(seed: int, samples: int, unknown: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    score = torch.randn(samples, generator=generator)
    score[torch.rand(samples, generator=generator) < unknown] = NAN
    return score


def slow_groups(values: np.ndarray, k: int, suspect: str) -> list[list[int]]:
    """Positions by group of an optimal grouping, easiest first; ckwrap does the grouping."""
    labels = ckwrap.ckmeans(values.astype(np.float64), min(k, len(np.unique(values)))).labels
    groups = [np.flatnonzero(labels == g).tolist() for g in range(labels.max() + 1)]
    groups.sort(key=lambda members: float(values[members].mean()), reverse=suspect == "low")
    return groups


def slow_seta(score: np.ndarray, drawn: list[int], epoch: int, k: int, window: int, suspect: str) -> set[int]:
    unknown = {i for i in drawn if math.isnan(score[i])}
    ranked = [i for i in drawn if not math.isnan(score[i])]
    if epoch == 0 or not ranked:
        return set(drawn)
    groups = slow_groups(score[ranked], k, suspect)
    start = epoch % (len(groups) - window + 1)
    return unknown | {ranked[position] for group in groups[start : start + window] for position in group}


@pytest.mark.parametrize("suspect", ["high", "low"])
@pytest.mark.parametrize("k, alpha, window", [(5, 0.9, 4), (5, 0.6, 3), (4, 0.5, 2), (10, 0.5, 5), (1, 1.0, 1)])
@pytest.mark.parametrize("prune_prob, unknown", [(0.0, 0.0), (0.1, 0.0), (0.3, 0.2)])
def test_seta_is_its_rule(suspect: str, k: int, alpha: float, window: int, prune_prob: float, unknown: float) -> None:
    policy = SeTa(prune_prob=prune_prob, groups=k, alpha=alpha)
    score = random_scores(0, 300, unknown)
    drawn = chosen(policy, score, 0, 4, suspect).indices.tolist()  # epoch 0 takes all that the same draws leave
    assert len(drawn) == exact_floor(prune_prob, 300)
    for epoch in range(7):
        selection = chosen(policy, score, epoch, 4, suspect)
        assert set(selection.indices.tolist()) == slow_seta(score.numpy(), drawn, epoch, k, window, suspect)
        assert selection.weights is None


def test_the_published_window_alternates_between_the_two_ends() -> None:
    score = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0]).repeat_interleave(3)
    kept = [chosen(SeTa(prune_prob=0.0), score, epoch).indices.tolist() for epoch in range(5)]
    without_lowest, without_highest = list(range(3, 15)), list(range(12))
    assert kept == [list(range(15)), without_lowest, without_highest, without_lowest, without_highest]
    turned = [chosen(SeTa(prune_prob=0.0), score, epoch, suspect="low").indices.tolist() for epoch in range(3)]
    assert turned == [list(range(15)), without_highest, without_lowest]


@pytest.mark.parametrize(
    "k, alpha, rounded, ceiled",
    [(5, 0.9, 4, 5), (5, 0.5, 2, 3), (5, 0.7, 4, 4), (3, 0.5, 2, 2), (10, 0.25, 2, 3), (10, 0.7, 7, 7), (5, 1.0, 5, 5)],
)
def test_the_window_is_rounded_half_to_even_or_up(k: int, alpha: float, rounded: int, ceiled: int) -> None:
    score = torch.arange(float(k)).repeat_interleave(2)  # k groups of two
    assert len(chosen(SeTa(0.0, k, alpha), score)) == 2 * rounded
    assert len(chosen(SeTa(0.0, k, alpha, rounding="ceil"), score)) == 2 * ceiled


def test_equal_scores_are_cut_into_equal_parts_at_random() -> None:
    score = torch.full((50,), 0.1)
    kept = [set(chosen(SeTa(prune_prob=0.0), score, 1, seed).indices.tolist()) for seed in range(5)]
    assert [len(part) for part in kept] == [40] * 5
    assert len(set(map(frozenset, kept))) == 5
    both_ends = [set(chosen(SeTa(prune_prob=0.0), score, epoch, 0).indices.tolist()) for epoch in (1, 2)]
    assert both_ends[0] | both_ends[1] == set(range(50))


def test_fewer_values_than_groups_make_fewer_groups() -> None:
    score = torch.tensor([0.0] * 4 + [1.0] * 4 + [2.0] * 4)  # three groups, a window of round(2.7) = 3
    assert len(chosen(SeTa(prune_prob=0.0), score, 1)) == 12


@pytest.mark.parametrize("scored", [1, 2, 4])
def test_fewer_scored_samples_than_groups_make_fewer_groups_where_all_scores_are_equal_too(scored: int) -> None:
    score = torch.cat([torch.full((20,), NAN), torch.ones(scored)])
    for epoch in range(1, 6):
        kept = set(chosen(SeTa(prune_prob=0.0), score, epoch).indices.tolist())
        assert set(range(20)) <= kept
        assert len(kept) == 20 + max(1, round(scored * 0.9))


def test_unscored_samples_are_only_thinned_out() -> None:
    score = torch.cat([torch.full((20,), NAN), torch.arange(30.0)])
    for epoch in range(4):
        assert set(range(20)) <= set(chosen(SeTa(prune_prob=0.0), score, epoch).indices.tolist())
    assert len(chosen(SeTa(prune_prob=0.2), torch.full((50,), NAN), 3)) == 40


@pytest.mark.parametrize("prune_prob", [0.0, 0.1, 0.3, 0.7, 0.9])
def test_seta_anneals_on_a_random_share(prune_prob: float) -> None:
    policy = SeTa(prune_prob=prune_prob)
    draws = [policy.anneal(evidence(random_scores(0, 110), 17, seed)) for seed in range(3)]
    assert [len(draw) for draw in draws] == [exact_floor(prune_prob, 110)] * 3
    assert all(draw.weights is None and draw.uniform for draw in draws)
    assert len({tuple(draw.indices.tolist()) for draw in draws}) == (1 if prune_prob == 0 else 3)


@pytest.mark.parametrize("separated", [True, False])
def test_scikit_learn_groups_about_as_the_optimum(separated: bool) -> None:
    if separated:  # then Lloyd's steps find the optimum
        score = torch.arange(5.0).repeat(40) + 0.01 * random_scores(0, 200)
        for epoch in range(4):
            exact, theirs = (chosen(SeTa(0.0, grouping=how), score, epoch) for how in ("exact", "sklearn"))
            assert torch.equal(exact.indices, theirs.indices)
    else:
        score = random_scores(0, 400)
        for epoch in range(1, 5):
            selection = chosen(SeTa(0.0, grouping="sklearn"), score, epoch)
            left_out = score[selection.pruned]
            kept = score[selection.indices]
            assert 0 < len(left_out) < 200
            assert left_out.max() < kept.min() or left_out.min() > kept.max()  # one end is left out, as a whole


def test_scikit_learn_takes_scores_with_few_distinct_values() -> None:
    score = torch.tensor([0.0, 1.0]).repeat(20)
    assert len(chosen(SeTa(0.0, grouping="sklearn"), score, 1)) == 40


@pytest.mark.parametrize("value", [1.2, -0.1, NAN, math.inf, 50, 1.0])
def test_a_share_outside_its_interval_is_named(value: float) -> None:
    with pytest.raises(ValueError, match=rf"prune_prob={value!r} is out of range, expected a number in \[0, 1\)"):
        SeTa(prune_prob=value)


@pytest.mark.parametrize(
    "settings, error, message",
    [
        ({"groups": 0}, ValueError, "groups=0 is out of range"),
        ({"groups": 2.0}, TypeError, "groups=2.0 is float"),
        ({"alpha": 1.5}, ValueError, "alpha=1.5 is out of range"),
        ({"alpha": 0.05}, ValueError, "alpha=0.05 of groups=5 rounds to a window of no group, expected one at least"),
        ({"rounding": "cell"}, ValueError, "rounding='cell' is unknown.*did you mean 'ceil'"),
        ({"grouping": "sklern"}, ValueError, "grouping='sklern' is unknown.*did you mean 'sklearn'"),
    ],
)
def test_a_wrong_setting_of_seta_is_named(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SeTa(**settings)


def test_a_data_set_with_fewer_samples_than_groups_is_refused() -> None:
    with pytest.raises(ValueError, match="groups=5 is more than the 4 samples"):
        SeTa(prune_prob=0.2).check(5)
    with pytest.raises(ValueError, match="prune_prob=0.9 leaves none of num_samples=5"):
        SeTa(prune_prob=0.9).check(5)
    SeTa(prune_prob=0.1).check(10)

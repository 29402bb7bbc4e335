"""Optimal grouping in one dimension against every partition, and against ckwrap."""

from __future__ import annotations

from itertools import combinations

import ckwrap
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignprune.policies.grouping import kmeans_1d


def groups_of(values: np.ndarray, k: int) -> np.ndarray:
    return np.searchsorted(kmeans_1d(values, k), values, side="right")


def spread(values: np.ndarray, group: np.ndarray) -> float:
    """Sum of squared distances to the group's mean, with the mean in exact two-pass float64."""
    values = values.astype(np.float64)
    return float(sum(((values[group == g] - values[group == g].mean()) ** 2).sum() for g in np.unique(group)))


def least_spread(values: list[float], k: int) -> float:
    """The least sum of squares over all partitions of the sorted values into k runs."""
    ordered = np.sort(np.array(values, dtype=np.float64))
    best = np.inf
    for cuts in combinations(range(1, len(ordered)), k - 1):
        runs = np.split(ordered, cuts)
        best = min(best, sum(float(((run - run.mean()) ** 2).sum()) for run in runs))
    return best


@given(
    values=st.one_of(
        st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=11),
        st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=11),  # many ties
        st.lists(st.floats(1000, 1001, width=32), min_size=1, max_size=11),
    ),
    k=st.integers(1, 6),
)
@settings(max_examples=200, deadline=None)
def test_no_partition_of_few_values_is_better(values: list[float], k: int) -> None:
    array = np.array(values)
    distinct = len(np.unique(array))
    group = groups_of(array, k)
    assert len(kmeans_1d(array, k)) == min(k, distinct) - 1
    assert set(group) == set(range(min(k, distinct)))
    scale = 1e-12 * max(1.0, float((array**2).sum()))
    assert spread(array, group) <= least_spread(values, min(k, len(values))) + scale


DISTRIBUTIONS = {
    "normal": lambda rng: rng.normal(size=4_000),
    "losses": lambda rng: rng.exponential(size=4_000) ** 2,
    "heavy tails": lambda rng: rng.standard_cauchy(size=4_000),
    "alignment": lambda rng: np.clip(rng.normal(0.6, 0.4, size=4_000), -1, 1).astype(np.float32),  # ties at the ends
    "clusters": lambda rng: np.concatenate([rng.normal(c, 0.01, size=800) for c in (0, 1, 1.1, 5, 50)]),
    "ties": lambda rng: rng.integers(0, 40, size=4_000).astype(np.float32) / 7,
    "one outlier": lambda rng: np.append(rng.random(3_999), 1e6),
    "uniform far from 0": lambda rng: 1e4 + rng.random(4_000),
    "few distinct": lambda rng: rng.choice([0.0, 0.1, 0.5, 3.0, 9.0], size=4_000, p=[0.9, 0.04, 0.03, 0.02, 0.01]),
}


@pytest.mark.parametrize("kind", list(DISTRIBUTIONS))
@pytest.mark.parametrize("k", range(2, 11))
def test_many_values_are_grouped_as_well_as_by_ckwrap(kind: str, k: int) -> None:
    values = DISTRIBUTIONS[kind](np.random.default_rng(k))
    distinct = len(np.unique(values))
    group = groups_of(values, k)
    assert len(np.unique(group)) == min(k, distinct)
    theirs = ckwrap.ckmeans(values.astype(np.float64), min(k, distinct))
    best = spread(values, np.asarray(theirs.labels))
    total = float(((values - values.mean(dtype=np.float64)) ** 2).sum())
    assert spread(values, group) <= best * (1 + 1e-9) + 1e-12 * total


def test_groups_are_intervals_in_the_order_of_the_values() -> None:
    values = np.random.default_rng(0).normal(size=500)
    thresholds = kmeans_1d(values, 7)
    assert (np.diff(thresholds) > 0).all()
    group = groups_of(values, 7)
    order = np.argsort(values)
    assert (np.diff(group[order]) >= 0).all()
    for j, threshold in enumerate(thresholds):  # as documented: group j + 1 begins at its threshold
        assert values[group == j].max() < threshold == values[group == j + 1].min()


def test_the_order_of_the_values_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    values = rng.exponential(size=3_000)
    assert np.array_equal(kmeans_1d(values, 5), kmeans_1d(rng.permutation(values), 5))


@pytest.mark.parametrize("k", [3, 4, 10])
def test_each_distinct_value_is_a_group_when_there_are_no_more(k: int) -> None:
    values = np.array([2.0, 0.5, 2.0, 0.5, 7.0, 0.5])
    assert groups_of(values, k).tolist() == [1, 0, 1, 0, 2, 0]


def test_one_group_holds_everything() -> None:
    values = np.array([3.0, 1.0, 2.0])
    assert kmeans_1d(values, 1).tolist() == []
    assert kmeans_1d(np.array([4.0, 4.0]), 3).tolist() == []
    assert kmeans_1d(np.array([4.0]), 1).tolist() == []


def test_the_given_values_are_left_as_they_were() -> None:
    values = np.random.default_rng(0).random(100)
    before = values.copy()
    kmeans_1d(values, 4)
    assert np.array_equal(values, before)


def test_two_hundred_thousand_losses_are_grouped_as_well_as_by_ckwrap() -> None:
    values = np.random.default_rng(0).exponential(size=200_000).astype(np.float32)
    best = spread(values, np.asarray(ckwrap.ckmeans(values.astype(np.float64), 5).labels))
    assert spread(values, groups_of(values, 5)) <= best * (1 + 1e-9)

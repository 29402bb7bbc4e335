"""The mixture against the data it was drawn from, scikit-learn's, and the two densities themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import norm
from sklearn.mixture import GaussianMixture

from alignprune.policies import mixture
from alignprune.policies.mixture import Mixture


def drawn(
    n: int, share: float, means: tuple[float, float], deviations: tuple[float, float], seed: int = 0
) -> NDArray[np.float64]:
    """Numbers of which exactly ``share`` are of the upper kind, in random order."""
    rng = np.random.default_rng(seed)
    upper = round(share * n)
    parts = [rng.normal(m, s, k) for m, s, k in zip(means, deviations, (n - upper, upper), strict=True)]
    return rng.permutation(np.concatenate(parts))


def fitted(values: NDArray[np.float64]) -> Mixture:
    found = mixture.fit(values)
    assert found is not None
    return found


def advantage(found: Mixture, x: float) -> float:
    """By how much the upper component is the more likely one at x, in log."""
    with np.errstate(divide="ignore"):  # a share of 0 or 1
        low, high = np.log([1 - found.share, found.share]) + norm.logpdf(x, found.means, found.deviations)
    return float(high - low)


# Fitting.


@pytest.mark.parametrize("n", [200, 3_000, 4_001, 4_002, 60_000])
@pytest.mark.parametrize(
    "share, means, deviations",
    [(0.4, (0.0, 1.0), (0.15, 0.15)), (0.1, (-2.0, 4.0), (1.0, 0.5)), (0.7, (5.0, 11.0), (0.5, 2.0))],
)
def test_a_known_mixture_is_recovered_to_its_sampling_error(
    n: int, share: float, means: tuple[float, float], deviations: tuple[float, float]
) -> None:
    found = fitted(drawn(n, share, means, deviations))
    whole = math.sqrt(share * (1 - share)) * (means[1] - means[0]) + max(deviations)
    assert found.share == pytest.approx(share, abs=0.01 + 2 / n)
    for part, count in enumerate((n * (1 - share), n * share)):
        error = deviations[part] / math.sqrt(count)
        assert found.means[part] == pytest.approx(means[part], abs=4 * error + 0.01 * deviations[part])
        assert found.deviations[part] == pytest.approx(deviations[part], abs=4 * error + 0.005 * whole)


@pytest.mark.parametrize("n", [300, 4_000, 20_000])
def test_the_fit_is_that_of_scikit_learn(n: int) -> None:
    values = drawn(n, 0.3, (0.2, 1.6), (0.2, 0.3), seed=1)
    other = GaussianMixture(2, tol=1e-9, max_iter=1_000, random_state=0).fit(values[:, None])
    low, high = np.argsort(other.means_[:, 0])
    found = fitted(values)
    error = 3e-3 * values.std()
    assert found.share == pytest.approx(other.weights_[high], abs=1e-3)
    assert found.means == pytest.approx(other.means_[[low, high], 0], abs=error)
    assert found.deviations == pytest.approx(np.sqrt(other.covariances_[[low, high], 0, 0]), abs=error)


def test_separation_is_the_distance_of_the_means_in_deviations() -> None:
    assert Mixture((1.0, 4.0), (1.5, 1.5), 0.2).separation == pytest.approx(2.0)
    assert Mixture((1.0, 4.0), (1.0, 2.0), 0.2).separation == pytest.approx(3 * math.sqrt(2) / math.sqrt(1 + 4))


@pytest.mark.parametrize("n", [50, 500, 9_000])
def test_the_order_of_the_numbers_does_not_matter(n: int) -> None:
    values = drawn(n, 0.35, (0.0, 2.0), (1.0, 0.7))
    one, other = fitted(values), fitted(np.sort(values)[::-1])
    assert other.share == pytest.approx(one.share, abs=1e-9)
    assert (other.means, other.deviations) == (pytest.approx(one.means), pytest.approx(one.deviations))


@pytest.mark.parametrize("values", [[], [3.0], [0.1] * 50], ids=["none", "one", "equal"])
def test_fewer_than_two_different_numbers_have_no_mixture(values: list[float]) -> None:
    assert mixture.fit(np.array(values, dtype=np.float32)) is None


def test_two_different_numbers_are_two_components() -> None:
    found = fitted(np.array([2.0, 5.0, 2.0, 2.0]))
    assert found.means == pytest.approx((2.0, 5.0))
    assert found.share == pytest.approx(0.25)
    assert 2 < found.cut < 5


@given(
    values=st.lists(st.floats(-1e6, 1e6, width=32, allow_subnormal=False), min_size=2, max_size=40),
    copies=st.integers(1, 3),
)
@settings(max_examples=150, deadline=None)
def test_any_numbers_give_a_mixture_within_their_range(values: list[float], copies: int) -> None:
    assume(len(set(values)) > 1)
    found = fitted(np.repeat(values, copies))
    slack = 1e-6 * max(map(abs, values))
    assert 0 <= found.share <= 1
    assert min(values) - slack <= found.means[0] <= found.means[1] <= max(values) + slack
    assert 0 < min(found.deviations) <= max(found.deviations) < math.inf
    assert found.cut >= found.means[0]
    assert found.separation >= 0


@given(
    seed=st.integers(0, 10_000),
    n=st.sampled_from([60, 700, 5_000]),
    share=st.floats(0.15, 0.85),
    shift=st.floats(-100, 100),
    scale=st.floats(0.01, 100),
)
@settings(max_examples=40, deadline=None)
def test_shift_and_scale_carry_over(seed: int, n: int, share: float, shift: float, scale: float) -> None:
    values = drawn(n, share, (0.0, 4.0), (1.0, 0.8), seed)
    found, moved = fitted(values), fitted(shift + scale * values)
    near = {"rel": 1e-6, "abs": 1e-6 * scale}
    assert moved.share == pytest.approx(found.share, rel=1e-6)
    assert moved.means == pytest.approx([shift + scale * mean for mean in found.means], **near)
    assert moved.deviations == pytest.approx([scale * deviation for deviation in found.deviations], **near)
    assert moved.separation == pytest.approx(found.separation, rel=1e-6)
    assert moved.cut == pytest.approx(shift + scale * found.cut, **near)


# The cut.


@given(
    lower=st.floats(-50, 50),
    distance=st.floats(0.1, 20),
    deviations=st.tuples(st.floats(0.2, 5), st.floats(0.2, 5)),
    equal=st.booleans(),
    share=st.floats(0.02, 0.98),
)
@settings(max_examples=200, deadline=None)
def test_the_cut_is_where_the_weighted_densities_meet(
    lower: float, distance: float, deviations: tuple[float, float], equal: bool, share: float
) -> None:
    deviations = (deviations[0], deviations[0]) if equal else deviations
    found = Mixture((lower, lower + distance), deviations, share)
    at_means = [advantage(found, mean) for mean in found.means]
    assume(at_means[0] < 0 < at_means[1])
    meet = brentq(lambda x: advantage(found, x), *found.means, xtol=1e-12)
    assert found.cut == pytest.approx(meet, abs=1e-6)


def test_the_cut_is_exact_far_from_zero() -> None:
    near = Mixture((0.0, 3.0), (1.0, 1.0001), 0.3)
    far = Mixture((1e6, 1e6 + 3), (1.0, 1.0001), 0.3)
    assert far.cut - 1e6 == pytest.approx(near.cut, abs=1e-8)


@pytest.mark.parametrize(
    "found",
    [
        Mixture((0.0, 0.5), (1.0, 1.0), 0.0),
        Mixture((0.0, 0.5), (1.0, 0.9), 0.05),
        Mixture((0.0, 0.0), (1.0, 1.0), 0.3),
    ],
    ids=["empty", "small and near", "the same"],
)
def test_there_is_no_cut_where_the_upper_component_is_never_the_likelier(found: Mixture) -> None:
    assert found.cut == math.inf
    assert all(advantage(found, x) <= 0 for x in np.linspace(-20, 20, 401))


@pytest.mark.parametrize("share", [0.999, 1.0])
def test_the_cut_is_no_lower_than_the_lower_mean(share: float) -> None:
    found = Mixture((1.0, 2.0), (1.0, 1.0), share)
    assert advantage(found, 1.0) > 0
    assert found.cut == 1.0


# -- known distributions -----------------------------------------------------------------------------------


@given(
    n=st.integers(30, 3_000),
    share=st.floats(0.1, 0.9),
    distance=st.floats(1.0, 6.0),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=50, deadline=None)
def test_the_share_of_a_known_kind_is_the_most_likely_one(n: int, share: float, distance: float, seed: int) -> None:
    values = drawn(n, share, (0.0, distance), (1.0, 1.0), seed)
    log_ratios = norm.logpdf(values, distance) - norm.logpdf(values)

    def surprise(s: float) -> float:
        return -float(np.logaddexp(math.log(1 - s), math.log(s) + log_ratios).sum())

    best = minimize_scalar(surprise, bounds=(1e-4, 1 - 1e-4), method="bounded", options={"xatol": 1e-6})
    # As likely as the best one up to half a unit, which no data of this size could tell: 60 steps end before that.
    assert surprise(mixture.share(log_ratios)) <= best.fun + 0.5


def test_numbers_that_all_speak_for_one_kind_leave_nothing_to_the_other() -> None:
    assert mixture.share(np.full(50, -200.0)) < 1e-3
    assert mixture.share(np.full(50, 200.0)) > 1 - 1e-3


def test_many_log_ratios_have_the_share_of_their_quantiles() -> None:
    values = drawn(200_000, 0.3, (0.0, 4.0), (1.0, 1.0))
    assert mixture.share(norm.logpdf(values, 4.0) - norm.logpdf(values)) == pytest.approx(0.3, abs=0.01)

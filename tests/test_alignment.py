"""The Dynamic Alignment Score against scipy and against float64 sums written from the equation."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from alignprune.alignment import cosine, dynamic_alignment_score, pearson

NAN = math.nan


def common(column: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    both = ~(np.isnan(column) | np.isnan(reference))
    return column[both], reference[both]


def slow_pearson(column: np.ndarray, reference: np.ndarray) -> float:
    x, r = common(column, reference)
    if len(x) < 2 or np.var(x) < 1e-12 or np.var(r) < 1e-12:
        return NAN
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of nearly constant input
        return float(stats.pearsonr(x, r).statistic)


def slow_cosine(column: np.ndarray, reference: np.ndarray) -> float:
    x, r = common(column, reference)
    if len(x) < 1 or np.mean(x**2) < 1e-12 or np.mean(r**2) < 1e-12:
        return NAN
    return float(np.dot(x, r) / (np.linalg.norm(x) * np.linalg.norm(r)))


def slow(correlate: Callable[..., float], trajectories: np.ndarray, reference: np.ndarray) -> np.ndarray:
    own = np.broadcast_to(reference if reference.ndim == 2 else reference[:, None], trajectories.shape)
    return np.array([correlate(trajectories[:, i], own[:, i]) for i in range(trajectories.shape[1])])


def ragged(seed: int, window: int, samples: int, scale: float, offset: float, gaps: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(window, samples)) * scale + offset
    values[rng.random(values.shape) < gaps] = NAN
    return values


WINDOWS = st.integers(2, 30)
SEEDS = st.integers(0, 2**32 - 1)
SHAPES = st.tuples(
    SEEDS,
    WINDOWS,
    st.integers(1, 12),
    st.sampled_from([1e-4, 1e-3, 0.1, 1.0, 30.0, 1e6]),  # spread
    st.sampled_from([0.0, 0.1, 3.0, -50.0, 1e3]),  # offset
    st.sampled_from([0.0, 0.1, 0.5, 0.9]),  # share of gaps
)


@given(shape=SHAPES, reference_scale=st.sampled_from([1e-3, 0.3, 10.0]))
@settings(max_examples=100, deadline=None)
def test_pearson_is_scipys_on_ragged_trajectories(shape: tuple, reference_scale: float) -> None:
    trajectories = ragged(*shape)
    reference = ragged(shape[0] + 1, shape[1], 1, reference_scale, 2.0, 0.1)[:, 0]
    ours = pearson(torch.from_numpy(trajectories), torch.from_numpy(reference)).numpy()
    np.testing.assert_allclose(ours, slow(slow_pearson, trajectories, reference), atol=2e-6, rtol=0)


@given(shape=SHAPES)
@settings(max_examples=60, deadline=None)
def test_every_sample_may_have_a_reference_of_its_own(shape: tuple) -> None:
    trajectories = ragged(*shape)
    reference = ragged(shape[0] + 1, shape[1], shape[2], 0.5, 2.0, 0.2)
    ours = pearson(torch.from_numpy(trajectories), torch.from_numpy(reference)).numpy()
    np.testing.assert_allclose(ours, slow(slow_pearson, trajectories, reference), atol=2e-6, rtol=0)


@given(shape=SHAPES, own=st.booleans())
@settings(max_examples=60, deadline=None)
def test_cosine_is_the_normalised_product_of_the_common_epochs(shape: tuple, own: bool) -> None:
    trajectories = ragged(*shape)
    reference = ragged(shape[0] + 1, shape[1], shape[2], 0.5, 2.0, 0.2)
    reference = reference if own else reference[:, 0]
    ours = cosine(torch.from_numpy(trajectories), torch.from_numpy(reference)).numpy()
    np.testing.assert_allclose(ours, slow(slow_cosine, trajectories, reference), atol=2e-6, rtol=0)


def test_more_samples_than_a_chunk_are_scored_each_by_its_own_column() -> None:
    trajectories = ragged(0, 6, 40_000, 1.0, 3.0, 0.2)
    reference = ragged(1, 6, 40_000, 1.0, 3.0, 0.0)
    some = np.array([0, 1, 16_383, 16_384, 16_385, 32_767, 32_768, 39_999])
    ours = pearson(torch.from_numpy(trajectories), torch.from_numpy(reference)).numpy()
    np.testing.assert_allclose(ours[some], slow(slow_pearson, trajectories[:, some], reference[:, some]), atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_float_dtype_is_read_at_its_own_precision(dtype: torch.dtype) -> None:
    trajectories = torch.from_numpy(ragged(0, 10, 20, 1.0, 2.0, 0.2)).to(dtype)
    reference = torch.linspace(2, 1, 10).to(dtype)
    expected = slow(slow_pearson, trajectories.double().numpy(), reference.double().numpy())
    scores = pearson(trajectories, reference)
    assert scores.dtype == torch.float32
    np.testing.assert_allclose(scores.numpy(), expected, atol=2e-6)


@given(seed=SEEDS, slope=st.sampled_from([0.01, 0.5, 7.0, 300.0]), shift=st.floats(-20, 20))
@settings(max_examples=40, deadline=None)
def test_stretching_and_shifting_a_trajectory_leaves_its_pearson_score(seed: int, slope: float, shift: float) -> None:
    trajectories = torch.from_numpy(ragged(seed, 12, 8, 1.0, 2.0, 0.2))
    reference = torch.linspace(2.0, 0.5, 12).double()
    before = pearson(trajectories, reference)
    torch.testing.assert_close(pearson(trajectories * slope + shift, reference), before, atol=1e-5, rtol=0)
    torch.testing.assert_close(pearson(trajectories, reference * slope + shift), before, atol=1e-5, rtol=0)
    torch.testing.assert_close(pearson(-trajectories, reference), -before, atol=1e-6, rtol=0)


def test_a_trajectory_proportional_to_the_reference_scores_one() -> None:
    reference = torch.tensor([3.0, 2.0, 1.5, 1.2])
    trajectories = torch.stack([2 * reference + 5, 4 - reference, 3 * reference], dim=1)
    assert pearson(trajectories, reference).tolist() == pytest.approx([1, -1, 1], abs=1e-6)
    assert cosine(trajectories, reference)[2].item() == pytest.approx(1, abs=1e-6)


def test_scores_never_leave_the_interval_of_a_correlation() -> None:
    reference = torch.rand(25, generator=torch.Generator().manual_seed(0))
    trajectories = reference.unsqueeze(1) * torch.logspace(-3, 6, 500) + 0.1
    for correlate in (pearson, cosine):
        assert correlate(trajectories, reference).abs().max() <= 1


@pytest.mark.parametrize("least", [2, 3, 5, 9])
def test_samples_seen_too_seldom_have_no_score(least: int) -> None:
    trajectories = torch.full((8, 9), NAN)
    for sample in range(9):
        trajectories[:sample, sample] = torch.rand(sample, generator=torch.Generator().manual_seed(sample))
    reference = torch.linspace(2, 1, 8)
    score = dynamic_alignment_score(trajectories, reference, min_observations=least)
    assert score.isnan().tolist() == [seen < least for seen in range(9)]


def test_an_epoch_without_reference_is_no_observation() -> None:
    trajectories = torch.tensor([[1.0], [2.0], [3.0], [NAN]])
    reference = torch.tensor([1.0, NAN, 2.0, 3.0])
    assert dynamic_alignment_score(trajectories, reference, min_observations=3).isnan().all()
    assert dynamic_alignment_score(trajectories, reference, min_observations=2).tolist() == pytest.approx([1.0])
    assert dynamic_alignment_score(trajectories, reference.unsqueeze(1), min_observations=3).isnan().all()


def test_a_flat_trajectory_is_neutral_or_exempt() -> None:
    rows = torch.tensor([[0.5, 0.0, 1.0, 1e-8], [0.5, 0.0, 2.0, 2e-8], [0.5, 0.0, 4.0, 3e-8]])
    reference = torch.tensor([3.0, 2.0, 1.0])
    expected = slow_pearson(rows[:, 2].double().numpy(), reference.double().numpy())
    assert dynamic_alignment_score(rows, reference, flat="zero").tolist() == pytest.approx([0, 0, expected, 0])
    exempt = dynamic_alignment_score(rows, reference, flat="exempt").tolist()
    assert exempt == pytest.approx([NAN, NAN, expected, NAN], nan_ok=True)


def test_a_flat_reference_leaves_every_sample_neutral() -> None:
    rows, reference = torch.rand(5, 7, generator=torch.Generator().manual_seed(0)), torch.full((5,), 2.5)
    assert dynamic_alignment_score(rows, reference).tolist() == [0] * 7
    assert dynamic_alignment_score(rows, reference, flat="exempt").isnan().all()


def test_nearly_flat_trajectories_above_the_limit_keep_their_sign() -> None:
    reference = torch.linspace(3, 1, 10).double()
    up = 1000 + 1e-4 * torch.arange(10).double()
    assert pearson(torch.stack([up, -up], dim=1), reference).tolist() == pytest.approx([-1, 1], abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_what_is_flat_does_not_depend_on_a_default_dtype(dtype: torch.dtype) -> None:
    """In float16 the limit would be 0, and what rounding left of a trajectory would be a trend."""
    reference = torch.tensor([3.0, 2.0, 1.5, 1.0]).double()
    columns = torch.stack([1 + 1e-8 * reference, 1 - 1e-8 * reference, 1 + 1e-5 * reference], 1)
    torch.set_default_dtype(dtype)
    try:
        score = pearson(columns, reference)
    finally:
        torch.set_default_dtype(torch.float32)
    assert score[:2].isnan().all()
    assert float(score[2]) == pytest.approx(1.0)


def test_the_given_tensors_are_left_as_they_were() -> None:
    trajectories, reference = torch.rand(5, 7).double(), torch.rand(5).double()
    trajectories[2, 3] = NAN
    before = trajectories.clone(), reference.clone()
    for correlation in ("pearson", "cosine"):
        dynamic_alignment_score(trajectories, reference, correlation=correlation, min_observations=6)
    assert torch.equal(trajectories.nan_to_num(nan=-1), before[0].nan_to_num(nan=-1))
    assert torch.equal(reference, before[1])


# Mistakes.


@pytest.mark.parametrize("correlate", [pearson, cosine, dynamic_alignment_score])
def test_trajectories_must_be_a_matrix(correlate: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match=r"trajectories has shape \(5,\), expected \[window, num_samples\]"):
        correlate(torch.rand(5), torch.rand(5))


@pytest.mark.parametrize("correlate", [pearson, cosine, dynamic_alignment_score])
@pytest.mark.parametrize("shape", [(4,), (6,), (7,), (1,), (5, 6), (4, 7), (5, 1), ()])
def test_the_reference_must_fit_the_trajectories(correlate: Callable[..., Tensor], shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="reference has shape .*, expected .5,. .* or .5, 7."):
        correlate(torch.rand(5, 7), torch.rand(shape))

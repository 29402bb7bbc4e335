"""The score of a bank, computed in one pass over it, against float64 sums written from the equation."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignprune import TrajectoryBank
from alignprune._streamed import streamed_alignment_score
from alignprune.scores import Alignment, History

NAN = math.nan
DOCUMENTED = 3e-3  # the score of a bank may differ by this from the exact one
SEEDS = st.integers(0, 2**32 - 1)


def float64_pearson(rows: Tensor, reference: Tensor) -> np.ndarray:
    """Equation 5 in float64 over all samples at once, 0 without a trend."""
    x = rows.double().numpy()
    r = np.where(np.isnan(x), NAN, reference.double().numpy()[:, None])
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dx, dr = x - np.nanmean(x, 0), r - np.nanmean(r, 0)
        score = np.nansum(dx * dr, 0) / np.sqrt(np.nansum(dx**2, 0) * np.nansum(dr**2, 0))
        return np.where((np.nanmean(dx**2, 0) < 1e-12) | (np.nanmean(dr**2, 0) < 1e-12), 0.0, score)


def float64_cosine(rows: Tensor, reference: Tensor) -> np.ndarray:
    """The same without the centring."""
    x = np.nan_to_num(rows.double().numpy())
    r = np.where(rows.isnan().numpy(), 0.0, reference.double().numpy()[:, None])
    return (x * r).sum(0) / np.sqrt((x**2).sum(0) * (r**2).sum(0))


def streamed(
    rows: Tensor, reference: Tensor, *, window: int | None = None, precision: Any = "float32", **settings: Any
) -> Tensor:
    """The score of a bank that these rows were written to, computed in one pass over it."""
    bank = TrajectoryBank(rows.shape[1], window or len(rows), precision=precision)
    for epoch, losses in enumerate(rows):
        bank.store(epoch, losses)
    history = History(torch.cat([torch.tensor([NAN]), reference.double()]), (bank,))
    return Alignment(window=bank.window, precision=precision, **settings)(history)


def losses_like_training(seed: int, window: int, samples: int, gaps: float) -> tuple[Tensor, Tensor]:
    """Losses that fall with the reference, rise against it, or wander; NAN at gaps."""
    rng = np.random.default_rng(seed)
    reference = 0.5 + 2 * np.exp(-np.arange(window) / max(window / 3, 1)) + rng.normal(size=window) * 0.02
    slope = rng.uniform(-1, 2, size=samples)
    rows = 0.2 + np.abs(reference[:, None] * slope + rng.normal(size=(window, samples)) * 0.3)
    rows[rng.random(rows.shape) < gaps] = NAN
    return torch.from_numpy(rows.astype(np.float32)), torch.from_numpy(reference)


def worst_error(rows: Tensor, reference: Tensor, least: int = 3) -> float:
    ours = streamed(rows, reference, min_observations=least).double().numpy()
    seen = (~rows.isnan()).sum(0).numpy()
    assert np.array_equal(np.isnan(ours), seen < least)
    return float(np.abs(ours - float64_pearson(rows, reference))[seen >= least].max())


@pytest.mark.parametrize("window", [3, 5, 10, 25, 50])
@pytest.mark.parametrize("gaps", [0.0, 0.3, 0.7])
def test_the_streamed_score_is_the_exact_one_within_its_documented_error(window: int, gaps: float) -> None:
    for seed in range(4):
        rows, reference = losses_like_training(seed, window, 20_000, gaps)
        assert worst_error(rows, reference) < DOCUMENTED


@pytest.mark.parametrize("window", [10, 25, 50])
def test_the_streamed_score_is_exact_to_float32_where_the_sums_do_not_cancel(window: int) -> None:
    generator = torch.Generator().manual_seed(window)
    rows = torch.rand(window, 20_000, generator=generator) * torch.logspace(-2, 2, 20_000)
    reference = torch.randn(window, generator=generator).double()
    assert worst_error(rows, reference) < 3e-6


@given(
    seed=SEEDS,
    window=st.integers(3, 60),
    ratio=st.floats(1, 200),  # mean over standard deviation
    level=st.sampled_from([1e-2, 1.0, 1e3, 1e5]),
    seen=st.integers(3, 60),
)
@settings(max_examples=60, deadline=None)
def test_the_streamed_score_keeps_its_error_where_the_sums_cancel(
    seed: int, window: int, ratio: float, level: float, seen: int
) -> None:
    rng = np.random.default_rng(seed)
    rows = torch.from_numpy((np.abs(1 + rng.normal(size=(window, 2_000)) / ratio) * level).astype(np.float32))
    reference = torch.from_numpy(1 + rng.normal(size=window) / ratio)
    assert worst_error(rows, reference) < DOCUMENTED
    if seen < window:  # all of it was seen while the reference stood at another level than before
        rows[seen:] = NAN
        reference[seen:] -= 1
        assert worst_error(rows, reference) < DOCUMENTED


@pytest.mark.parametrize("offset", [1e3, 1e5])
@pytest.mark.parametrize("spread", [1e-2, 1.0])
def test_ill_conditioned_columns_are_scored_in_float64(offset: float, spread: float) -> None:
    rng = np.random.default_rng(0)
    rows, reference = losses_like_training(0, 25, 1_000, 0.2)
    odd = torch.arange(0, 1_000, 7)
    rows[:, odd] = torch.from_numpy((offset + spread * rng.normal(size=(25, len(odd)))).astype(np.float32))
    rows[3, odd] = NAN
    expected = float64_pearson(rows, reference)
    ours = streamed(rows, reference).numpy()
    varies = torch.from_numpy(np.var(np.delete(rows.double().numpy(), 3, axis=0), axis=0) > 1e-12)[odd].numpy()
    np.testing.assert_allclose(ours[odd][varies], expected[odd][varies], atol=2e-6)


@pytest.mark.parametrize("has_gaps", [False, True])
def test_zero_losses_and_tiny_ones_are_scored_as_by_the_exact_path(has_gaps: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(12, 600, generator=generator)
    rows[:, :100] = 0.0
    rows[:, 100:200] *= 1e-5
    rows[:, 200:300] *= 1e-7  # below the flat limit
    rows[6:, 300:400] = 0.0
    if has_gaps:
        rows[torch.rand(12, 600, generator=generator) < 0.3] = NAN
    reference = torch.linspace(3, 1, 12).double() ** 2
    ours = streamed(rows, reference).numpy()
    seen = (~rows.isnan()).sum(0).numpy()
    expected = float64_pearson(rows, reference)
    expected[seen < 3] = NAN
    np.testing.assert_allclose(ours, expected, atol=DOCUMENTED)
    assert (ours[:100][seen[:100] >= 3] == 0).all()


def test_columns_of_gaps_alone_have_no_score() -> None:
    rows, reference = losses_like_training(0, 10, 50, 0.0)
    rows[:, 10:20] = NAN
    rows[1:, 20:30] = NAN
    rows[2:, 30:40] = NAN
    for correlation in ("pearson", "cosine"):
        score = streamed(rows, reference, correlation=correlation)
        assert score.isnan().tolist() == [10 <= i < 40 for i in range(50)]
        score = streamed(rows, reference, correlation=correlation, min_observations=2)
        assert score.isnan().tolist() == [10 <= i < 30 for i in range(50)]


def test_fewer_epochs_than_the_fewest_observations_score_nobody() -> None:
    rows, reference = losses_like_training(0, 2, 50, 0.0)
    assert streamed(rows, reference, window=5, min_observations=3).isnan().all()
    assert not streamed(rows, reference, window=5, min_observations=2).isnan().any()


@pytest.mark.parametrize("has_gaps", [False, True])
def test_several_chunks_are_scored_as_one(has_gaps: bool) -> None:
    rows, reference = losses_like_training(0, 5, 140_000, 0.3 if has_gaps else 0.0)
    rows[:, ::9] += 2_000  # these need more than float32 sums, in every chunk
    if has_gaps:
        rows[1, 65_530:65_545] = NAN
    assert worst_error(rows, reference) < DOCUMENTED


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("gaps", [0.0, 0.4])
def test_a_half_precision_is_scored_as_the_losses_that_it_holds(precision: str, gaps: float) -> None:
    rows, reference = losses_like_training(0, 25, 70_000, gaps)  # more than a chunk
    rows[:, ::50] += 300  # and some that need more than float32 sums
    held = rows.to(getattr(torch, precision)).double()
    for ours, expected in (
        (streamed(rows, reference, precision=precision), float64_pearson(held, reference)),
        (streamed(rows, reference, precision=precision, correlation="cosine"), float64_cosine(held, reference)),
    ):
        np.testing.assert_allclose(ours.double().numpy(), expected, atol=DOCUMENTED)


@pytest.mark.parametrize("gaps", [0.0, 0.4])
def test_the_streamed_cosine_is_numpys(gaps: float) -> None:
    rows, reference = losses_like_training(0, 15, 300, gaps)
    ours = streamed(rows, reference, correlation="cosine", min_observations=2).numpy()
    np.testing.assert_allclose(ours, float64_cosine(rows, reference), atol=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1e6])
def test_the_scale_of_the_reference_does_not_matter(scale: float) -> None:
    rows, reference = losses_like_training(0, 25, 2_000, 0.3)
    assert worst_error(rows, reference * scale) < DOCUMENTED


def test_losses_near_the_end_of_float32_are_scored_as_well() -> None:
    rows = torch.rand(6, 50, generator=torch.Generator().manual_seed(0)) * 1e25
    reference = torch.linspace(2, 1, 6).double()
    assert worst_error(rows, reference) < DOCUMENTED


def test_a_lower_matmul_precision_of_the_caller_does_not_reach_the_score() -> None:
    # The "medium" that many training scripts set lets a CPU or an accelerator multiply in bfloat16 or TF32.
    rows, reference = losses_like_training(0, 25, 5_000, 0.3)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert worst_error(rows, reference) < DOCUMENTED
    finally:
        torch.set_float32_matmul_precision(before)


def test_autocast_of_the_caller_does_not_reach_the_score() -> None:
    rows, reference = losses_like_training(0, 25, 5_000, 0.3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert worst_error(rows, reference) < DOCUMENTED


def test_a_reference_that_stood_still_while_a_sample_was_seen_gives_it_no_trend() -> None:
    rows = torch.rand(8, 60, generator=torch.Generator().manual_seed(0))
    rows[:4, ::2] = NAN
    reference = torch.tensor([9.0, 7, 5, 3, 2, 2, 2, 2]).double()
    neutral, exempt = (streamed(rows, reference, flat=rule) for rule in ("zero", "exempt"))
    assert (neutral[::2] == 0).all()
    assert exempt.isnan().tolist() == [sample % 2 == 0 for sample in range(60)]


@pytest.mark.parametrize("window", [13, 14, 26, 27, 40, 53])
def test_gaps_are_told_from_losses_in_windows_of_any_length(window: int) -> None:
    rows, reference = losses_like_training(window, window, 400, 0.4)
    rows[::2, :50] = 0.0  # true losses of zero
    assert worst_error(rows, reference) < DOCUMENTED


def test_streamed_scores_never_leave_the_interval_of_a_correlation() -> None:
    reference = torch.rand(25, generator=torch.Generator().manual_seed(0))
    trajectories = reference.unsqueeze(1) * torch.logspace(-3, 6, 500) + 0.1
    for correlation in ("pearson", "cosine"):
        assert streamed(trajectories, reference, correlation=correlation).abs().max() <= 1


def test_a_flat_trajectory_is_neutral_or_exempt() -> None:
    rows = torch.tensor([[0.5, 0.0, 1.0, 1e-8], [0.5, 0.0, 2.0, 2e-8], [0.5, 0.0, 4.0, 3e-8]])
    reference = torch.tensor([3.0, 2.0, 1.0])
    expected = float(float64_pearson(rows, reference)[2])
    assert streamed(rows, reference, flat="zero").tolist() == pytest.approx([0, 0, expected, 0])
    assert streamed(rows, reference, flat="exempt").tolist() == pytest.approx([NAN, NAN, expected, NAN], nan_ok=True)


def test_a_flat_reference_leaves_every_sample_neutral() -> None:
    rows, reference = torch.rand(5, 7, generator=torch.Generator().manual_seed(0)), torch.full((5,), 2.5)
    assert streamed(rows, reference).tolist() == [0] * 7
    assert streamed(rows, reference, flat="exempt").isnan().all()


def test_the_tables_of_a_bank_are_left_as_they_were() -> None:
    rows, reference = losses_like_training(0, 12, 300, 0.4)
    bank = TrajectoryBank(300, 12)
    for epoch, losses in enumerate(rows):
        bank.store(epoch, losses)
    before = [bank.rows.clone(), bank.squares.clone(), bank.seen.clone(), reference.clone()]
    for correlation in ("pearson", "cosine"):
        streamed_alignment_score(bank.rows, bank.squares, bank.seen, reference, correlation=correlation)  # type: ignore[arg-type]
    for table, old in zip([bank.rows, bank.squares, bank.seen, reference], before, strict=True):
        assert torch.equal(table, old)

"""Suspicion by epoch equals slow loops over each sample's losses."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from alignprune.alignment import dynamic_alignment_score
from alignprune.bench.files import save_arrays
from alignprune.bench.results import suspicion
from alignprune.bench.results.suspicion import STATISTICS, History
from alignprune.bench.run.trace import KIND

EPOCHS, SAMPLES = 30, 40
COMBINED = "rank of mean loss + rank of alignment since the start"


def history(with_reference: bool = True) -> History:
    """Random losses with gaps; sample 0 is never seen, sample 1 in two epochs only, sample 2 always with one loss."""
    rng = np.random.default_rng(0)
    losses = rng.gamma(1.0, 1.0, (EPOCHS, SAMPLES))
    losses[rng.random(losses.shape) < 0.3] = np.nan
    losses[:, 0] = np.nan
    losses[:, 1] = [0.5, 0.7] + [np.nan] * (EPOCHS - 2)
    losses[:, 2] = 0.25
    margins = np.where(np.isnan(losses), np.nan, rng.normal(size=losses.shape))
    reference = np.linspace(2, 1, EPOCHS) + rng.normal(size=EPOCHS) / 5
    reference[4] = np.nan
    return History(losses, margins, reference if with_reference else None, rng.random(SAMPLES) < 0.4)


def known(values: NDArray[np.float64]) -> list[float]:
    return [value for value in values.tolist() if not math.isnan(value)]


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def exponential(losses: list[float]) -> float:
    weights = [0.9**age for age in reversed(range(len(losses)))]
    return float(np.average(losses, weights=weights)) if losses else math.nan


def misalignment(losses: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    both = ~np.isnan(losses + reference)
    if both.sum() < 3:
        return math.nan
    return 0.0 if np.ptp(losses[both]) == 0 else -float(scipy.stats.pearsonr(losses[both], reference[both]).statistic)


# What each statistic is of one sample, from its losses, its margins and the reference up to the epoch.
BY_HAND: dict[str, Callable[..., float]] = {
    "last loss": lambda losses, margins, reference: known(losses)[-1] if known(losses) else math.nan,
    "mean loss, window 5": lambda losses, margins, reference: mean(known(losses[-5:])),
    "mean loss since the start": lambda losses, margins, reference: mean(known(losses)),
    "exponential mean, 0.9": lambda losses, margins, reference: exponential(known(losses)),
    "share of wrong events": lambda losses, margins, reference: mean([math.exp(-x) < 0.5 for x in known(losses)]),
    "mean error probability": lambda losses, margins, reference: mean([1 - math.exp(-x) for x in known(losses)]),
    "area under the margin": lambda losses, margins, reference: -mean(known(margins)),
    "alignment, window 25": lambda losses, margins, reference: misalignment(losses[-25:], reference[-25:]),
    "alignment since the start": lambda losses, margins, reference: misalignment(losses, reference),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_statistics_are_those_of_each_samples_losses_so_far(name: str) -> None:
    run = history()
    assert run.reference is not None
    rows = list(STATISTICS[name].by_epoch(run))
    assert len(rows) == EPOCHS
    for end in range(1, EPOCHS + 1):
        columns = zip(run.losses[:end].T, run.margins[:end].T, strict=True)
        expected = [BY_HAND[name](losses, margins, run.reference[:end]) for losses, margins in columns]
        np.testing.assert_allclose(rows[end - 1], expected, rtol=1e-6, atol=1e-6)


def test_the_alignment_since_the_start_is_the_librarys_score_of_the_whole_trajectory() -> None:
    run = history()
    assert run.reference is not None
    losses, reference = torch.from_numpy(run.losses), torch.from_numpy(run.reference)
    for end, row in enumerate(STATISTICS["alignment since the start"].by_epoch(run), 1):
        np.testing.assert_allclose(row, -dynamic_alignment_score(losses[:end], reference[:end]).numpy(), atol=1e-6)


def rank(value: float, among: NDArray[np.float64]) -> float:
    """From 1, equal values share their mean rank."""
    return float((among < value).sum() + ((among == value).sum() + 1) / 2)


def test_the_combination_is_the_mean_of_two_ranks_among_the_samples_that_have_both() -> None:
    run = history()
    names = ("mean loss since the start", "alignment since the start", COMBINED)
    for loss, alignment, combined in zip(*(STATISTICS[name].by_epoch(run) for name in names), strict=True):
        both = ~np.isnan(loss) & ~np.isnan(alignment)
        for sample in range(SAMPLES):
            ranks = [rank(values[sample], values[both]) for values in (loss, alignment)]
            expected = sum(ranks) / 2 if both[sample] else math.nan
            assert combined[sample] == pytest.approx(expected, nan_ok=True)


def test_every_statistic_finds_wrong_labels_that_are_learned_late() -> None:
    epochs = np.arange(20.0)[:, None]
    is_noisy = np.arange(50) < 20
    jitter = np.random.default_rng(2).normal(size=(20, 50)) / 50
    losses = np.where(is_noisy, 2.5 + epochs / 20, 2.5 * np.exp(-epochs / 5)) + jitter
    run = History(losses, -losses, losses[:, -1] + 0.1, is_noisy)
    found = {name: list(statistic.by_epoch(run)) for name, statistic in STATISTICS.items()}
    areas = {name: roc_auc_score(is_noisy, rows[-1]) for name, rows in found.items()}
    assert areas == dict.fromkeys(STATISTICS, pytest.approx(1.0))
    assert np.isnan(found["alignment since the start"][:2]).all()  # fewer than three observations


def test_without_a_reference_there_is_no_alignment() -> None:
    run = history(with_reference=False)
    for name, statistic in STATISTICS.items():
        assert statistic.needs_reference == ("alignment" in name)
        if not statistic.needs_reference:
            assert len(list(statistic.by_epoch(run))) == EPOCHS
            continue
        with pytest.raises(ValueError, match="reference=None, but alignment needs one"):
            list(statistic.by_epoch(run))


def save(path: Path, run: History, **changes: NDArray[np.float64] | None) -> Path:
    reference = np.full(EPOCHS, np.nan) if run.reference is None else run.reference
    arrays = {"losses": run.losses, "margins": run.margins, "reference": reference, "is_noisy": run.is_noisy, **changes}
    save_arrays(path, KIND, **{name: values for name, values in arrays.items() if values is not None})
    return path


def test_a_stored_trace_is_read_back(tmp_path: Path) -> None:
    run = history()
    half = run.losses.astype(np.float16)
    found = suspicion.load(save(tmp_path / "trace.npz", run, losses=half))
    np.testing.assert_array_equal(found.losses, half.astype(np.float32))
    np.testing.assert_array_equal(found.is_noisy, run.is_noisy)
    assert found.reference is not None
    assert run.reference is not None
    np.testing.assert_allclose(found.reference, run.reference, rtol=1e-6)
    assert suspicion.load(save(tmp_path / "trace.npz", history(with_reference=False))).reference is None


def test_what_is_no_trace_of_a_run_with_known_noise_is_refused(tmp_path: Path) -> None:
    run = history()
    with pytest.raises(FileNotFoundError, match="trace.npz' is not there, .* train the run with --trace"):
        suspicion.load(tmp_path / "trace.npz")
    with pytest.raises(ValueError, match=r"without the array 'margins' \(it holds losses, reference, is_noisy\)"):
        suspicion.load(save(tmp_path / "a.npz", run, margins=None))
    with pytest.raises(ValueError, match="without the array 'is_noisy', expected .* whose wrong labels are known"):
        suspicion.load(save(tmp_path / "b.npz", run, is_noisy=None))
    with pytest.raises(ValueError, match=r"margins has shape \(29, 40\), expected \(30, 40\)"):
        suspicion.load(save(tmp_path / "c.npz", run, margins=run.margins[1:]))
    with pytest.raises(ValueError, match="all labels are right, expected both kinds"):
        suspicion.load(save(tmp_path / "d.npz", run, is_noisy=np.zeros(SAMPLES, dtype=bool)))

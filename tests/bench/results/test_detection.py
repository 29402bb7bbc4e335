"""How well a ranking finds wrong labels, against scikit-learn and counts by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from alignprune.bench.results.detection import BINS, Ranking, average_precision, calibration_error, judge

NAN = math.nan
WRONG = np.array([True, False, True, False, False, True, False, False])


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_is_scikit_learns(ties: bool) -> None:
    rng = np.random.default_rng(0)
    wrong = rng.random(500) < 0.2
    suspicion = rng.normal(size=500) + wrong
    suspicion = suspicion.round() if ties else suspicion
    assert average_precision(suspicion, wrong) == pytest.approx(average_precision_score(wrong, suspicion))


def test_a_constant_ranking_has_the_share_of_wrong_labels_as_its_precision() -> None:
    assert average_precision(np.zeros(8), WRONG) == pytest.approx(3 / 8)


def test_samples_without_a_suspicion_come_last() -> None:
    known = np.array([3.0, 2.0, NAN, 1.0, NAN, 4.0, 0.5, NAN])
    found = judge("some", Ranking(known), WRONG)
    last = np.where(np.isnan(known), -9.0, known)
    assert found.ranked_share == 5 / 8
    assert found.auroc == pytest.approx(roc_auc_score(WRONG, last))
    assert found.average_precision == pytest.approx(average_precision_score(WRONG, last))


def test_a_ranking_that_knows_nothing_ranks_by_chance() -> None:
    found = judge("none", Ranking(np.full(8, NAN), is_probability=True), WRONG)
    assert (found.ranked_share, found.auroc, found.average_precision) == (0.0, 0.5, pytest.approx(3 / 8))
    assert found.calibration_error is not None
    assert math.isnan(found.calibration_error)


def test_samples_that_are_endlessly_suspect_come_first() -> None:
    assert judge("all", Ranking(np.where(WRONG, math.inf, 1.0)), WRONG).average_precision == 1.0


def test_the_calibration_error_is_the_mean_gap_of_equal_groups() -> None:
    rng = np.random.default_rng(1)
    p = rng.random(BINS * 40)
    wrong = rng.random(len(p)) < p**2
    order = np.argsort(p)
    groups = [order[start : start + 40] for start in range(0, len(p), 40)]
    expected = np.mean([abs(p[group].mean() - wrong[group].mean()) for group in groups])
    assert calibration_error(p, wrong) == pytest.approx(expected, abs=0.01)  # an edge may fall one sample off
    assert calibration_error(p, rng.random(len(p)) < p) < expected / 2


def test_equal_probabilities_are_one_group_in_any_order() -> None:
    p = np.repeat([0.2, 0.9], [80, 20])
    wrong = np.arange(100) % 4 == 0
    assert calibration_error(p, wrong) == pytest.approx((80 * abs(0.2 - 0.25) + 20 * abs(0.9 - 0.25)) / 100)
    mixed = np.random.default_rng(2).permutation(100)
    assert calibration_error(p[mixed], wrong[mixed]) == pytest.approx(calibration_error(p, wrong))
    unknown = np.append(p, NAN)
    assert calibration_error(unknown, np.append(wrong, True)) == pytest.approx(calibration_error(p, wrong))


def test_flagged_samples_and_the_estimated_rate_are_compared_with_the_truth() -> None:
    flagged = np.array([True, True, False, False, False, True, True, False])
    found = judge("flags", Ranking(np.arange(8.0), flagged=flagged, noise_rate=0.25), WRONG)
    assert found.flagged_precision == pytest.approx(2 / 4)
    assert found.flagged_recall == pytest.approx(2 / 3)
    assert found.flagged_rate_error == pytest.approx(4 / 8 - 3 / 8)
    assert found.estimated_rate_error == pytest.approx(0.25 - 3 / 8)
    assert found.calibration_error is None


def test_who_flags_nobody_has_no_precision() -> None:
    silent = judge("silent", Ranking(np.arange(8.0), flagged=np.zeros(8, dtype=bool)), WRONG)
    assert (silent.flagged_precision, silent.flagged_recall) == (None, 0.0)
    without = judge("without", Ranking(np.arange(8.0)), WRONG)
    assert (without.flagged_precision, without.flagged_recall, without.flagged_rate_error) == (None, None, None)
    assert without.estimated_rate_error is None


def test_what_is_no_ranking_is_refused() -> None:
    with pytest.raises(ValueError, match=r"suspicion has shape \(2, 2\), expected \[N\]"):
        Ranking(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="reaches from 0 to 7, expected .*is_probability=True"):
        Ranking(np.arange(8.0), is_probability=True)
    with pytest.raises(ValueError, match=r"flagged is int64 \(8,\), expected bool \(8,\)"):
        Ranking(np.arange(8.0), flagged=np.arange(8))
    for truth in (np.zeros(8, dtype=bool), np.ones(8, dtype=bool), WRONG[:5]):
        with pytest.raises(ValueError, match="is_noisy has shape .* with right and wrong ones"):
            judge("some", Ranking(np.arange(8.0)), truth)

"""Diagnosis against the truth: kept noise and AUROC equal their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from alignprune.bench.run.diagnosis import LatestLosses, auroc, kept_noise, noise_auroc
from alignprune.bench.run.record import mean_of_known
from alignprune.scores import Alignment, Loss
from alignprune.selection import Selection


def test_auroc_is_the_share_of_pairs_in_the_right_order() -> None:
    generator = torch.Generator().manual_seed(0)
    values, noisy = torch.rand(60, generator=generator), torch.rand(60, generator=generator) < 0.4
    values[:5] = math.nan
    known = ~values.isnan()
    pairs = [(a, b) for a in values[known & noisy].tolist() for b in values[known & ~noisy].tolist()]
    high = sum(a > b for a, b in pairs) / len(pairs)
    assert abs(noise_auroc(Loss(), values, noisy) - high) < 1e-9
    assert abs(noise_auroc(Alignment(), values, noisy) - (1 - high)) < 1e-9


def test_the_area_is_scikit_learns_over_the_samples_with_a_value() -> None:
    rng = np.random.default_rng(1)
    values, is_noisy = rng.integers(0, 9, 200).astype(float), rng.random(200) < 0.3  # with ties
    values[:20] = np.nan
    assert auroc(values, is_noisy) == pytest.approx(roc_auc_score(is_noisy[20:], values[20:]))
    assert math.isnan(auroc(np.where(is_noisy, np.nan, values), is_noisy))


def test_auroc_is_unknown_without_scores_or_with_one_kind_of_label() -> None:
    assert math.isnan(noise_auroc(Loss(), torch.full((4,), math.nan), torch.tensor([True, False, True, False])))
    assert math.isnan(noise_auroc(Loss(), torch.rand(4), torch.zeros(4, dtype=torch.bool)))


def test_kept_noise_counts_the_kept() -> None:
    selection = Selection(torch.tensor([0, 2, 3, 5]), None, 6)
    assert kept_noise(selection, torch.tensor([True, True, True, False, True, False])) == 0.5
    assert mean_of_known([math.nan, 1.0, 3.0]) == 2.0


def test_kept_noise_leaves_out_what_is_only_looked_at() -> None:
    wrong = torch.tensor([True, False, True, True, False, True])
    selection = Selection(torch.tensor([0, 1, 3, 4, 5]), torch.tensor([1.25, 1.25, 0.0, 1.25, 0.0]), 6)
    assert kept_noise(selection, wrong) == pytest.approx(1 / 3)  # 0, 1 and 4 are trained on


def test_the_latest_losses_stay_while_a_sample_is_left_out() -> None:
    latest = LatestLosses(4)
    latest.write(torch.tensor([2, 0]), torch.tensor([1.5, 0.5], dtype=torch.float64, requires_grad=True))
    latest.write(torch.tensor([1]), torch.tensor([2.5]))
    assert latest.end_epoch().nan_to_num(-1).tolist() == [0.5, 2.5, 1.5, -1]
    latest.write(torch.tensor([1, 0]), torch.tensor([0.25, math.inf]))  # what is not finite counts as not seen
    assert latest.end_epoch().nan_to_num(-1).tolist() == [0.5, 0.25, 1.5, -1]

"""GCE, label smoothing and SCE, which keep nothing of the samples, against loops over the classes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from alignprune.losses import GCESettings, LossSettings, SCESettings, SmoothingSettings
from loss_batches import NOISY, C, N, accuracy_with, batch, plain_accuracy, softmax


def gce(p: list[float], label: int, q: float) -> float:
    return float((1 - p[label] ** q) / q)


def smoothed(p: list[float], label: int, rate: float) -> float:
    soft = [(1 - rate) * (c == label) + rate / C for c in range(C)]
    return -sum(soft[c] * math.log(p[c]) for c in range(C))


def symmetric(p: list[float], label: int, alpha: float, beta: float) -> float:
    bounded = [max(float(c == label), 1e-4) for c in range(C)]
    return -alpha * math.log(p[label]) - beta * sum(p[c] * math.log(bounded[c]) for c in range(C))


CASES: list[tuple[LossSettings, Callable[[list[float], int], float]]] = [
    (GCESettings(0.7), lambda p, y: gce(p, y, 0.7)),
    (GCESettings(1), lambda p, y: 1 - p[y]),
    (GCESettings(0.01), lambda p, y: gce(p, y, 0.01)),
    (SmoothingSettings(0.6), lambda p, y: smoothed(p, y, 0.6)),
    (SmoothingSettings(0.0), lambda p, y: -math.log(p[y])),
    (SmoothingSettings(-2), lambda p, y: smoothed(p, y, -2)),
    (SCESettings(0.1, 1), lambda p, y: symmetric(p, y, 0.1, 1)),
    (SCESettings(6, 0.1), lambda p, y: symmetric(p, y, 6, 0.1)),
]


@pytest.mark.parametrize("settings, expected", CASES)
def test_losses_are_those_of_the_equation(
    settings: LossSettings, expected: Callable[[list[float], int], float]
) -> None:
    index, labels, logits, _ = batch()
    out = settings.make(N, C)(index, labels, logits)
    by_hand = [expected(softmax(row), label) for row, label in zip(logits, labels.tolist(), strict=True)]
    assert out.losses.tolist() == pytest.approx(by_hand, rel=1e-9)
    assert out.extra.item() == 0


@pytest.mark.parametrize("settings", [case[0] for case in CASES])
def test_gradients_are_those_of_finite_differences(settings: LossSettings) -> None:
    index, labels, logits, _ = batch(size=5)
    loss = settings.make(N, C)
    assert torch.autograd.gradcheck(lambda z: loss(index, labels, z).losses, logits.requires_grad_())


@pytest.mark.parametrize("settings", [case[0] for case in CASES])
def test_a_label_that_the_network_rules_out_has_a_finite_loss_and_gradient(settings: LossSettings) -> None:
    logits = torch.tensor([[0.0, 200.0, 0.0], [200.0, 0.0, 0.0]], requires_grad=True)
    out = settings.make(2, 3)(torch.arange(2), torch.tensor([0, 0]), logits)
    (gradient,) = torch.autograd.grad(out.losses.sum(), logits)
    assert out.losses.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("q", [0.3, 0.7, 1.0])
def test_gce_pulls_by_what_cross_entropy_pulls_times_a_power_of_the_probability(q: float) -> None:
    index, labels, logits, _ = batch()
    logits.requires_grad_()
    (ours,) = torch.autograd.grad(GCESettings(q).make(N, C)(index, labels, logits).losses.sum(), logits)
    (plain,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), logits)
    weight = logits.softmax(1).gather(1, labels[:, None]) ** q
    torch.testing.assert_close(ours, weight * plain)


def test_gce_learns_the_clean_classes_from_labels_that_are_40_percent_wrong() -> None:
    assert accuracy_with(GCESettings(0.7).make(NOISY, 4)) > plain_accuracy() + 0.15  # measured: 0.76 and 0.50


def test_positive_rates_are_torchs_label_smoothing() -> None:
    index, labels, logits, _ = batch()
    ours = SmoothingSettings(0.3).make(N, C)(index, labels, logits).losses
    torch.testing.assert_close(ours, F.cross_entropy(logits, labels, reduction="none", label_smoothing=0.3))


def test_a_negative_rate_has_no_lower_bound() -> None:
    label = torch.tensor([0])
    values = []
    for sure in (1.0, 10.0, 100.0):
        logits = torch.tensor([[sure, 0.0, 0.0]])
        values.append(SmoothingSettings(-0.2).make(1, 3)(label, label, logits).losses.item())
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(-0.2 * 100 * 2 / 3, rel=1e-4)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: GCESettings(0.0), r"q=0.0 is out of range, expected a number in \[0.01, 1\]"),
        (lambda: GCESettings(1.1), "q=1.1 is out of range"),
        (lambda: SmoothingSettings(1.0), r"rate=1.0 is out of range, expected a number in \(-inf, 1\)"),
        (lambda: SmoothingSettings(-math.inf), "rate=-inf is out of range"),
        (lambda: SCESettings(-1, 1), "alpha=-1 is out of range"),
        (lambda: SCESettings(1, math.nan), "beta=nan is out of range"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], LossSettings], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

"""ELR against a loop over samples and classes, and how its targets live with pruning, half precision and lost steps."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import alignprune as ap
from alignprune.losses import ELR, ELRSettings
from loss_batches import NOISY, C, N, accuracy_with, batch, plain_accuracy, softmax

SETTINGS = ELRSettings(beta=0.7, weight=3.0)


def slow_step(targets: list[list[float]], index: Tensor, labels: Tensor, logits: Tensor) -> list[float]:
    """The losses of section 4, a sample and a class at a time; the targets are moved."""
    losses = []
    for i, label, z in zip(index.tolist(), labels.tolist(), logits.double(), strict=True):
        exact = softmax(z)
        p = [min(max(value, 1e-4), 1 - 1e-4) for value in exact]
        for c in range(C):
            targets[i][c] = SETTINGS.beta * targets[i][c] + (1 - SETTINGS.beta) * p[c] / sum(p)
        agreement = sum(p[c] * targets[i][c] for c in range(C))
        losses.append(-math.log(exact[label]) + SETTINGS.weight * math.log(1 - agreement))
    return losses


def test_losses_and_targets_are_those_of_the_equations_step_after_step() -> None:
    elr, targets = ELR(N, C, SETTINGS).double(), [[0.0] * C for _ in range(N)]
    for seed in range(4):
        index, labels, logits, _ = batch(seed=seed)
        out = elr(index, labels, logits)
        assert out.losses.tolist() == pytest.approx(slow_step(targets, index, labels, logits), rel=1e-9)
        assert out.extra.item() == 0
        torch.testing.assert_close(elr.targets, torch.tensor(targets, dtype=torch.float64))


def test_the_gradient_flows_through_the_prediction_alone() -> None:
    elr = ELR(N, C, SETTINGS).double()
    elr(*batch(seed=1)[:3])
    index, labels, logits, _ = batch()
    logits = (logits / 4).requires_grad_()  # no probability at a bound, where the gradient is cut
    (gradient,) = torch.autograd.grad(elr(index, labels, logits).losses.sum(), logits)
    p, t = logits.detach().softmax(1), elr.targets[index]
    # by hand: dCE/dz = p - y; d log(1 - <p, t>)/dz = -p (t - <p, t>) / (1 - <p, t>)
    agreement = (p * t).sum(1, keepdim=True)
    expected = p - F.one_hot(labels, C) - 3.0 * p * (t - agreement) / (1 - agreement)
    torch.testing.assert_close(gradient, expected)


def test_the_first_step_of_an_unsure_network_is_nearly_plain_cross_entropy() -> None:
    out = ELR(N, C, SETTINGS)(torch.arange(2), torch.tensor([1, 2]), torch.zeros(2, C))
    assert out.losses.tolist() == pytest.approx([math.log(C) + 3 * math.log(1 - 0.3 / C)] * 2, rel=1e-6)


def test_the_target_of_a_pruned_sample_does_not_decay() -> None:
    elr, index = ELR(N, C, SETTINGS), torch.arange(N)
    pruner = ap.Pruner.from_preset("dynamic-random", num_samples=N, epochs=6)
    for epoch in range(5):
        seen = torch.tensor(list(pruner.sampler))
        before, logits = elr.targets.clone(), torch.randn(N, C, generator=torch.Generator().manual_seed(epoch))
        out = elr(seen, seen % C, logits[seen])
        pruner.reduce(seen, out.losses, record=out.recorded)
        pruner.end_epoch()
        pruned = [i for i in index.tolist() if i not in seen.tolist()]
        assert len(pruned) == 12
        assert torch.equal(elr.targets[pruned], before[pruned])
        assert (elr.targets[seen] != before[seen]).any(1).all()


def test_a_loss_that_is_not_finite_leaves_the_target_and_shows() -> None:
    elr = ELR(N, C, SETTINGS)
    index, labels, logits, _ = batch(dtype=torch.float32)
    elr(index, labels, logits)
    before, lost = elr.targets.clone(), logits.clone()
    lost[3, 2], lost[5, 0] = math.nan, math.inf
    out = elr(index, labels, lost)
    assert out.losses.isfinite().logical_not().nonzero().squeeze(1).tolist() == [3, 5]
    assert torch.equal(elr.targets[index[[3, 5]]], before[index[[3, 5]]])
    assert elr.targets.isfinite().all()
    assert (elr.targets[index[4]] != before[index[4]]).any()


def test_targets_in_float16_are_half_the_size_and_near_those_in_float32() -> None:
    half, full = ELR(N, C, replace(SETTINGS, targets="float16")), ELR(N, C, SETTINGS)
    assert (half.targets.nbytes, full.targets.nbytes) == (2 * N * C, 4 * N * C)
    for seed in range(20):
        index, labels, logits, _ = batch(seed=seed, dtype=torch.float32)
        losses = [elr(index, labels, logits).losses for elr in (half, full)]
        torch.testing.assert_close(*losses, rtol=0, atol=0.2)  # log(1 - <p, t>) is steep where both are sure
        assert losses[0].isfinite().all()
        torch.testing.assert_close(half.targets.float(), full.targets, rtol=0, atol=1e-3)  # 2^-12 / (1 - beta)


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("targets", ["float32", "float16"])
def test_the_loss_is_finite_where_the_network_has_been_sure_for_long(classes: int, targets: Any) -> None:
    elr = ELR(1, classes, ELRSettings(0.5, 3.0, targets))
    logits = torch.zeros(1, classes)
    logits[0, 1] = 100.0
    for _ in range(60):
        logits = logits.detach().requires_grad_()
        out = elr(torch.tensor([0]), torch.tensor([0]), logits)
        (gradient,) = torch.autograd.grad(out.losses.sum(), logits)
        assert out.losses.isfinite().all()
        assert gradient.isfinite().all()


def test_it_learns_the_clean_classes_from_labels_that_are_40_percent_wrong() -> None:
    elr = ELRSettings(beta=0.9, weight=7.0).make(NOISY, 4)
    assert accuracy_with(elr) > plain_accuracy() + 0.1  # measured: 0.69 and 0.50


@pytest.mark.parametrize("changes", [{"beta": 1.0}, {"beta": -0.1}, {"weight": -1}, {"weight": math.inf}])
def test_settings_out_of_range_are_refused(changes: dict[str, float]) -> None:
    (name,) = changes
    with pytest.raises(ValueError, match=f"{name}=.* is out of range"):
        replace(SETTINGS, **changes)  # type: ignore[arg-type]


def test_targets_of_another_type_are_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="targets='float_16' is unknown, expected one of .*did you mean 'float16'"):
        ELRSettings(0.7, 3, "float_16")  # type: ignore[arg-type]

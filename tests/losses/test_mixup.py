"""One loss a sample under mixup and CutMix, against a loop over the mixed items."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import alignprune as ap
from alignprune.losses import mixup_losses

CLASSES = 4


def batch(size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, CLASSES, generator=g, dtype=torch.float64)
    return logits, torch.randint(CLASSES, (size,), generator=g), torch.randperm(size, generator=g)


@given(st.integers(1, 9), st.integers(0, 99), st.floats(0, 1), st.booleans())
def test_a_sample_gets_both_losses_that_judge_its_label(size: int, seed: int, lam: float, by_item: bool) -> None:
    logits, y, partner = batch(size, seed)
    share = torch.linspace(lam, 1, size, dtype=torch.float64) if by_item else lam
    first, second = (F.cross_entropy(logits, labels, reduction="none") for labels in (y, y[partner]))
    expected = [0.0] * size
    for item in range(size):
        log_p = logits[item].log_softmax(0)
        own = float(share[item]) if by_item else lam  # type: ignore[index]
        expected[item] -= own * float(log_p[y[item]])
        expected[int(partner[item])] -= (1 - own) * float(log_p[y[partner[item]]])
    assert mixup_losses(first, second, share, partner).tolist() == pytest.approx(expected, abs=1e-12)


def test_the_mean_and_its_gradient_are_those_of_plain_mixup() -> None:
    logits, y, partner = batch(8, 0)
    gradients = []
    for mixed in (False, True):
        out = logits.clone().requires_grad_()
        first, second = (F.cross_entropy(out, labels, reduction="none") for labels in (y, y[partner]))
        if mixed:
            pruner = ap.Pruner.from_preset("full", num_samples=8, epochs=2)
            loss = pruner.reduce(torch.arange(8), mixup_losses(first, second, 0.3, partner))
        else:
            loss = 0.3 * first.mean() + 0.7 * second.mean()
        loss.backward()
        assert out.grad is not None
        gradients.append((loss.item(), out.grad))
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-12)
    assert torch.allclose(gradients[0][1], gradients[1][1], rtol=1e-12)


def test_a_sample_with_a_wrong_label_is_ranked_by_its_own_label_not_by_its_partners() -> None:
    y, given = torch.arange(8) % CLASSES, torch.arange(8) % CLASSES
    given[3] = (given[3] + 1) % CLASSES
    pruner = ap.Pruner.from_preset("full", num_samples=8, epochs=9)
    for epoch in range(8):
        partner = torch.randperm(8, generator=torch.Generator().manual_seed(epoch))
        sure = 5.0 * (0.6 * F.one_hot(y, CLASSES) + 0.4 * F.one_hot(y[partner], CLASSES))  # sees what is mixed
        first, second = (F.cross_entropy(sure, labels, reduction="none") for labels in (given, given[partner]))
        pruner.reduce(torch.arange(8), mixup_losses(first, second, 0.6, partner))
        pruner.end_epoch()
        assert int(pruner.suspicion.argmax()) == 3


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"second": torch.ones(4)}, ValueError, r"first has shape \(5,\) and second \(4,\), expected \[B\] both"),
        ({"first": torch.ones(()), "second": torch.ones(())}, ValueError, r"first has shape \(\).*reduction='none'"),
        ({"partner": torch.ones(5)}, TypeError, "partner is torch.float32, expected integers"),
        ({"partner": torch.arange(4)}, ValueError, r"partner has shape \(4,\), expected \[5\]"),
        ({"lam": torch.ones(3)}, ValueError, r"lam has shape \(3,\), expected a number or \[5\]"),
    ],
)
def test_what_is_no_mixed_batch_is_refused(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"first": torch.ones(5), "second": torch.ones(5), "lam": 0.5, "partner": torch.arange(5)} | change
    with pytest.raises(error, match=message):
        mixup_losses(**arguments)

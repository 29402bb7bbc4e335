"""What a run learns from: plain cross-entropy and other losses, on one batch."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from alignprune.bench.run.batches import Batch
from alignprune.bench.run.objective import ChosenLoss, CrossEntropy
from alignprune.losses import LOSSES, SOP
from alignprune.selection import Selection


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(torch.randn(6, 3, generator=generator), torch.randn(6, 3, generator=generator), torch.arange(6) % 4)


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, smoothing: float) -> list[float]:
    """By hand: (1 - s) (-log p_y) + s mean over the classes of -log p."""
    logs = -logits.exp().div(logits.exp().sum(1, keepdim=True)).log()
    return [float((1 - smoothing) * row[y] + smoothing * row.mean()) for row, y in zip(logs, labels, strict=True)]


def test_cross_entropy_records_what_it_learns_from(batch: Batch) -> None:
    model = nn.Linear(3, 4)
    out = CrossEntropy(model, smoothing=0.1)(torch.arange(6), batch)
    assert out.losses.tolist() == pytest.approx(cross_entropy(model(batch.x).detach(), batch.y, 0.1), abs=1e-6)
    assert out.recorded is out.losses
    assert out.record is None


def test_plain_losses_can_be_recorded_beside_the_smoothed_ones_that_are_learned_from(batch: Batch) -> None:
    model = nn.Linear(3, 4)
    objective = CrossEntropy(model, smoothing=0.1, recorded=0.0)
    out = objective(torch.arange(6), batch)
    assert out.losses.tolist() == pytest.approx(cross_entropy(model(batch.x).detach(), batch.y, 0.1), abs=1e-6)
    assert out.recorded.tolist() == pytest.approx(cross_entropy(model(batch.x).detach(), batch.y, 0.0), abs=1e-6)
    assert out.losses.requires_grad
    assert not out.recorded.requires_grad
    torch.testing.assert_close(objective.look(batch)[0].detach(), out.recorded)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_records_plain_cross_entropy_of_the_first_view(name: str, batch: Batch) -> None:
    model, settings = nn.Linear(3, 4), LOSSES[name].settings
    if not settings.needs_strong:
        batch = replace(batch, strong=None)
    objective = ChosenLoss(model, settings.make(6, 4))
    out = objective(torch.arange(6), batch)
    assert out.recorded.tolist() == pytest.approx(cross_entropy(model(batch.x).detach(), batch.y, 0.0), abs=1e-6)
    objective.zero_grad()
    (out.losses.mean() + out.extra).backward()
    objective.step()
    objective.end_epoch()
    assert model.weight.grad is not None
    losses, _ = objective.look(batch)  # of samples that are only looked at
    torch.testing.assert_close(losses, out.recorded)


def test_what_is_learned_beside_the_network_moves_with_it(batch: Batch) -> None:
    objective = ChosenLoss(nn.Linear(3, 4), LOSSES["sop-cifar10n"].settings.make(6, 4))
    assert isinstance(objective.loss, SOP)
    before = objective.loss.v.detach().clone()
    out = objective(torch.arange(6), batch)
    objective.zero_grad()
    (out.losses.mean() + out.extra).backward()
    objective.step()
    assert not torch.equal(objective.loss.v, before)


def test_what_is_kept_of_the_samples_is_stored_and_read(batch: Batch) -> None:
    first, second = (ChosenLoss(nn.Linear(3, 4), LOSSES["elr-cifar10"].settings.make(6, 4)) for _ in range(2))
    first(torch.arange(6), replace(batch, strong=None))
    state = first.state_dict()
    assert state["targets"].sum(1).tolist() == pytest.approx([0.3] * 6)  # 1 - beta of a distribution each
    second.load_state_dict(state)
    assert torch.equal(second.state_dict()["targets"], state["targets"])


@pytest.mark.parametrize("memorises", [None, False, True])
def test_a_loss_rests_while_the_network_is_known_to_learn_nothing_by_heart(
    batch: Batch, memorises: bool | None
) -> None:
    model = nn.Linear(3, 4)
    objective = ChosenLoss(model, LOSSES["gce"].settings.make(6, 4))
    objective.begin_epoch(replace(Selection.full(6), memorises=memorises))
    out = objective(torch.arange(6), replace(batch, strong=None))
    plain = cross_entropy(model(batch.x).detach(), batch.y, 0.0)
    bounded = [(1 - math.exp(-0.7 * loss)) / 0.7 for loss in plain]  # q = 0.7
    assert out.losses.tolist() == pytest.approx(plain if memorises is False else bounded, abs=1e-6)
    assert out.recorded.tolist() == pytest.approx(plain, abs=1e-6)


def test_a_part_of_a_batch_keeps_samples_and_labels_together(batch: Batch) -> None:
    for chosen, expected in ((slice(2), [0, 1]), (torch.tensor([4, 1]), [4, 1])):
        part = batch.part(chosen)
        assert torch.equal(part.x, batch.x[expected])
        assert part.strong is not None
        assert batch.strong is not None
        assert torch.equal(part.strong, batch.strong[expected])
        assert torch.equal(part.y, batch.y[expected])

"""Loops of one's own with what stands in them beside the loss: accumulation, a scaler that skips steps, an average."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, StepLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import TensorDataset

import alignprune as ap

N, EPOCHS, BATCH = 103, 6, 10
X = torch.randn(N, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 3


def begun(lr: float = 0.3) -> tuple[nn.Module, torch.optim.Optimizer, ap.Pruner, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 3))
    pruner = ap.Pruner.from_preset("infobatch", num_samples=N, epochs=EPOCHS, delta=1.0)
    loader = pruner.loader(TensorDataset(X, Y), batch_size=BATCH)
    return model, torch.optim.SGD(model.parameters(), lr=lr), pruner, loader


def losses_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x), y, reduction="none")


def test_accumulated_gradients_end_with_the_epoch_and_so_does_the_schedule() -> None:
    model, optimizer, pruner, loader = begun()
    steps = pruner.planned_steps(BATCH, accumulate=4)
    scheduler = ap.PacedScheduler(CosineAnnealingLR(optimizer, steps), pruner, steps)
    taken, lengths = [], []
    for _ in range(EPOCHS):
        lengths.append(len(loader))
        taken.append(0)
        for number, (index, (x, y)) in enumerate(loader, 1):
            (pruner.reduce(index, losses_of(model, x, y)) / 4).backward()
            if number % 4 == 0 or number == len(loader):
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()
                taken[-1] += 1
        assert all(parameter.grad is None for parameter in model.parameters())
        pruner.end_epoch()
    assert taken == [math.ceil(length / 4) for length in lengths]
    assert any(length % 4 for length in lengths)
    assert sum(taken) < steps
    assert scheduler.get_last_lr() == [pytest.approx(0.0, abs=1e-12)]


def test_a_step_that_the_scaler_skips_is_recorded_and_leaves_the_schedule_right() -> None:
    model, optimizer, pruner, loader = begun(lr=0.02)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=10_000)  # too large at first
    steps = pruner.planned_steps(BATCH)
    scheduler = ap.PacedScheduler(CosineAnnealingLR(optimizer, steps), pruner, steps)
    skipped = 0
    for _ in range(EPOCHS):
        kept, plain = pruner.selection.indices, torch.full((N,), math.nan)
        for index, (x, y) in loader:
            losses = losses_of(model, x, y)
            plain[index] = losses.detach()
            optimizer.zero_grad()
            scaler.scale(16 * pruner.reduce(index, losses)).backward()
            before = scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            skipped += scaler.get_scale() < before
            if scaler.get_scale() >= before:
                scheduler.step()
        pruner.end_epoch()
        assert torch.equal(pruner.memory(ap.TrajectoryBank).losses[-1][kept], plain[kept])
    assert skipped > 0
    assert pruner.nonfinite == 0
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert scheduler.get_last_lr() == [pytest.approx(0.0, abs=1e-12)]


def test_an_average_of_the_weights_is_updated_with_every_step() -> None:
    model, optimizer, pruner, loader = begun()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    by_hand, updates = None, 0
    for _ in range(EPOCHS):
        for index, (x, y) in loader:
            optimizer.zero_grad()
            pruner.reduce(index, losses_of(model, x, y)).backward()
            optimizer.step()
            average.update_parameters(model)
            weight = next(model.parameters()).detach().clone()
            by_hand = weight if by_hand is None else 0.5 * by_hand + 0.5 * weight
            updates += 1
        pruner.end_epoch()
    assert by_hand is not None
    assert int(average.n_averaged) == updates
    torch.testing.assert_close(next(average.module.parameters()), by_hand)


@pytest.mark.parametrize("schedule", [lambda opt: StepLR(opt, 2), lambda opt: LinearLR(opt, total_iters=EPOCHS)])
def test_a_schedule_that_is_stepped_once_an_epoch_needs_nothing(schedule: Any) -> None:
    model, optimizer, pruner, loader = begun()
    scheduler, plain = schedule(optimizer), schedule(torch.optim.SGD(model.parameters(), lr=0.3))
    for _ in range(EPOCHS):
        for index, (x, y) in loader:
            optimizer.zero_grad()
            pruner.reduce(index, losses_of(model, x, y)).backward()
            optimizer.step()
        pruner.end_epoch()
        plain.optimizer.step()
        scheduler.step()
        plain.step()
        assert scheduler.get_last_lr() == plain.get_last_lr()


def test_a_schedule_of_steps_that_is_not_paced_stops_half_way() -> None:
    """What the page on loops warns of."""
    _, optimizer, pruner, loader = begun()
    steps = pruner.planned_steps(BATCH)
    scheduler = CosineAnnealingLR(optimizer, steps)
    for _ in range(EPOCHS):
        for index, (x, _) in loader:
            pruner.reduce(index, x.norm(dim=1))
            optimizer.step()
            scheduler.step()
        pruner.end_epoch()
    assert scheduler.get_last_lr()[0] > 0.003

"""Schedules that end with the training, against torch's own on a training of fixed length."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, OneCycleLR, ReduceLROnPlateau, SequentialLR

import alignprune as ap

SAMPLES, EPOCHS, BATCH = 103, 8, 10


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)


def make(preset: str = "infobatch", **settings: object) -> ap.Pruner:
    return ap.Pruner.from_preset(preset, num_samples=SAMPLES, epochs=EPOCHS, **settings)


def batches(pruner: ap.Pruner) -> list[torch.Tensor]:
    return list(torch.tensor(list(pruner.sampler)).split(BATCH))


def train(pruner: ap.Pruner, scheduler: object, stop_after: int | None = None) -> list[float]:
    """The learning rate after every step, to the end or for some steps."""
    rates: list[float] = []
    while pruner.epoch < EPOCHS:
        for index in batches(pruner):
            if stop_after is not None and len(rates) == stop_after:
                return rates
            pruner.reduce(index, index.float() / SAMPLES)
            scheduler.optimizer.step()  # type: ignore[attr-defined]
            scheduler.step()  # type: ignore[attr-defined]
            rates.append(scheduler.get_last_lr()[0])  # type: ignore[attr-defined]
        pruner.end_epoch()
    return rates


def schedules(kind: str, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    opt = optimizer()
    if kind == "one-cycle":
        return OneCycleLR(opt, 0.5, total_steps=steps)
    if kind == "cosine":
        return CosineAnnealingLR(opt, steps)
    warm = steps // 10
    return SequentialLR(
        opt, [LinearLR(opt, 0.1, total_iters=warm), CosineAnnealingLR(opt, steps - warm)], milestones=[warm]
    )


@pytest.mark.parametrize("kind", ["one-cycle", "cosine", "warm-up"])
def test_without_pruning_a_paced_schedule_is_the_schedule(kind: str) -> None:
    even = ap.Pruner.from_preset("full", num_samples=100, epochs=EPOCHS)  # whose batches are all of one size
    even_steps = even.planned_steps(BATCH)
    paced = ap.PacedScheduler(schedules(kind, even_steps), even, even_steps)
    plain = schedules(kind, even_steps)
    expected = []
    for _ in range(even_steps):
        plain.optimizer.step()
        plain.step()
        expected.append(plain.get_last_lr()[0])
    assert train(even, paced) == expected


@pytest.mark.parametrize("kind", ["one-cycle", "cosine", "warm-up"])
@pytest.mark.parametrize("preset", ["infobatch", "dynamic-random", "robust"])
def test_a_paced_schedule_ends_with_the_training_whatever_was_left_out(kind: str, preset: str) -> None:
    pruner = make(preset)
    steps = pruner.planned_steps(BATCH)
    paced = ap.PacedScheduler(schedules(kind, steps), pruner, steps)
    rates = train(pruner, paced)
    assert len(rates) < steps
    plain = schedules(kind, steps)
    for _ in range(steps):
        plain.optimizer.step()
        plain.step()
    assert paced.taken == steps
    assert rates[-1] == plain.get_last_lr()[0] < 1e-3


def test_the_schedule_stands_where_the_training_does() -> None:
    pruner = make()
    steps = pruner.planned_steps(BATCH)
    paced = ap.PacedScheduler(schedules("cosine", steps), pruner, steps)
    for epoch in range(EPOCHS):
        assert paced.taken == steps * epoch // EPOCHS
        length = len(pruner.sampler)
        done = 0
        for index in batches(pruner):
            pruner.reduce(index, index.float())
            done += len(index)
            paced.optimizer.step()
            paced.step()
            paced.step()  # as a trainer does that steps once a rank
            assert pruner.progress == Fraction(epoch * length + done, EPOCHS * length)
            assert paced.taken == paced.last_epoch == steps * (epoch * length + done) // (EPOCHS * length)
        pruner.end_epoch()
    assert pruner.progress == 1


@pytest.mark.parametrize("stop", [1, 17, 31])
def test_a_training_that_is_resumed_has_the_rates_of_one_that_is_not(stop: int) -> None:
    whole = make()
    steps = whole.planned_steps(BATCH)
    expected = train(whole, ap.PacedScheduler(schedules("one-cycle", steps), whole, steps))
    first = make()
    paced = ap.PacedScheduler(schedules("one-cycle", steps), first, steps)
    rates = train(first, paced, stop_after=stop)
    again = make()
    resumed = ap.PacedScheduler(schedules("one-cycle", steps), again, steps)
    resumed.load_state_dict(paced.state_dict())
    again.load_state_dict(first.state_dict())
    assert rates + train(again, resumed) == expected


@pytest.mark.parametrize(
    "batch_size, settings, a_epoch",
    [(10, {}, 11), (103, {}, 1), (1, {}, 103), (10, {"drop_last": True}, 10), (10, {"accumulate": 4}, 3)],
)
def test_planned_steps_are_those_of_a_training_that_leaves_nothing_out(
    batch_size: int, settings: dict[str, object], a_epoch: int
) -> None:
    assert make("robust").planned_steps(batch_size, **settings) == EPOCHS * a_epoch


def test_a_schedule_that_waits_for_a_metric_is_refused() -> None:
    pruner = make()
    with pytest.raises(TypeError, match="scheduler is ReduceLROnPlateau, expected one that is stepped without"):
        ap.PacedScheduler(ReduceLROnPlateau(optimizer()), pruner, 10)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="steps=0"):
        ap.PacedScheduler(schedules("cosine", 10), pruner, 0)
    with pytest.raises(ValueError, match="batch_size=0"):
        pruner.planned_steps(0)

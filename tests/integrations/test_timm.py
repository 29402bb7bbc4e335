"""timm: schedules of updates and of epochs, and the loader that its factory makes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import alignprune as ap

pytest.importorskip("timm", reason="timm is not installed")
from timm.data import create_loader
from timm.data.loader import PrefetchLoader
from timm.scheduler import create_scheduler_v2

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

N, EPOCHS, BATCH = 103, 6, 10


class Digits:
    """Images of one colour that is the sample's number, in timm's form: ``transform`` is set by the factory."""

    transform: Any = None

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(np.full((8, 8, 3), i, dtype=np.uint8))), i


def train(pruner: ap.Pruner, loader: Any, scheduler: Any, updates: int) -> list[float]:
    """Both calls that timm's loop makes; the learning rate after every update."""
    rates = []
    for epoch in range(EPOCHS):
        for index, _ in loader:
            pruner.reduce(index, index.float() / N)
            scheduler.optimizer.step()
            scheduler.step_update(int(pruner.progress * updates))
            rates.append(scheduler.optimizer.param_groups[0]["lr"])
        pruner.end_epoch()
        scheduler.step(epoch + 1)
    return rates


def trained(preset: str, *, on_epochs: bool) -> tuple[ap.Pruner, list[float]]:
    pruner = ap.Pruner.from_preset(preset, num_samples=N, epochs=EPOCHS, delta=1.0)
    loader = pruner.loader(torch.utils.data.TensorDataset(torch.arange(N)), batch_size=BATCH)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched="cosine",
        num_epochs=EPOCHS,
        warmup_epochs=1,
        warmup_lr=0.01,
        min_lr=0.001,
        step_on_epochs=on_epochs,
        updates_per_epoch=len(loader),
    )
    return pruner, train(pruner, loader, scheduler, EPOCHS * len(loader))


def cosine(share: float) -> float:
    """The learning rate at a share of the training: an epoch of warm-up, then a cosine to the smallest."""
    if share < 1 / EPOCHS:
        return 0.01 + (0.5 - 0.01) * share * EPOCHS
    return 0.001 + 0.5 * (0.5 - 0.001) * (1 + math.cos(math.pi * share)) if share < 1 else 0.001


def test_a_schedule_of_updates_follows_a_pruned_training_to_its_end() -> None:
    pruner, rates = trained("infobatch", on_epochs=False)
    updates = EPOCHS * math.ceil(N / BATCH)
    assert len(rates) < updates
    assert pruner.epoch == EPOCHS
    assert rates[-1] == pytest.approx(0.001)
    assert max(rates) > 0.4
    reached = [cosine(step / updates) for step in range(updates + 1)]
    assert all(any(rate == pytest.approx(one) for one in reached) for rate in rates)
    peak = rates.index(max(rates))
    assert all(one >= other for one, other in zip(rates[peak:], rates[peak + 1 :], strict=False))


def test_without_pruning_a_schedule_of_updates_is_timms_own() -> None:
    _, rates = trained("full", on_epochs=False)
    updates = EPOCHS * math.ceil(N / BATCH)
    assert len(rates) == updates
    own = [cosine(step / updates) for step in range(1, updates + 1)]
    # The last batch of an epoch is smaller, and what it adds to the progress with it: at most one update apart.
    for position, rate in enumerate(rates):
        near = own[max(position - 1, 0) : position + 2]
        assert min(near) - 1e-9 <= rate <= max(near) + 1e-9


def test_a_schedule_of_epochs_needs_nothing() -> None:
    pruner, rates = trained("infobatch", on_epochs=True)
    assert pruner.forward_passes < EPOCHS * N
    changes = [rate for position, rate in enumerate(rates) if position == 0 or rate != rates[position - 1]]
    assert changes == pytest.approx([cosine(epoch / EPOCHS) for epoch in range(EPOCHS)])


@pytest.mark.parametrize("drop_last", [False, True])
def test_the_pruners_loader_takes_over_what_timms_factory_has_set_up(drop_last: bool) -> None:
    data = Digits()
    made = create_loader(
        data,
        input_size=(3, 8, 8),
        batch_size=BATCH,
        is_training=True,
        no_aug=True,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        num_workers=0,
        persistent_workers=False,
        use_prefetcher=False,
        device=torch.device("cpu"),
    )
    pruner = ap.Pruner.from_preset("infobatch", num_samples=N, epochs=EPOCHS, delta=1.0)
    loader = pruner.loader(
        data,
        batch_size=BATCH,
        collate_fn=made.collate_fn,
        num_workers=made.num_workers,
        worker_init_fn=made.worker_init_fn,
        drop_last=drop_last,
    )
    for _ in range(EPOCHS):
        kept, read = pruner.selection.indices.tolist(), []
        for index, (x, y) in loader:
            assert torch.equal(y, index)
            assert torch.equal((x * 255).round().long()[:, 0, 0, 0], index)
            pruner.reduce(index, index.float())
            read += index.tolist()
        assert len(read) == (len(kept) // BATCH * BATCH if drop_last else len(kept))
        assert len(set(read)) == len(read)
        assert set(read) <= set(kept)
        pruner.end_epoch()


def test_timms_prefetcher_which_has_no_place_for_an_index_fails_at_once() -> None:
    pruner = ap.Pruner.from_preset("infobatch", num_samples=N, epochs=EPOCHS)
    data = Digits()
    data.transform = np.array
    with pytest.raises((AttributeError, RuntimeError)):
        next(iter(PrefetchLoader(pruner.loader(data, batch_size=BATCH), device=torch.device("cpu"))))

"""Small data, losses and pruners for the tests of the training loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import alignprune as ap

N = 60


def toy_set(n: int = N, seed: int = 0) -> TensorDataset:
    """Two linearly separable classes."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    x = torch.randn(n, 4, generator=generator) + 3.0 * (y[:, None] * 2 - 1)
    return TensorDataset(x, y)


def toy_model() -> nn.Linear:
    model = nn.Linear(4, 2)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.zero_()
    return model


def loss_table(epochs: int, n: int = N, seed: int = 0) -> Tensor:
    """Synthetic losses [epochs, n]: random, positive, a function of (epoch, index) alone."""
    return torch.rand(epochs, n, generator=torch.Generator().manual_seed(seed)) + 0.1


def infobatch(n: int = N, epochs: int = 10, **settings: Any) -> ap.Pruner:
    return ap.Pruner(n, epochs, ap.scores.Loss(), ap.policies.InfoBatch(), **settings)


def batches(pruner: ap.Pruner, size: int = 8) -> Iterator[Tensor]:
    order = list(pruner.sampler)
    for start in range(0, len(order), size):
        yield torch.tensor(order[start : start + size])


def run_epoch(pruner: ap.Pruner, table: Tensor, reference: float | None = None, size: int = 8) -> int:
    """One epoch of synthetic losses; returns the samples that were read."""
    losses, count = table[pruner.epoch], 0
    for index in batches(pruner, size):
        pruner.reduce(index, losses[index])
        count += len(index)
    if pruner.score.needs_pruned and len(pruner.pruned_sampler):
        left_out = torch.tensor(list(pruner.pruned_sampler))
        pruner.record(left_out, losses[left_out])
    pruner.end_epoch(reference)
    return count


def pruning(epochs: int = 10, **settings: Any) -> ap.Pruner:
    """An InfoBatch pruner in its second epoch: some samples left out, some with weight 2."""
    pruner = infobatch(epochs=epochs, **settings)
    run_epoch(pruner, loss_table(1))
    assert 0 < len(pruner.selection) < N
    return pruner


SCORES = [ap.scores.Loss(), ap.scores.Alignment(window=4), ap.scores.SecondDifference(smoothing=1)]

"""What tests of losses share: a batch, probabilities by hand, and a training on labels of which 40 % are wrong."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor, nn

from alignprune.losses import SampleLoss, SmoothingSettings
from alignprune.noise import corrupt

N, C = 40, 6
"""Samples of the training set, and classes."""

NOISY = 600
"""Samples of the training set with wrong labels, of four classes."""


def batch(size: int = 30, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(index, labels, weak logits, strong logits); some probabilities lie below 1e-4."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.randperm(N, generator=generator)[:size]
    labels = torch.randint(C, (size,), generator=generator)
    weak, strong = (4 * torch.randn(2, size, C, generator=generator, dtype=torch.float64)).to(dtype).unbind()
    return index, labels, weak, strong


def softmax(logits: Tensor) -> list[float]:
    """The probabilities of one sample, by the exponential function."""
    powers = [math.exp(value) for value in logits.tolist()]
    return [power / sum(powers) for power in powers]


def accuracy_with(loss: SampleLoss) -> float:
    """On clean test samples, of a small network after 60 epochs of the noisy ones."""
    (x, _), (x_test, y_test), labels = _points(NOISY, seed=0), _points(1000, seed=1), _labels()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 4))
    beside = loss.make_optimizer()
    optimizers = [torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9), *([beside] if beside else [])]
    generator = torch.Generator().manual_seed(0)
    for _epoch in range(60):
        for index in torch.randperm(NOISY, generator=generator).split(32):
            out = loss(index, labels[index], network(x[index]))
            for optimizer in optimizers:
                optimizer.zero_grad()
            (out.losses.mean() + out.extra).backward()
            for optimizer in optimizers:
                optimizer.step()
    with torch.no_grad():
        return (network(x_test).argmax(1) == y_test).double().mean().item()


@cache
def plain_accuracy() -> float:
    """The same with plain cross-entropy."""
    return accuracy_with(SmoothingSettings(0.0).make(NOISY, 4))


def wrong_labels() -> Tensor:
    """Which of the noisy samples have a wrong label, bool [NOISY]."""
    return _labels() != _points(NOISY, seed=0)[1]


def _labels() -> Tensor:
    return corrupt(_points(NOISY, seed=0)[1], "symmetric", 0.4, 4, seed=0).labels


def _points(num_samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points in 20 dimensions and the class, of four, whose direction they follow by a margin."""
    directions = torch.randn(4, 20, generator=torch.Generator().manual_seed(99))
    x = torch.randn(4 * num_samples, 20, generator=torch.Generator().manual_seed(seed))
    values, classes = (x @ directions.T).topk(2)
    clear = (values[:, 0] - values[:, 1] > 1.0).nonzero().squeeze(1)[:num_samples]
    return x[clear], classes[clear, 0]

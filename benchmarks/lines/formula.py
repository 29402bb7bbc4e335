"""Trainings by formula: losses as a network would have them, for the cost of a few operations a sample.

A loss depends on the sample, the epoch and how often the sample was read, so it is the same on any number of ranks.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import alignprune as ap

CLASSES = 1_000
_BATCH = 1 << 18  # samples at a time, so that what is computed here takes no memory that counts


def selected(pruner: ap.Pruner) -> Iterator[Tensor]:
    """The epoch's samples in batches, ascending."""
    yield from pruner.selection.indices.split(_BATCH)


def sampled(pruner: ap.Pruner) -> Iterator[Tensor]:
    """This rank's samples in batches, in the order of its sampler."""
    length = pruner.sampler.epoch_length
    for start in range(0, length, _BATCH // 4):
        yield pruner.sampler.indices(start, start + _BATCH // 4)


class Training(ABC):
    """An epoch is read by `read` and closed by `end`."""

    def __init__(self, pruner: ap.Pruner) -> None:
        self.pruner = pruner

    def read(self) -> None:
        """Reduce every sample that this process is to read."""
        distributed = torch.distributed.is_initialized()
        for index in sampled(self.pruner) if distributed else selected(self.pruner):
            self.pruner.reduce(index, self.losses(index))

    def end(self) -> None:
        """What is measured."""
        self.pruner.end_epoch(4.6 * 0.95**self.pruner.epoch if self.pruner.needs_reference else None)

    def warm(self, epochs: int) -> None:
        """Whole epochs, after which all are alike."""
        for _ in range(epochs):
            self.read()
            self.end()

    @abstractmethod
    def losses(self, index: Tensor) -> Tensor:
        """The losses of a batch, float32 [B]."""


class Falling(Training):
    """Losses fall at every sample's own pace: for methods that compare trajectories."""

    @classmethod
    def begin(cls, method: str, samples: int, window: int, turns: int, **settings: Any) -> Falling:
        """A training whose window is full, and some epochs in which nothing changes any more."""
        epochs = window + turns + 3
        pruner = ap.Pruner.from_preset(method, num_samples=samples, epochs=epochs, delta=1.0, window=window, **settings)
        training = cls(pruner)
        training.warm(window + 1)
        return training

    def losses(self, index: Tensor) -> Tensor:
        return falling(index, self.pruner.epoch)


class Memorising(Training):
    """Wrong labels have high losses, and every exposure lowers a loss: for `robust`."""

    def __init__(self, pruner: ap.Pruner) -> None:
        super().__init__(pruner)
        self.exposures = torch.zeros(pruner.num_samples)

    @classmethod
    def begin(cls, samples: int, turns: int, **settings: Any) -> Memorising:
        """A training with labels after its onset: suspects are flagged, looked at, and their share is estimated."""
        labels = torch.randint(0, CLASSES, (samples,), generator=torch.Generator().manual_seed(1))
        pruner = ap.Pruner.from_preset(
            "robust", num_samples=samples, epochs=turns + 10, labels=labels, ramp=1, **settings
        )
        training = cls(pruner)
        training.warm(8)
        if pruner.suspects is None or pruner.noise_rate is None:
            raise RuntimeError(f"robust flags nobody after {pruner.epoch} epochs, expected suspects and a noise rate")
        return training

    def losses(self, index: Tensor) -> Tensor:
        level = torch.where(spread(index) < 0.3, 7.0, 3.0) * torch.exp(-0.2 * self.exposures[index])
        self.exposures[index] += 1
        return level + spread(index, self.pruner.epoch + 1)


def spread(index: Tensor, purpose: int = 0) -> Tensor:
    """A number a sample, even in [0, 1), and another one for every purpose, float32 [B]."""
    return (index.double() * (math.sqrt(2) + purpose * math.sqrt(3))).frac().float()


def falling(index: Tensor, epoch: int) -> Tensor:
    """Losses that fall from ln(100), with noise, float32 [B]."""
    return 4.6 * torch.exp(spread(index) * (-epoch / 10)) + 0.3 * spread(index, epoch + 1)

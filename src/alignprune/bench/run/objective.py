"""What a run learns from: from a batch to its losses, with whatever is learned beside the network.

An objective also says what is recorded of a sample, which is what trajectories are made of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignprune.bench.run.batches import Batch
from alignprune.losses import SampleLoss
from alignprune.selection import Selection


@dataclass(frozen=True)
class Outcome:
    """What an objective makes of a batch of B samples.

    Attributes:
        losses: float [B], with gradient, to be averaged.
        record: float [B], the losses to rank by where they are other ones; None where they are the same.
        extra: scalar, with gradient, to be added to the average.
        logits: float [B, C], of the first view.
    """

    losses: Tensor
    record: Tensor | None
    extra: Tensor | float
    logits: Tensor

    @property
    def recorded(self) -> Tensor:
        """What is recorded of the samples, [B]."""
        return self.losses if self.record is None else self.record


class CrossEntropy:
    """Cross-entropy with the given labels, and what objectives that learn more than the network override.

    Args:
        model: the network.
        smoothing: label smoothing of the losses to learn from.
        recorded: label smoothing of the recorded losses; None = the same.

    Attributes:
        peers: networks that learn beside this one, whose forward passes count, too.
    """

    peers = 0

    def __init__(self, model: nn.Module, smoothing: float, recorded: float | None = None) -> None:
        self.model, self.smoothing = model, smoothing
        self.recorded = smoothing if recorded is None else recorded

    def __call__(self, index: Tensor, batch: Batch) -> Outcome:
        """Forward pass of a batch: index int64 [B], its samples and labels on the network's device."""
        return self.outcome(index, batch, self.model(batch.x))

    def outcome(self, index: Tensor, batch: Batch, logits: Tensor) -> Outcome:
        """What the objective makes of a batch in one view, by the network's logits, float [B, C]."""
        losses = self._losses(logits, batch, self.smoothing)
        record = None
        if self.recorded != self.smoothing:
            record = self._losses(logits.detach(), batch, self.recorded)
        return Outcome(losses, record, 0.0, logits)

    def begin_epoch(self, selection: Selection) -> None:
        """An epoch begins that trains on this selection."""

    def begin_step(self, position: float) -> None:
        """A step begins at this position of the run, in [0, 1)."""

    def look(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The recorded losses, [B], and logits, [B, C], of samples that are not learned from."""
        logits = self.model(batch.x)
        return self._losses(logits, batch, self.recorded), logits

    @staticmethod
    def _losses(logits: Tensor, batch: Batch, smoothing: float) -> Tensor:
        return F.cross_entropy(logits, batch.y, reduction="none", label_smoothing=smoothing)

    def zero_grad(self) -> None:
        """Forget the gradients of what is learned beside the network."""

    def step(self) -> None:
        """Update what is learned beside the network."""

    def end_epoch(self) -> None:
        """Bring all ranks to the same state; every rank calls it."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on from; every rank calls it."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""


class ChosenLoss(CrossEntropy):
    """A loss of `alignprune.losses`, with what it learns or keeps of the samples. Plain cross-entropy is recorded.

    Args:
        model: the network.
        loss: on the network's device. It rests while the network is known to learn hardly anything by heart.
    """

    def __init__(self, model: nn.Module, loss: SampleLoss) -> None:
        super().__init__(model, smoothing=0.0)
        self.loss, self.optimizer = loss, loss.make_optimizer()

    def begin_epoch(self, selection: Selection) -> None:
        self.loss.active = selection.memorises is not False

    def __call__(self, index: Tensor, batch: Batch) -> Outcome:
        if batch.strong is None:
            return super().__call__(index, batch)
        logits, strong = self.model(torch.cat([batch.x, batch.strong])).chunk(2)
        return self._outcome(index, batch, logits, strong)

    def outcome(self, index: Tensor, batch: Batch, logits: Tensor) -> Outcome:
        return self._outcome(index, batch, logits, None)

    def _outcome(self, index: Tensor, batch: Batch, logits: Tensor, strong: Tensor | None) -> Outcome:
        out = self.loss(index, batch.y, logits, strong)
        return Outcome(out.losses, out.recorded, out.extra, logits)

    def zero_grad(self) -> None:
        if self.optimizer is not None:
            self.optimizer.zero_grad()

    def step(self) -> None:
        if self.optimizer is not None:
            self.optimizer.step()

    def end_epoch(self) -> None:
        self.loss.sync()

    def state_dict(self) -> dict[str, Any]:
        self.loss.sync()  # in the middle of an epoch each rank has changed what it keeps of its own samples
        return self.loss.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loss.load_state_dict(state)

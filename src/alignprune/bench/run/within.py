"""What an epoch has come to so far: its steps, their losses, its time. A checkpoint in its middle holds it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from alignprune._ranks import rank_and_world

LOOK = 128
"""Steps whose losses stay on the device until the host looks at them, which costs a wait for the device."""


class WithinEpoch:
    """The part of an epoch that is done.

    Args:
        trained: samples that the run had trained on before the epoch.
        device: of the network.

    Attributes:
        steps: that are done.
        seconds: that they took.
        right: samples that were classified as labelled, on this rank, int64 [] on the device.
    """

    def __init__(self, trained: int, device: torch.device) -> None:
        self.trained = trained
        self.steps = 0
        self.seconds = 0.0
        self.right = torch.zeros((), dtype=torch.int64, device=device)
        self._waiting = torch.zeros(LOOK, device=device)
        self._seen = 0
        self._sum = 0.0
        self._lost: int | None = None  # the step since which no loss has been finite

    def add(self, loss: Tensor) -> None:
        """A step is done that minimised this loss, float [] on the device."""
        self._waiting[self.steps - self._seen] = loss.detach()
        self.steps += 1

    @property
    def is_full(self) -> bool:
        """Whether it is time for `look`; the same on every rank."""
        return self.steps - self._seen == LOOK

    def look(self) -> int | None:
        """Fetch the losses that wait on the device, on every rank.

        Returns:
            the step, from 1, since which no loss of a rank has been finite; None if the last ones are.
        """
        for loss in self._waiting[: self.steps - self._seen].tolist():
            self._seen += 1
            self._sum += loss
            self._lost = None if math.isfinite(loss) else self._lost or self._seen
        if rank_and_world()[1] == 1:
            return self._lost
        lost = torch.tensor(self._lost or 0, device=self.right.device)
        torch.distributed.all_reduce(lost, torch.distributed.ReduceOp.MAX)
        return int(lost) or None

    def mean_loss(self) -> float:
        """Mean of the losses that `look` has fetched, over all ranks; 0 before any."""
        return self._sum_of_rank() / max(self._seen, 1)

    def _sum_of_rank(self) -> float:
        """Sum of the losses of a rank, on average over the ranks."""
        _, world = rank_and_world()
        if world == 1:
            return self._sum
        total = torch.tensor(self._sum, device=self.right.device)
        torch.distributed.all_reduce(total)
        return float(total) / world

    def num_right(self) -> int:
        """Samples that were classified as labelled, on all ranks."""
        right = self.right.clone()
        if rank_and_world()[1] > 1:
            torch.distributed.all_reduce(right)
        return int(right)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on from, after `look`; every rank calls it."""
        return {
            "trained": self.trained,
            "steps": self.steps,
            "seconds": self.seconds,
            "right": self.num_right(),
            "sum": self._sum_of_rank(),
            "lost": self._lost,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`, on any number of ranks: the first holds what all had counted."""
        self.trained, self.seconds = state["trained"], state["seconds"]
        self.steps = self._seen = state["steps"]
        self._sum, self._lost = state["sum"], state["lost"]
        self.right.fill_(state["right"] if rank_and_world()[0] == 0 else 0)

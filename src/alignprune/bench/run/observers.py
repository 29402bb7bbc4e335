"""Who looks on while a run trains: what it sees of steps and epochs, and what it leaves in the folder.

A run holds a list of observers and calls each hook of each of them. None of them changes the training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from alignprune import Pruner
from alignprune.selection import Selection


@dataclass(frozen=True)
class EndOfEpoch:
    """What is known when an epoch has ended.

    Attributes:
        number: of the epoch, from 0.
        is_last: whether the run ends with it.
        selection: the samples that it trained on.
        reference_loss: mean loss of the reference; None without one.
        model: the network.
        pruner: with the scores that the epoch ended with.
    """

    number: int
    is_last: bool
    selection: Selection
    reference_loss: float | None
    model: nn.Module
    pruner: Pruner


class Observer:
    """What every observer offers. A hook that is not overridden does nothing."""

    name: ClassVar[str]
    """Under which the checkpoint holds its state."""

    def step(self, index: Tensor, losses: Tensor, logits: Tensor, labels: Tensor) -> None:
        """See a batch of B samples, trained on or only looked at.

        Args:
            index: int64 [B], on any device.
            losses: float [B], what the pruner recorded.
            logits: float [B, C], on the network's device.
            labels: int64 [B], on the network's device.
        """

    def end_epoch(self, epoch: EndOfEpoch) -> dict[str, Any]:
        """See an epoch end; returns fields of its `EpochRecord`."""
        return {}

    def result(self) -> dict[str, Any]:
        """Fields of the `RunRecord`, when the run has ended."""
        return {}

    def save(self, folder: Path) -> None:
        """Leave files in the folder of a run that has ended."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on from."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""

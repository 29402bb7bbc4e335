"""The readings: when in the last epoch a sample was read, and in how many epochs it was trained on.

Losses that were computed side by side, by one and the same network, can be compared; those of other moments of an epoch
cannot, since the network has moved on. The step says which were.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from alignprune._tensors import check_range, check_tensors
from alignprune.memory.contract import Memory, MemorySpec, Observed, Room

_TABLES = ("steps", "times")


class Readings(Memory):
    """The step of the last epoch in which a sample was read, and the number of epochs in which it was trained on.

    Memory: 8 bytes a sample, whatever the number of epochs.

    Args:
        num_samples: samples in the data set.
        epochs: of the whole training.
        device: where it lives.

    Attributes:
        steps: int32 [N], from 0; -1 = not read in the last epoch.
        times: int32 [N].
    """

    def __init__(self, num_samples: int, epochs: int, device: torch.device | str = "cpu") -> None:
        self.epochs = epochs
        self.steps = torch.full((num_samples,), -1, dtype=torch.int32, device=device)
        self.times = torch.zeros(num_samples, dtype=torch.int32, device=device)

    @torch.no_grad()
    def write(self, observed: Observed) -> None:
        assert observed.steps is not None  # `ReadingsSpec.needs_steps`
        self.steps.copy_(observed.steps)
        self.times[observed.selection.trained.to(self.times.device)] += 1

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name).cpu().clone() for name in _TABLES}

    def check_state_dict(self, state: dict[str, Any]) -> None:
        check_tensors("readings", state, {name: getattr(self, name) for name in _TABLES})
        check_range("readings", state, "steps", -1, len(self.steps) - 1)
        check_range("readings", state, "times", 0, self.epochs)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in _TABLES:
            getattr(self, name).copy_(state[name])


@dataclass(frozen=True)
class ReadingsSpec(MemorySpec):
    """Asks for `Readings`."""

    needs_steps: ClassVar[bool] = True
    by_parts: ClassVar[bool] = True

    def make(self, room: Room) -> Readings:
        return Readings(room.num_samples, room.epochs, room.device)

"""The running average: one number a sample. Losses go in, and fade as others follow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from alignprune._tensors import bounded_, check_finite, check_tensors
from alignprune.memory.contract import Memory, MemorySpec, Observed, Room


class RunningAverage(Memory):
    """The exponential average of every sample's losses: ``a <- decay * a + (1 - decay) * loss``.

    It begins at the first loss that is seen, and stays while a sample is not. 4 bytes a sample.

    Args:
        num_samples: samples in the data set.
        decay: share of the average that stays at every loss, in [0, 1).
        device: where it lives.

    Attributes:
        losses: float32 [num_samples], the averages, NaN where no loss was seen yet.
    """

    def __init__(self, num_samples: int, decay: float, device: torch.device | str = "cpu") -> None:
        self.decay = decay
        self.losses = torch.full((num_samples,), math.nan, dtype=torch.float32, device=device)

    @torch.no_grad()
    def write(self, observed: Observed) -> None:
        losses = observed.losses.to(self.losses.device, torch.float32)
        moved = bounded_(torch.lerp(losses, self.losses, self.decay))
        moved = torch.where(self.losses.isnan(), losses, moved)
        self.losses = torch.where(losses.isnan(), self.losses, moved)

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self.losses.cpu().clone()}

    def check_state_dict(self, state: dict[str, Any]) -> None:
        check_tensors("average", state, {"losses": self.losses})
        check_finite("average", state, ("losses",))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses.copy_(state["losses"])


@dataclass(frozen=True)
class AverageSpec(MemorySpec):
    """Asks for a `RunningAverage`.

    Attributes:
        decay: share of the average that stays at every loss, in [0, 1).
    """

    by_parts: ClassVar[bool] = True

    decay: float

    def make(self, room: Room) -> RunningAverage:
        return RunningAverage(room.num_samples, self.decay, room.device)

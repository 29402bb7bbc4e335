"""The journal: what a label report prints of every sample, as plain facts over the whole run.

Which class the network says instead of the given one is found by a vote over the epochs. A vote a class would take C
numbers a sample; the majority vote of Boyer and Moore takes two: a candidate and its lead, which every vote for it
raises and every other vote lowers, and a candidate without a lead is replaced.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from alignprune._tensors import bounded_, check_finite, check_tensors
from alignprune.memory.contract import Memory, MemorySpec, Observed, Room

_TABLES = (
    *("trained", "held_out", "mean_loss", "held_out_loss", "first_flagged"),
    *("predictions", "agreeing", "alternative", "lead"),
)


class Journal(Memory):
    """How often a sample was trained on and looked at, its losses, when it was flagged, and what was predicted of it.

    Memory: 36 bytes a sample, whatever the number of epochs.

    Args:
        num_samples: samples in the data set.
        given: int32 [num_samples], the given class ids, as predictions name classes, -1 = unlabelled; None = unknown.
        device: where it lives.

    Attributes:
        trained: int32 [N], epochs in which the sample was trained on.
        held_out: int32 [N], epochs in which it was looked at without being trained on.
        mean_loss: float32 [N], mean over both, NaN where there is none.
        held_out_loss: float32 [N], mean over the epochs in which it was held out.
        first_flagged: int32 [N], the first epoch whose selection had it among its suspects, -1 = none.
        predictions: int32 [N], epochs in which a class was predicted of it.
        agreeing: int32 [N], those in which it was the given one.
        alternative: int32 [N], the class that was predicted most of the others, if any was predicted in more than half
            of these epochs; else one that was predicted; -1 = none.
        lead: int32 [N], votes for the alternative that no vote against it has made up for.

    Source: Boyer and Moore, "MJRTY: A Fast Majority Vote Algorithm" (1991), for the vote.
    """

    def __init__(self, num_samples: int, given: Tensor | None = None, device: torch.device | str = "cpu") -> None:
        def counts(first: int = 0) -> Tensor:
            return torch.full((num_samples,), first, dtype=torch.int32, device=device)

        self.given = None if given is None else given.to(device)
        self.trained, self.held_out, self.first_flagged = counts(), counts(), counts(-1)
        self.mean_loss = torch.full((num_samples,), math.nan, dtype=torch.float32, device=device)
        self.held_out_loss = self.mean_loss.clone()
        self.predictions, self.agreeing, self.alternative, self.lead = counts(), counts(), counts(-1), counts()

    @torch.no_grad()
    def write(self, observed: Observed) -> None:
        device, selection = self.trained.device, observed.selection
        losses = observed.losses.to(device, torch.float32)
        seen = ~losses.isnan()
        trained = torch.zeros_like(seen).index_fill_(0, selection.trained.to(device), True).logical_and_(seen)
        self.trained += trained
        self.held_out += seen & ~trained
        _average(self.mean_loss, losses, seen, self.trained + self.held_out)
        _average(self.held_out_loss, losses, seen & ~trained, self.held_out)
        if selection.suspects is not None:
            flagged = torch.zeros_like(seen).index_fill_(0, selection.suspects.to(device), True)
            self.first_flagged.masked_fill_(flagged & (self.first_flagged < 0), observed.epoch)
        if observed.predicted is not None:
            self._vote(observed.predicted.to(device))

    def _vote(self, predicted: Tensor) -> None:
        said = predicted >= 0
        agrees = torch.zeros_like(said) if self.given is None else said & (predicted == self.given)
        self.predictions += said
        self.agreeing += agrees
        against = said & ~agrees
        replaced = against & (self.lead == 0)
        self.alternative = torch.where(replaced, predicted, self.alternative)
        self.lead += torch.where(predicted == self.alternative, 1, -1) * against

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name).cpu().clone() for name in _TABLES}

    def check_state_dict(self, state: dict[str, Any]) -> None:
        check_tensors("journal", state, {name: getattr(self, name) for name in _TABLES})
        check_finite("journal", state, ("mean_loss", "held_out_loss"))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in _TABLES:
            getattr(self, name).copy_(state[name])


def _average(mean: Tensor, losses: Tensor, where: Tensor, count: Tensor) -> None:
    """Move a running mean on, in place, by the losses of some samples, which are the ``count``-th."""
    start = torch.where(mean.isnan(), losses, mean)
    mean.copy_(torch.where(where, bounded_(start + (losses - start) / count.clamp_min(1)), mean))


@dataclass(frozen=True)
class JournalSpec(MemorySpec):
    """Asks for a `Journal`."""

    by_parts: ClassVar[bool] = True

    def make(self, room: Room) -> Journal:
        return Journal(room.num_samples, room.given, room.device)

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

from alignprune._tensors import bounded_, check_finite, check_tensors, pieces
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
        device, suspects = self.trained.device, observed.selection.suspects
        losses = observed.losses.to(device, torch.float32)
        seen, trained = observed.seen.to(device), observed.trained.to(device)
        predicted = None if observed.predicted is None else observed.predicted.to(device)
        looked = observed.looked_at.to(device)
        self.held_out.index_add_(0, looked, torch.ones_like(looked, dtype=torch.int32))
        for part in pieces(len(losses), device):
            count = self.trained[part].add_(trained[part]) + self.held_out[part]
            mean = self.mean_loss[part]
            mean.copy_(torch.where(seen[part], _moved(mean, losses[part], count), mean))
            if predicted is not None:
                self._vote(part, predicted[part])
        held_out = self.held_out_loss.index_select(0, looked)
        moved = _moved(held_out, losses.index_select(0, looked), self.held_out.index_select(0, looked))
        self.held_out_loss.index_copy_(0, looked, moved)
        if suspects is not None:
            suspects = suspects.to(device)
            first = self.first_flagged.index_select(0, suspects)
            self.first_flagged.index_copy_(0, suspects, first.masked_fill_(first < 0, observed.epoch))

    def _vote(self, part: slice, predicted: Tensor) -> None:
        alternative, lead = self.alternative[part], self.lead[part]
        against = predicted >= 0
        self.predictions[part] += against
        if self.given is not None:
            agrees = against & (predicted == self.given[part])
            self.agreeing[part] += agrees
            against ^= agrees
        replaced = against & (lead == 0)
        alternative.copy_(torch.where(replaced, predicted, alternative))
        lead += torch.where(predicted == alternative, 1, -1) * against

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name).cpu().clone() for name in _TABLES}

    def check_state_dict(self, state: dict[str, Any]) -> None:
        check_tensors("journal", state, {name: getattr(self, name) for name in _TABLES})
        check_finite("journal", state, ("mean_loss", "held_out_loss"))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in _TABLES:
            getattr(self, name).copy_(state[name])


def _moved(mean: Tensor, losses: Tensor, count: Tensor) -> Tensor:
    """A running mean after the newest losses, which are the ``count``-th; the first ones begin it."""
    start = torch.where(mean.isnan(), losses, mean)
    return bounded_(start + (losses - start) / count.clamp_min(1))


@dataclass(frozen=True)
class JournalSpec(MemorySpec):
    """Asks for a `Journal`."""

    by_parts: ClassVar[bool] = True

    def make(self, room: Room) -> Journal:
        return Journal(room.num_samples, room.given, room.device)

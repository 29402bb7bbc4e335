"""The ledger: what happened to every sample over the whole run, in a handful of numbers.

A window forgets the early epochs, and so does a network that memorises: what it has trained on often enough has a low
loss, whatever its label. Two things of a run survive that, and are kept here. A loss says something of a label as far
as the sample was held out, so it counts (1 + n) ** -exponent, n being how often the sample was trained on since the
onset. And of two parts of an epoch that chance has made, the one that the epoch before trained on has the lower losses
if the network memorises. What follows from these facts policies decide, the onset too.

This is no method of the paper; `docs/robust.md` says what it is for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alignprune._checks import described
from alignprune._tensors import DAMAGED, bounded_, check_finite, check_names, check_tensors
from alignprune.errors import TypeMistake
from alignprune.memory.contract import Memory, MemorySpec, Observed, Room
from alignprune.selection import Onset

_FEWEST_COMPARED = 20  # samples in each of two parts of an epoch, below which their losses are not compared
_SMOOTHING = 0.5  # weight of the newest number in a running one
_TABLES = ("total", "weight", "exposures", "last_seen", "last_trained", "held_out", "agreement")


class Ledger(Memory):
    """Per sample: weighted sum of centred losses, exposures, when last seen and trained on. Per run: memorisation.

    Memory: 28 bytes a sample, whatever the number of epochs.

    Args:
        num_samples: size N of the data set.
        exponent: a loss counts (1 + n) ** -exponent after n exposures; 0 makes it a plain mean over all epochs.
        given: int32 [N], the given class ids, as predictions name classes, -1 = unlabelled; None = unknown.
        device: where it lives.

    Attributes:
        total: float32 [N], sum of the weighted losses, each less the mean loss of the samples trained on in its epoch.
        weight: float32 [N], sum of the weights; 0 = never seen.
        exposures: int32 [N], how often a sample was trained on since the onset.
        last_seen: int32 [N], epoch, -1 = never.
        last_trained: int32 [N], epoch, -1 = never.
        held_out: float32 [N], running mean, since the onset, of the losses of a sample that was looked at without being
            trained on; NaN = none.
        agreement: float32 [N], running mean over the same looks of whether the given class was predicted, 1, or another
            one, 0; NaN = none was predicted.
        memorisation: how much lower, in log, the losses of samples are that the epoch before trained on; NaN = unknown.
        onset: from when on samples are flagged, as the selections said; None = not yet.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        exponent: float = 0.5,
        given: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.exponent = exponent
        self.given = None if given is None else given.to(device)
        self.total = torch.zeros(num_samples, dtype=torch.float32, device=device)
        self.weight = torch.zeros(num_samples, dtype=torch.float32, device=device)
        self.exposures = torch.zeros(num_samples, dtype=torch.int32, device=device)
        self.last_seen = torch.full((num_samples,), -1, dtype=torch.int32, device=device)
        self.last_trained = torch.full((num_samples,), -1, dtype=torch.int32, device=device)
        self.held_out = torch.full((num_samples,), math.nan, dtype=torch.float32, device=device)
        self.agreement = self.held_out.clone()
        self.memorisation = math.nan
        self.onset: Onset | None = None
        self._was_uniform = False

    @torch.no_grad()
    def write(self, observed: Observed) -> None:
        """Enter one epoch.

        Where this epoch and the one before were drawn uniformly, those that the one before trained on differ from the
        others by nothing else, so that memorisation can be measured.
        """
        epoch, selection = observed.epoch, observed.selection
        losses = observed.losses.to(self.total.device, torch.float32)
        seen = ~losses.isnan()
        learned = selection.trained.to(seen.device)
        trained = torch.zeros_like(seen).index_fill_(0, learned, True).logical_and_(seen)
        was_uniform, self._was_uniform = self._was_uniform, selection.uniform
        if not bool(trained.any()):  # nothing to compare a loss with
            return
        if self.onset is None and selection.onset is not None:
            self.onset = selection.onset
            self.exposures += self.last_trained >= self.onset.epoch  # the onset's own epoch was one
        if self.onset is None and selection.uniform and was_uniform:
            self._measure_memorisation(epoch, losses, trained)
        weights = (1.0 + self.exposures.float()) ** -self.exponent
        weights.masked_fill_(~seen, 0.0)
        self.total += weights * (losses - losses[trained].double().mean().float()).masked_fill_(~seen, 0.0)
        bounded_(self.total)
        self.weight += weights
        if self.onset is not None:
            self._hold_out(losses, seen & ~trained, observed.predicted)
            self.exposures += trained
        self.last_seen.masked_fill_(seen, epoch)
        self.last_trained.masked_fill_(trained, epoch)

    def _hold_out(self, losses: Tensor, looked: Tensor, predicted: Tensor | None) -> None:
        self.held_out = _moved(self.held_out, losses, looked)
        bounded_(self.held_out)
        if predicted is not None and self.given is not None:
            predicted = predicted.to(looked.device)
            told = looked & (predicted >= 0) & (self.given >= 0)
            self.agreement = _moved(self.agreement, (predicted == self.given).float(), told)

    def _measure_memorisation(self, epoch: int, losses: Tensor, trained: Tensor) -> None:
        again = trained & (self.last_trained == epoch - 1)
        rested = trained & (self.last_trained < epoch - 1) & (self.last_trained >= 0)
        if int(again.sum()) < _FEWEST_COMPARED or int(rested.sum()) < _FEWEST_COMPARED:
            return
        # Chance has made the two parts unlike too: by how much, a regression on what their samples' losses were before
        # says, and it is taken off. The steadier the difference, the earlier an onset can be told from chance.
        prior, both = self.mean_loss().double(), again | rested
        centred = prior[both] - prior[both].mean()
        slope = float(centred @ losses[both].double()) / max(float(centred @ centred), 1e-12)
        means = [
            max(float(losses[part].double().mean() - slope * (prior[part].mean() - prior[both].mean())), 1e-6)
            for part in (rested, again)
        ]
        newest = math.log(means[0] / means[1])
        if math.isnan(self.memorisation):
            self.memorisation = newest
        else:
            self.memorisation += _SMOOTHING * (newest - self.memorisation)

    def mean_loss(self) -> Tensor:
        """Weighted mean of the centred losses, float32 [N], NaN where a sample was never seen."""
        return self.total / self.weight.masked_fill(self.weight == 0, math.nan)

    def metrics(self) -> dict[str, float]:
        """How far the network has memorised, where that could be measured."""
        return {} if math.isnan(self.memorisation) else {"memorisation": self.memorisation}

    def state_dict(self) -> dict[str, Any]:
        """Everything that later epochs depend on: tensors and plain values only."""
        return {
            "memorisation": self.memorisation,
            "onset": None if self.onset is None else self.onset.state,
            "was_uniform": self._was_uniform,
            **{name: getattr(self, name).cpu().clone() for name in _TABLES},
        }

    def check_state_dict(self, state: dict[str, Any]) -> None:
        """Raise TypeMistake or ValueMistake for a state of a ledger of another size, and change nothing."""
        check_tensors("ledger", state, {name: getattr(self, name) for name in _TABLES})
        check_finite("ledger", state, ("total", "weight", "held_out", "agreement"))
        check_names("ledger", state, ("memorisation", "onset", "was_uniform"))
        Onset.from_state(state["onset"])
        memorisation, was_uniform = state["memorisation"], state["was_uniform"]
        if not isinstance(memorisation, float) or math.isinf(memorisation) or not isinstance(was_uniform, bool):
            raise TypeMistake(
                f"ledger.memorisation={described(memorisation)} and ledger.was_uniform={described(was_uniform)} do not "
                f"fit, expected a number, and True or False: {DAMAGED}"
            )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state of `state_dict`, bit for bit."""
        self.memorisation, self._was_uniform = state["memorisation"], state["was_uniform"]
        self.onset = Onset.from_state(state["onset"])
        for name in _TABLES:
            getattr(self, name).copy_(state[name])


def _moved(mean: Tensor, values: Tensor, where: Tensor) -> Tensor:
    """A running mean after the newest values of some samples, float32 [N]; the first ones begin it."""
    begun = torch.where(where & mean.isnan(), values, mean)
    return begun + _SMOOTHING * (values - begun).masked_fill_(~where, 0.0)


@dataclass(frozen=True)
class LedgerSpec(MemorySpec):
    """Asks for a `Ledger`.

    Attributes:
        exponent: of the weights; None = any, for readers that do not look at the weighted mean.
    """

    exponent: float | None = None

    def make(self, room: Room) -> Ledger:
        if self.exponent is None:
            return Ledger(room.num_samples, given=room.given, device=room.device)
        return Ledger(room.num_samples, exponent=self.exponent, given=room.given, device=room.device)

    def met_by(self, other: MemorySpec) -> bool:
        return isinstance(other, LedgerSpec) and self.exponent in (None, other.exponent)

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
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from alignprune._checks import described
from alignprune._tensors import DAMAGED, bounded_, check_finite, check_names, check_tensors, indices_of, pieces
from alignprune.errors import TypeMistake
from alignprune.memory.contract import Memory, MemorySpec, Observed, Room
from alignprune.pool import Pool
from alignprune.selection import Onset

_FEWEST_COMPARED = 20  # samples in each of two parts of an epoch, below which their losses are not compared
_SMOOTHING = 0.5  # weight of the newest number in a running one
_ERRORS = 4  # standard errors above 0, from which on a first measurement is not taken for chance
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
        confirmed: whether it is known from more than one epoch, or from one that chance cannot explain.
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
        self.confirmed = False
        self.onset: Onset | None = None
        self._was_uniform = False

    @torch.no_grad()
    def write(self, observed: Observed) -> None:
        """Enter one epoch.

        Where this epoch and the one before were drawn uniformly, those that the one before trained on differ from the
        others by nothing else, so that memorisation can be measured.
        """
        epoch, selection, device = observed.epoch, observed.selection, self.total.device
        losses = observed.losses.to(device, torch.float32)
        seen, trained = observed.seen.to(device), observed.trained.to(device)
        was_uniform, self._was_uniform = self._was_uniform, selection.uniform
        pool = observed.pool
        count = int(_total(pool, int(trained.count_nonzero()))[0])
        if not count:  # nothing to compare a loss with
            return
        if self.onset is None and selection.onset is not None:
            self.onset = selection.onset
            self.exposures += self.last_trained >= self.onset.epoch  # the onset's own epoch was one
        if self.onset is None and selection.uniform and was_uniform:
            self._measure_memorisation(epoch, losses, trained, pool)
        if self.onset is not None:
            self._hold_out(losses, observed.looked_at.to(device), observed.predicted)
        mean = _mean_of(losses, trained, count, pool)
        for part in pieces(len(losses), device):
            self._enter(part, epoch, losses[part] - mean, seen[part], trained[part])

    def _enter(self, part: slice, epoch: int, centred: Tensor, seen: Tensor, trained: Tensor) -> None:
        exposures = self.exposures[part]
        weights = exposures.float().add_(1.0).pow_(-self.exponent).mul_(seen)
        self.weight[part].add_(weights)
        bounded_(self.total[part].add_(centred.mul_(weights).nan_to_num_(0.0)))  # NaN where a sample was not seen
        _stamp(self.last_seen[part], seen, epoch)
        _stamp(self.last_trained[part], trained, epoch)
        if self.onset is not None:
            exposures.add_(trained)

    def _hold_out(self, losses: Tensor, looked: Tensor, predicted: Tensor | None) -> None:
        _move(self.held_out, looked, losses.index_select(0, looked))
        if predicted is not None and self.given is not None:
            said, given = predicted.to(looked.device).index_select(0, looked), self.given.index_select(0, looked)
            told = ((said >= 0) & (given >= 0)).nonzero().flatten()
            _move(self.agreement, looked[told], (said == given)[told].float())

    def _measure_memorisation(self, epoch: int, losses: Tensor, trained: Tensor, pool: Pool) -> None:
        both = indices_of(trained & (self.last_trained >= 0) & (self.last_trained < epoch))
        again = self.last_trained.index_select(0, both) == epoch - 1
        counts = _total(pool, len(both) - int(again.count_nonzero()), int(again.count_nonzero()))
        if min(counts) < _FEWEST_COMPARED:
            return
        # Chance has made the two parts unlike too: by how much, a regression on what their samples' losses were before
        # says, and it is taken off. The steadier the difference, the earlier an onset can be told from chance.
        loss = losses.index_select(0, both).double()
        prior = (self.total.index_select(0, both) / self.weight.index_select(0, both)).double()
        prior -= _total(pool, float(prior.sum()))[0] / sum(counts)
        product, square = _total(pool, float(prior @ loss), float(prior @ prior))
        rest = loss - product / max(square, 1e-12) * prior
        sums = _total(pool, *(float(rest @ part.double()) for part in (~again, again)))
        means = [max(total / count, 1e-6) for total, count in zip(sums, counts, strict=True)]
        newest = math.log(means[0] / means[1])
        if math.isnan(self.memorisation):
            squares = _total(pool, *(float(rest.square() @ part.double()) for part in (~again, again)))
            self.memorisation, self.confirmed = newest, newest > _ERRORS * _error(squares, means, counts)
        else:
            self.memorisation += _SMOOTHING * (newest - self.memorisation)
            self.confirmed = True

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
            "confirmed": self.confirmed,
            "onset": None if self.onset is None else self.onset.state,
            "was_uniform": self._was_uniform,
            **{name: getattr(self, name).cpu().clone() for name in _TABLES},
        }

    def check_state_dict(self, state: dict[str, Any]) -> None:
        """Raise TypeMistake or ValueMistake for a state of a ledger of another size, and change nothing."""
        check_tensors("ledger", state, {name: getattr(self, name) for name in _TABLES})
        check_finite("ledger", state, ("total", "weight", "held_out", "agreement"))
        check_names("ledger", state, ("memorisation", "confirmed", "onset", "was_uniform"))
        Onset.from_state(state["onset"])
        if not isinstance(state["memorisation"], float) or math.isinf(state["memorisation"]):
            raise TypeMistake(
                f"ledger.memorisation={described(state['memorisation'])} does not fit, expected a number: {DAMAGED}"
            )
        for name in ("confirmed", "was_uniform"):
            if not isinstance(state[name], bool):
                raise TypeMistake(
                    f"ledger.{name}={described(state[name])} does not fit, expected True or False: {DAMAGED}"
                )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state of `state_dict`, bit for bit."""
        self.memorisation, self.confirmed = state["memorisation"], state["confirmed"]
        self._was_uniform = state["was_uniform"]
        self.onset = Onset.from_state(state["onset"])
        for name in _TABLES:
            getattr(self, name).copy_(state[name])


def _total(pool: Pool, *numbers: float) -> list[float]:
    """The sums of the ranks' numbers."""
    summed: list[float] = pool.total(np.array(numbers, dtype=np.float64)).tolist()
    return summed


def _error(squares: list[float], means: list[float], counts: list[float]) -> float:
    """Standard error of the log ratio of two means, from the sums of the squares, by the delta method."""
    parts = zip(squares, means, counts, strict=True)
    return math.sqrt(sum(max(0.0, square / count / mean**2 - 1) / count for square, mean, count in parts))


def _mean_of(losses: Tensor, trained: Tensor, count: int, pool: Pool) -> Tensor:
    """The mean loss of the samples trained on, ``count`` of them on all ranks, float32."""
    total = torch.zeros((), dtype=torch.float64, device=losses.device)
    for part in pieces(len(losses), losses.device):
        total += losses[part].index_select(0, indices_of(trained[part])).sum(dtype=torch.float64)
    return torch.tensor(_total(pool, float(total))[0] / count, dtype=torch.float32, device=losses.device)


def _stamp(newest: Tensor, samples: Tensor, epoch: int) -> None:
    """Put an epoch, in place, where a mask is true: what stands there is older, and a maximum takes half of a fill."""
    torch.maximum(newest, samples.int().mul_(epoch + 1).sub_(1), out=newest)


def _move(mean: Tensor, samples: Tensor, values: Tensor) -> None:
    """Move the running mean of some samples on, in place, by their newest values; the first ones begin it."""
    before = mean.index_select(0, samples)
    begun = torch.where(before.isnan(), values, before)
    mean.index_copy_(0, samples, bounded_(begun + _SMOOTHING * (values - begun)))


@dataclass(frozen=True)
class LedgerSpec(MemorySpec):
    """Asks for a `Ledger`.

    Attributes:
        exponent: of the weights; None = any, for readers that do not look at the weighted mean.
    """

    by_parts: ClassVar[bool] = True

    exponent: float | None = None

    def make(self, room: Room) -> Ledger:
        if self.exponent is None:
            return Ledger(room.num_samples, given=room.given, device=room.device)
        return Ledger(room.num_samples, exponent=self.exponent, given=room.given, device=room.device)

    def met_by(self, other: MemorySpec) -> bool:
        return isinstance(other, LedgerSpec) and self.exponent in (None, other.exponent)

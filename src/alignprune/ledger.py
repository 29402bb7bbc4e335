"""The ledger: what the whole run has told of every sample, in a handful of numbers. Losses go in, evidence comes out.

A window forgets the early epochs, and so does a network that memorises: what it has trained on often enough has a
low loss, whatever its label. Two things of a run survive that. A loss tells of a label as far as the sample was held
out, so it counts (1 + n) ** -exponent, n being how often the sample was trained on since the onset: the time from which
on wrong labels are learned by heart, or can be told from right ones. Both can be seen from the losses alone. Of two
parts of an epoch that chance has made, the one that the epoch before trained on has the lower losses if the network
memorises; and the mean losses of all samples fall into two groups. And where the labels are known, a loss of a sample
held out can be compared with chance.

This is no method of the paper; `docs/beyond.md` has the measurements behind it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from alignprune import mixture

MEMORISING, STRONGLY = 0.04, 0.1
"""Memorisation from which on a network counts as memorising, and as memorising strongly: an epoch lowers a loss so."""

APART, CLEAR = 1.0, 2.0
"""Ashman's D from which on two groups of mean losses count as apart at all, and as clearly apart."""

_SETTLED = 0.25  # share of the epochs after which the mean losses have settled: the third sign of an onset
_FEWEST = 20  # samples in each of two groups, below which these are not compared
_SMOOTHING = 0.5  # weight of the newest number in a running one


class Ledger:
    """Per sample: weighted sum of centred losses, exposures, when last seen and trained on. Per run: memorisation.

    Memory: 24 bytes a sample, 32 with labels, whatever the number of epochs.

    Args:
        num_samples: size N of the data set.
        epochs: of the whole training.
        exponent: a loss counts (1 + n) ** -exponent after n exposures; 0 makes it a plain mean over all epochs.
        labels: int64 [N], the given labels, for `against`; None = unknown.
        device: where it lives.

    Attributes:
        total: float32 [N], sum of the weighted losses, each less the mean loss of the samples trained on in its epoch.
        weight: float32 [N], sum of the weights; 0 = never seen.
        exposures: int32 [N], how often a sample was trained on since the onset.
        last_seen, last_trained: int32 [N], epoch, -1 = never.
        held_out: float32 [N], running mean, since the onset, of the losses of a sample that was looked at without being
            trained on; NaN = none.
        memorisation: how much lower, in log, the losses of samples are that the epoch before trained on; NaN = unknown.
        onset: epoch at whose end wrong labels were found to do harm, or to be told from right ones; None = not yet. It
            comes when the network memorises strongly; when it memorises and the samples fall into two groups that are
            clearly apart; and, after a quarter of the epochs, when they are clearly apart, or are apart and the network
            memorises.
        onset_separation: how far two groups of samples lay apart by their mean loss at the end of that epoch,
            `Mixture.separation`; None = not yet, or no two groups.
    """

    def __init__(
        self,
        num_samples: int,
        epochs: int,
        *,
        exponent: float = 0.5,
        labels: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.epochs, self.exponent = epochs, exponent
        self.labels = None if labels is None else labels.to(device)
        self.total = torch.zeros(num_samples, device=device)
        self.weight = torch.zeros(num_samples, device=device)
        self.exposures = torch.zeros(num_samples, dtype=torch.int32, device=device)
        self.last_seen = torch.full((num_samples,), -1, dtype=torch.int32, device=device)
        self.last_trained = torch.full((num_samples,), -1, dtype=torch.int32, device=device)
        self.held_out = torch.full((num_samples,), math.nan, device=device)
        self.memorisation = math.nan
        self.onset: int | None = None
        self.onset_separation: float | None = None
        self._was_uniform = False

    @torch.no_grad()
    def write(self, epoch: int, losses: Tensor, trained: Tensor, *, uniform: bool) -> None:
        """Enter one epoch.

        Args:
            epoch: its number.
            losses: float [N], NaN where a sample was not seen.
            trained: bool [N], whether the network was trained on the sample; false for those only looked at.
            uniform: whether the samples were drawn without regard to anything known of them but when they were seen.
                Where this epoch and the one before were, those that the one before trained on differ from the others by
                nothing else, so that memorisation can be told.
        """
        losses = losses.to(self.total.device, torch.float32)
        seen = ~losses.isnan()
        trained = trained.to(seen.device) & seen
        was_uniform, self._was_uniform = self._was_uniform, uniform
        if not bool(trained.any()):  # nothing to compare a loss with
            return
        if uniform and was_uniform and self.onset is None:
            self._sense(epoch, losses, trained)
        weights = (1.0 + self.exposures) ** -self.exponent
        weights.masked_fill_(~seen, 0.0)
        self.total += weights * (losses - losses[trained].double().mean().float()).masked_fill_(~seen, 0.0)
        self.weight += weights
        if self.onset is None:
            self._begin(epoch)
        else:
            looked = seen & ~trained
            self.held_out = torch.where(looked & self.held_out.isnan(), losses, self.held_out)
            self.held_out += _SMOOTHING * (losses - self.held_out).masked_fill_(~looked, 0.0)
        self.last_seen.masked_fill_(seen, epoch)
        self.last_trained.masked_fill_(trained, epoch)
        if self.onset is not None:
            self.exposures += trained

    def _begin(self, epoch: int) -> None:
        """Whether this epoch is the onset."""
        known = self.mean_loss()[self.weight > 0].cpu().numpy()
        found = mixture.fit(known) if len(known) >= 2 * _FEWEST else None
        separation = 0.0 if found is None else found.separation
        memorises, clear = self.memorisation > MEMORISING, separation >= CLEAR
        settled = epoch + 1 >= _SETTLED * self.epochs
        if (
            self.memorisation > STRONGLY
            or (memorises and clear)
            or (settled and (clear or (memorises and separation >= APART)))
        ):
            self.onset = epoch
            self.onset_separation = None if found is None else found.separation

    def _sense(self, epoch: int, losses: Tensor, trained: Tensor) -> None:
        again = trained & (self.last_trained == epoch - 1)
        rested = trained & (self.last_trained < epoch - 1) & (self.last_trained >= 0)
        if int(again.sum()) < _FEWEST or int(rested.sum()) < _FEWEST:
            return
        # Chance has made the two parts unlike too. What is known of their samples from before tells how much.
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

    def against(self, confused: float = 0.25) -> Tensor | None:
        """How much the input speaks against its label, float32 [N], in nats; None where the labels are unknown.

        The log of the probability to be given this label wrongly over that to be given it rightly, p, which is the
        network's while it is not trained on the sample. Behind a wrong label there is another class, 1 - p, and it is
        drawn by the frequency f of the classes, f / (1 - f), or, in ``confused`` of the cases, as the network itself
        would confuse the two, p. NaN where a sample was never looked at. It takes `held_out` for cross-entropies.

        Args:
            confused: share of the wrong labels that are confusions, in [0, 1].
        """
        if self.labels is None:
            return None
        counts = torch.bincount(self.labels).float()
        share = (counts / counts.sum()).clamp_max(1 - 1e-6)
        losses = self.held_out.clamp_min(1e-6)
        drawn = (1 - confused) * (share / (1 - share))[self.labels] + confused * (-losses).exp()
        return (-torch.expm1(-losses)).log() + drawn.log() + losses

    def state_dict(self) -> dict[str, Any]:
        """Everything that later epochs depend on: tensors and plain values only."""
        return {
            "memorisation": self.memorisation,
            "onset": self.onset,
            "onset_separation": self.onset_separation,
            "was_uniform": self._was_uniform,
            **{name: getattr(self, name).cpu().clone() for name in _TABLES},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state of `state_dict`, bit for bit."""
        for name in ("memorisation", "onset", "onset_separation"):
            setattr(self, name, state[name])
        self._was_uniform = state["was_uniform"]
        for name in _TABLES:
            getattr(self, name).copy_(state[name])


_TABLES = ("total", "weight", "exposures", "last_seen", "last_trained", "held_out")

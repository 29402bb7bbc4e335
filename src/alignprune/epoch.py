"""An epoch as it is planned: what is selected, who reads it, and the tables that its steps look up.

Made once from a Selection; a step only gathers from it, on the device of its losses.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignprune._ranks import Draws, Indices
from alignprune.errors import ValueMistake
from alignprune.exchange import Exchange, exchange
from alignprune.pool import Pool
from alignprune.selection import Selection


class EpochPlan:
    """What an epoch reads, on this rank and on all.

    Args:
        selection: of the epoch, by slot.
        pool: the samples of all ranks.
        draws: of the epoch.
        unlabelled: bool [n], the samples of this rank that have no label; None = all have one.
        streamed: whether each rank reads what its part of a stream holds, instead of as much as every other.
        over: whether the training has ended, so that nothing is read.
        unread: the slots that no rank has read yet, int64, ascending; None = all that are selected.

    Attributes:
        selected: samples that are selected, over all ranks.
        suspects: samples that are flagged, over all ranks.
        total: samples to be read, over all ranks; 0 after the end.
        exchange: what ranks that own parts read of one another's; None where every rank has all samples.
    """

    def __init__(
        self,
        selection: Selection,
        pool: Pool,
        draws: Draws,
        unlabelled: Tensor | None,
        *,
        streamed: bool,
        over: bool,
        unread: Indices | None = None,
    ) -> None:
        self.selection, self._pool, self._unlabelled = selection, pool, unlabelled
        suspects = 0 if selection.suspects is None else len(selection.suspects)
        self.selected, self.suspects = pool.total(np.array([len(selection), suspects])).tolist()
        self.total = 0 if over else self.selected
        slots = selection.indices.numpy() if unread is None else unread
        self._slots = slots[:0] if over else slots
        self.exchange: Exchange | None = None
        if pool.shared:
            weights = selection.dense_weights()
            self.exchange = exchange(
                pool,
                draws,
                self._slots,
                None if weights is None else weights.numpy()[self._slots],
                None if unlabelled is None else unlabelled.numpy(),
                even=not streamed,
            )
        self._tables: dict[tuple[object, torch.device], Tensor | None] = {}

    @property
    def samples(self) -> Tensor:
        """The samples that this rank reads, int64; where each has all, what all ranks read together, ascending."""
        if self.exchange is None:
            return torch.from_numpy(self._slots)
        slots, given = self._slots, self.exchange.given
        own = self._pool.samples_of(np.delete(slots, np.searchsorted(slots, given)) if len(given) else slots)
        received = self.exchange.received
        return torch.from_numpy(np.concatenate([own, received]) if len(received) else own)

    @cached_property
    def shown(self) -> Selection:
        """The selection by sample."""
        if not self._pool.shared:
            return self.selection
        return self.selection.of(self._pool.samples_of(np.arange(self._pool.size)), self._pool.num_samples)

    def pruned(self, done: Tensor | None = None) -> Tensor:
        """The samples that this rank remembers and nobody reads, but for those at some slots, int64, ascending."""
        pruned = self.selection.pruned
        if done is not None:
            pruned = pruned[~torch.isin(pruned, done)]
        return torch.from_numpy(np.sort(self._pool.samples_of(pruned.numpy())))

    @property
    def mask(self) -> NDArray[np.bool_] | None:
        """Which of the samples that this rank remembers are read, bool [n]; None = all."""
        if len(self._slots) == self._pool.size:
            return None
        mask = np.zeros(self._pool.size, dtype=bool)
        mask[self._slots] = True
        return mask

    def slots_of(self, samples: Tensor) -> Tensor:
        """The slots of samples that this rank reads, int64 [B]."""
        return samples if self.exchange is None else self.exchange.slots_of(samples)

    # ------------------------------------------------------------------ what a step looks up

    def table(self, name: object, device: torch.device, make: Callable[[], Tensor | None]) -> Tensor | None:
        """A table of the epoch on a device, made when it is first asked for."""
        key = (name, device)
        if key not in self._tables:
            made = make()
            self._tables[key] = None if made is None else made.to(device, non_blocking=True)
        return self._tables[key]

    def mean(self, slots: Tensor, losses: Tensor, labelled: Tensor | None) -> Tensor:
        """The weighted mean of a batch, over its samples: ``sum(w_i * l_i) / B``.

        Args:
            slots: int64 [B].
            losses: float32 or float64 [B], on the same device.
            labelled: bool [B], which of them count; None = all.
        """
        weights = self.table("weights", losses.device, self._weights)
        if weights is not None:
            weights = weights.index_select(0, slots)
            weights = weights if weights.dtype == losses.dtype else weights.to(losses.dtype)
        if labelled is not None:
            losses = torch.where(labelled, losses, 0.0)
            total = losses.sum() if weights is None else torch.dot(losses, weights)
            return total / labelled.sum().clamp_min(1)
        return losses.mean() if weights is None else torch.dot(losses, weights.mul_(self._inverse(losses)))

    def labelled(self, slots: Tensor, given: Tensor | None) -> Tensor | None:
        """Which samples of a batch have a label, bool [B] on the slots' device; None where all have.

        Args:
            slots: int64 [B].
            given: bool [B], what the step says of it; None = nothing.

        Raises:
            ValueMistake: for what is no bool [B].
        """
        if given is None and not self._misses_labels:
            return None
        if given is not None:
            if given.dtype != torch.bool or given.shape != slots.shape:
                raise ValueMistake(
                    f"labelled is {given.dtype} of shape {tuple(given.shape)}, expected bool [{len(slots)}]: such as "
                    "y != -100"
                )
            given = given.to(slots.device, non_blocking=True)
        missing = self.table("unlabelled", slots.device, self._without_label)
        if missing is None:
            return given
        known = ~missing.index_select(0, slots)
        return known if given is None else known & given

    def _weights(self) -> Tensor | None:
        """The weights by slot, those of samples that are read for other ranks behind; None where all are 1."""
        weights = self.selection.dense_weights()
        if self.exchange is None or not len(self.exchange.here):
            return weights
        own = torch.ones(self._pool.size, device="cpu") if weights is None else weights
        return torch.cat([own, torch.from_numpy(self.exchange.weights[self.exchange.here])])

    @cached_property
    def _misses_labels(self) -> bool:
        """Whether a sample that this rank may read has no label."""
        return self._unlabelled is not None or (self.exchange is not None and not self.exchange.labelled.all())

    def _without_label(self) -> Tensor | None:
        """Which samples have no label, bool by slot; None where all have one."""
        if not self._misses_labels or self.exchange is None:
            return self._unlabelled
        none = torch.zeros(self._pool.size, dtype=torch.bool, device="cpu")
        own = none if self._unlabelled is None else self._unlabelled
        return torch.cat([own, torch.from_numpy(~self.exchange.labelled[self.exchange.here])])

    def _inverse(self, like: Tensor) -> Tensor:
        """1 / batch size as a tensor, kept for the epoch: a product with a Python number takes three times as long."""
        size, dtype, device = like.shape[0], like.dtype, like.device
        inverse = self.table((size, dtype), device, lambda: torch.full((), 1 / size, dtype=dtype, device=device))
        assert inverse is not None
        return inverse

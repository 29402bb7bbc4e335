"""Losses that keep numbers of every sample: each rank changes the rows of the samples it reads, `sync` merges them."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from alignprune._ranks import rank_and_world
from alignprune.losses.contract import LossOutcome, LossSettings, SampleLoss


class RowLoss(SampleLoss):
    """A loss with a row for every sample. A step reads and changes those of its batch only.

    So a sample that is pruned keeps its row as it is, however many epochs pass without it. Every rank holds all rows.

    Args:
        num_samples: as in `SampleLoss`.
        num_classes: as in `SampleLoss`.
        settings: as in `SampleLoss`.
    """

    _changed: Tensor

    def __init__(self, num_samples: int, num_classes: int, settings: LossSettings) -> None:
        super().__init__(num_samples, num_classes, settings)
        # which rows this process has stepped since the last `sync`
        self.register_buffer("_changed", torch.zeros(self.num_samples, dtype=torch.bool), persistent=False)

    @property
    @abstractmethod
    def rows(self) -> tuple[Tensor, ...]:
        """What is kept: float [N, k] each, a row a sample."""

    def forward(
        self, index: Tensor, labels: Tensor, logits: Tensor, strong_logits: Tensor | None = None
    ) -> LossOutcome:
        """As `SampleLoss.forward`; without gradients (torch.no_grad) no row is changed."""
        out = super().forward(index, labels, logits, strong_logits)
        if torch.is_grad_enabled():
            self._changed.index_fill_(0, index.to(self._changed.device, torch.int64, non_blocking=True), True)
        return out

    @torch.no_grad()
    def sync(self) -> None:
        """Bring every rank to the same rows: each from the rank that read its sample since the last call.

        A row that several ranks changed (the sampler's padding) becomes their mean. Every rank calls it, after each
        epoch and before `state_dict`; a single process need not.
        """
        rank, world = rank_and_world()
        if world > 1:
            owners = self._changed.to(torch.int32)
            torch.distributed.all_reduce(owners)
            # what nobody changed is the same everywhere: the first rank's copy stands for it
            own = (self._changed | (owners == 0)) if rank == 0 else self._changed
            for rows in (kept.detach() for kept in self.rows):
                rows.masked_fill_(~own[:, None], 0.0)
                torch.distributed.all_reduce(rows)
                rows.div_(owners.clamp_min(1)[:, None])
        self._changed.zero_()

    @property
    def _device(self) -> torch.device:
        return self._changed.device

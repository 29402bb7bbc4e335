"""DivBS: train on the part of each batch whose last-layer gradients span its mean best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from alignprune._checks import choice, floor, number
from alignprune.policies.contract import BatchEvidence, BatchPolicy

Pick = Literal["multinomial", "argmax"]

_LEAST = 1e-30  # far below any projection, far above what a processor that flushes denormals takes for zero


@dataclass(frozen=True)
class DivBS(BatchPolicy):
    """Keep a diverse subset of each batch: directions that best span the batch's mean last-layer gradient.

    The gradient of a sample is g_i = (p_i - onehot_i) (outer) h_i. Samples are picked one after the other with a
    probability proportional to |<g_i, R>|, R being what the picks so far leave unexplained of the mean gradient.
    Only inner products of gradients are needed, so they are computed as the product of two [B, B] Gram matrices
    and no gradient is ever written out.

    Attributes:
        prune_ratio: share of every batch that is not trained on, in [0, 1).
        pick: "multinomial" draws as the authors' code, "argmax" takes the largest projection.
        trust: multiply the projections by the share of samples that are more suspicious (1 where there is no score), so
            that DivBS plugs together with any score. An extension of this library; off in the published method.

    Source: Hong et al. (ICML 2024). The optional random subset of gradient dimensions is not offered: with Gram
    matrices it would save nothing.
    """

    prune_ratio: float = 0.3
    pick: Pick = "multinomial"
    trust: bool = False

    def __post_init__(self) -> None:
        number("prune_ratio", self.prune_ratio, low=0, high=1, open_high=True, remedy="0.3 trains on 70 % of a batch")
        choice("pick", self.pick, get_args(Pick))

    def size(self, batch_size: int) -> int:
        """Samples kept of a batch: floor((1 - prune_ratio) * batch_size), at least 1."""
        return max(1, floor((1 - self.prune_ratio) * batch_size))

    @torch.no_grad()
    def choose(self, batch: BatchEvidence) -> Tensor:
        """Choose the part of a batch to train on: int64 [size(B)], positions in the order in which they were picked."""
        labels, features = batch.labels, batch.features.float().flatten(1)
        errors = batch.logits.float().softmax(1)
        errors[torch.arange(len(labels), device=labels.device), labels] -= 1.0
        gram = (errors @ errors.T) * (features @ features.T)
        residual = gram.mean(1)  # <g_i, R>, at first with R = the mean gradient
        unexplained = gram.diagonal().clone()  # |g_i|^2 outside the span of the picks
        count = self.size(len(labels))
        basis = gram.new_zeros(len(labels), count)  # <g_i, q_s> for the orthonormal q_s of the picks
        free = torch.ones(len(labels), dtype=torch.bool, device=gram.device)
        trust = batch.trust if self.trust else None
        chosen = torch.empty(count, dtype=torch.int64, device=gram.device)
        for step in range(count):
            weight = residual.abs() if trust is None else residual.abs() * trust
            weight = weight.clamp_min(_LEAST)  # a spent residual leaves a uniform draw
            if self.pick == "multinomial":  # argmax of w / Exp(1) is a draw in proportion to w, without a sync
                weight = weight / torch.empty_like(weight).exponential_(generator=batch.generator)
            pick = weight.masked_fill(~free, -1.0).argmax()
            norm = unexplained[pick].clamp_min(0).sqrt()
            inverse = torch.where(norm > 1e-6 * gram[pick, pick].sqrt(), 1 / norm, 0.0)  # else: adds no direction
            projection = (gram[:, pick] - basis @ basis[pick]) * inverse
            residual = residual - residual[pick] * inverse * projection
            unexplained = unexplained - projection.square()
            basis[:, step] = projection
            free[pick] = False
            chosen[step] = pick
        return chosen

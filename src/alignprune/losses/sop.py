"""Re-labelling while training: SOP and SOP+ learn what is wrong with each label, beside the network.

Sample i owns a number u_i and a vector v_i [C]. With its given label y (one-hot) and the network's p = softmax(z),

    U = min(u_i² y, 1)              mass that the given label gets unearned
    V = min(v_i² (1 - y), 1)        mass that the other labels lose
    q = max(normalise(max(p + U - stop(V), 1e-4)), 1e-4)
    loss_i = -log q_iy + ||onehot(argmax z) + U - V - y||²

where normalise divides by the sum over the classes and stop lets no gradient through. The network learns from the
first term, v from the second, u from both: they grow where the prediction contradicts the label, and then the network
need not fit it. SOP+ adds λ_C KL(stop(softmax z_weak) || softmax z_strong) to each sample's loss, and
-λ_B (1/C) Σ_c log mean_i q_ic to the batch's. After training u and v are thrown away.

A step reads and changes the rows of its batch only, whatever the number of samples: their gradients are sparse.

Source: Liu et al. (ICML 2022), by the authors' code (model/loss.py, commit 4d991ce).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignprune._checks import integer, number
from alignprune._ranks import rank_and_world
from alignprune.losses.contract import LossSettings
from alignprune.losses.rows import RowLoss

LEAST = 1e-4
"""Lower bound of q. It bounds the mean of q too, which the authors bound once more."""

INITIAL_SCALE = 1e-8
"""Standard deviation with which u and v start. Not 0: their squares would have no gradient."""


@dataclass(frozen=True)
class SOPSettings(LossSettings):
    """What SOP is tuned by.

    Attributes:
        lr_u: learning rate of u, >= 0; it holds for losses that are averaged over the batch.
        lr_v: learning rate of v, >= 0.
        consistency: λ_C, weight of the agreement of the two views, >= 0; 0 needs one view only.
        balance: λ_B, weight of the even use of the classes, >= 0.
    """

    lr_u: float
    lr_v: float
    consistency: float = 0.0
    balance: float = 0.0

    def __post_init__(self) -> None:
        remedies = {
            "lr_u": "SOP uses 10 on CIFAR-10 and 1 on CIFAR-100",
            "lr_v": "SOP uses 10, and 100 for asymmetric noise",
            "consistency": "0.9 in SOP+, 0 in SOP",
            "balance": "0.1 in SOP+, 0 in SOP",
        }
        for name, remedy in remedies.items():
            number(name, getattr(self, name), low=0, high=math.inf, open_high=True, remedy=remedy)

    @property
    def needs_strong(self) -> bool:
        """Whether the two views are compared."""
        return self.consistency > 0

    @property
    def learns(self) -> bool:
        """Yes: u and v."""
        return True

    def make(self, num_samples: int, num_classes: int, *, seed: int = 0) -> SOP:
        """The loss, with u and v as the seed has them."""
        return SOP(num_samples, num_classes, self, seed=seed)


class SOP(RowLoss):
    """The loss of SOP or SOP+, with the u and v of every sample.

    Both views go through the network as one batch, so that its normalisations see them together.

    Args:
        num_samples: as in `SampleLoss`.
        num_classes: as in `SampleLoss`.
        settings: as in `SampleLoss`.
        seed: of the first u and v; torch's global generator is not used.

    Attributes:
        u: float32 [N, 1].
        v: float32 [N, C].

    Example:
        >>> sop = losses.get("sop-cifar100n").settings.make(len(train_set), 100).to(device)
        >>> label_optimizer = sop.make_optimizer()
        >>> weak, strong = model(torch.cat([x_weak, x_strong])).chunk(2)
        >>> out = sop(index, y, weak, strong)
        >>> loss = pruner.reduce(index, out.losses, record=out.recorded) + out.extra
        >>> loss.backward()
        >>> label_optimizer.step()  # beside the network's own optimiser, and zero_grad() of both

    With a GradScaler, step both optimisers through it.
    """

    made_with = SOPSettings
    settings: SOPSettings

    def __init__(self, num_samples: int, num_classes: int, settings: SOPSettings, *, seed: int = 0) -> None:
        super().__init__(num_samples, num_classes, settings)
        integer("seed", seed, at_least=0, remedy="any non-negative integer")
        generator = torch.Generator().manual_seed(seed)
        u, v = torch.empty(self.num_samples, 1), torch.empty(self.num_samples, self.num_classes)
        self.u = nn.Parameter(u.normal_(0, INITIAL_SCALE, generator=generator))
        self.v = nn.Parameter(v.normal_(0, INITIAL_SCALE, generator=generator))

    @property
    def rows(self) -> tuple[Tensor, ...]:
        return self.u, self.v

    def compute(
        self, index: Tensor, labels: Tensor, logits: Tensor, strong_logits: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        u, v = (F.embedding(index, rows, sparse=True) for rows in self.rows)
        losses, q = sop_losses(logits, labels, u, v)
        if strong_logits is not None:
            losses = losses + self.settings.consistency * consistency_losses(logits, strong_logits)
        balance = self.settings.balance * balance_loss(q) if self.settings.balance else losses.new_zeros(())
        return losses, balance

    def make_optimizer(self) -> torch.optim.SGD:
        """Plain SGD for u and v: constant rates, no momentum, no decay, so that other rows than the batch's stay put.

        Under DDP the rates are divided by the number of ranks: each averages its loss over its own part of the batch.
        """
        _, world = rank_and_world()
        groups = [
            {"params": [self.u], "lr": self.settings.lr_u / world},
            {"params": [self.v], "lr": self.settings.lr_v / world},
        ]
        return torch.optim.SGD(groups, lr=0.0, momentum=0.0, weight_decay=0.0)


# ---------------------------------------------------------------------- the mathematics


def sop_losses(logits: Tensor, labels: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of SOP for each sample.

    Args:
        logits: float [B, C].
        labels: int64 [B], given labels, 0 to C - 1.
        u: float [B, 1], the samples' rows.
        v: float [B, C], the samples' rows.

    Returns:
        float [B], the losses, and float [B, C], q: the prediction with the noise of its label.

    Source: Liu et al. (ICML 2022): L_CE + L_MSE.
    """
    y = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
    added = (u.square() * y).clamp_max(1)
    taken = (v.square() * (1 - y)).clamp_max(1)
    q = (logits.softmax(1) + added - taken.detach()).clamp_min(LEAST)
    q = (q / q.sum(1, keepdim=True)).clamp_min(LEAST)
    predicted = F.one_hot(logits.argmax(1), logits.shape[1])
    squared_error = (predicted + added - taken - y).square().sum(1)
    return squared_error - q.gather(1, labels[:, None]).squeeze(1).log(), q


def consistency_losses(weak: Tensor, strong: Tensor) -> Tensor:
    """KL divergence of the strong view's prediction from the weak view's, which gets no gradient.

    Args:
        weak: float [B, C], logits.
        strong: float [B, C], logits.

    Returns:
        float [B].
    """
    target = weak.detach().log_softmax(1)
    return F.kl_div(strong.log_softmax(1), target, reduction="none", log_target=True).sum(1)


def balance_loss(q: Tensor) -> Tensor:
    """Cross-entropy between the even distribution over the classes and the batch's mean prediction.

    Args:
        q: float [B, C], of `sop_losses`.

    Returns:
        float [], least (log C) where every class is used as much.
    """
    return -q.mean(0).log().mean()

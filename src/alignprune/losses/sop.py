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
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignprune._checks import integer, number
from alignprune._ranks import rank_and_world
from alignprune._tensors import FULL_PRECISION, INTEGERS
from alignprune.errors import TypeMistake, ValueMistake

LEAST = 1e-4
"""Lower bound of q. It bounds the mean of q too, which the authors bound once more."""

INITIAL_SCALE = 1e-8
"""Standard deviation with which u and v start. Not 0: their squares would have no gradient."""


@dataclass(frozen=True)
class SOPSettings:
    """What SOP is tuned by.

    Attributes:
        lr_u: learning rate of u, >= 0; it holds for losses that are averaged over the batch.
        lr_v: learning rate of v, >= 0.
        consistency: λ_C, weight of the agreement of the two views, >= 0; 0 needs one view only.
        balance: λ_B, weight of the even use of the classes, >= 0.
        source: where the values come from.
    """

    lr_u: float
    lr_v: float
    consistency: float = 0.0
    balance: float = 0.0
    source: str = "own"

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
    def label(self) -> str:
        """ "sop+" with one of the two terms that it adds, "sop" without."""
        return "sop+" if self.consistency or self.balance else "sop"


def _plus(lr_u: float, lr_v: float, source: str) -> SOPSettings:
    return SOPSettings(lr_u, lr_v, consistency=0.9, balance=0.1, source=source)


_TABLE = "Liu et al. (2022), table A.1"
_CIFAR_N = "the SOP authors' word (issue 12 of their repository): as on CIFAR with symmetric noise"

SETTINGS: dict[str, SOPSettings] = {
    "cifar10-symmetric": _plus(10, 10, _TABLE),
    "cifar10-asymmetric": _plus(10, 100, _TABLE),
    "cifar100-symmetric": _plus(1, 10, _TABLE),
    "cifar100-asymmetric": _plus(
        0.1, 100, f"readme of the authors' code, whose loss this is; {_TABLE}, has lr_u = 1 for an earlier form of it"
    ),
    "cifar10n": _plus(10, 10, _CIFAR_N),
    "cifar100n": _plus(1, 10, _CIFAR_N),
    "clothing1m": SOPSettings(0.1, 1, source=_TABLE),
    "webvision": SOPSettings(0.1, 1, source="Prune4ReL's script for WebVision; no term of SOP+"),
}
"""The published settings by data set, and by the kind of noise where that matters."""


class SOPLoss(NamedTuple):
    """What `SOP` makes of a batch.

    Attributes:
        losses: float [B], with gradient: -log q + squared error + λ_C KL, to be averaged.
        balance: float [], with gradient: the batch's term (this rank's batch under DDP), times λ_B; 0 without it. To be
            added to the average.
        recorded: float [B], without gradient: plain cross-entropy of the (weak) view and the given label, the fit that
            trajectories are made of. Their reference is a cross-entropy without label smoothing.
    """

    losses: Tensor
    balance: Tensor
    recorded: Tensor


class SOP(nn.Module):
    """The loss of SOP or SOP+, with the u and v of every sample. For training only: evaluate the network alone.

    Both views go through the network as one batch, so that its normalisations see them together.

    Args:
        num_samples: size N of the training set, also where it is pruned: rows are read by the samples' indices.
        num_classes: number of classes C, at least 2.
        settings: one of `SETTINGS`, or your own.
        seed: of the first u and v; torch's global generator is not used.

    Attributes:
        u: float32 [N, 1].
        v: float32 [N, C].

    Raises:
        TypeMistake, ValueMistake: for settings out of range.

    Example:
        >>> sop = SOP(len(train_set), 100, SETTINGS["cifar100n"]).to(device)
        >>> label_optimizer = sop.make_optimizer()
        >>> weak, strong = model(torch.cat([x_weak, x_strong])).chunk(2)
        >>> out = sop(index, y, weak, strong)
        >>> loss = pruner.reduce(index, out.losses, record=out.recorded) + out.balance
        >>> loss.backward()
        >>> label_optimizer.step()  # beside the network's own optimiser, and zero_grad() of both

    With a GradScaler, step both optimisers through it. Under DDP leave SOP out of the wrapped model: every rank holds
    all rows and changes those of the samples it reads, so call `sync` after each epoch and before saving.
    """

    _changed: Tensor

    def __init__(self, num_samples: int, num_classes: int, settings: SOPSettings, *, seed: int = 0) -> None:
        super().__init__()
        self.num_samples = integer("num_samples", num_samples, at_least=1, remedy="len(train_set)")
        self.num_classes = integer("num_classes", num_classes, at_least=2, remedy="the number of classes")
        if not isinstance(settings, SOPSettings):
            raise TypeMistake(
                f"settings={settings!r} is {type(settings).__name__}, expected one of losses.SETTINGS, or your own"
            )
        self.settings = settings
        integer("seed", seed, at_least=0, remedy="any non-negative integer")
        generator = torch.Generator().manual_seed(seed)
        u, v = torch.empty(self.num_samples, 1), torch.empty(self.num_samples, self.num_classes)
        self.u = nn.Parameter(u.normal_(0, INITIAL_SCALE, generator=generator))
        self.v = nn.Parameter(v.normal_(0, INITIAL_SCALE, generator=generator))
        # which rows this process has stepped since the last `sync`
        self.register_buffer("_changed", torch.zeros(self.num_samples, dtype=torch.bool), persistent=False)

    def forward(self, index: Tensor, labels: Tensor, logits: Tensor, strong_logits: Tensor | None = None) -> SOPLoss:
        """The losses of a batch.

        Args:
            index: integers [B], the samples' indices in the training set.
            labels: integers [B], given labels, 0 to C - 1.
            logits: float [B, C], with gradient: the network's output, of the weak view where there are two.
            strong_logits: float [B, C], of the strong view; needed where λ_C > 0, and only there.

        Returns:
            float32 (float64 for float64 logits), the losses, on the device of the logits.

        Raises:
            TypeMistake, ValueMistake: for wrong shapes, dtypes or devices, a view that is missing or not used, and for
                indices and labels that are out of range. If those live on an accelerator, its own assertion reports
                them, since to look at them here would stall it.
        """
        self._check_batch(index, labels, logits, strong_logits)
        index, labels = (ids.to(logits.device, torch.int64, non_blocking=True) for ids in (index, labels))
        logits = _full_precision(logits)
        if torch.is_grad_enabled():
            self._changed.index_fill_(0, index, True)
        u, v = (F.embedding(index, rows, sparse=True) for rows in (self.u, self.v))
        losses, q = sop_losses(logits, labels, u, v)
        if strong_logits is not None:
            losses = losses + self.settings.consistency * consistency_losses(logits, _full_precision(strong_logits))
        balance = self.settings.balance * balance_loss(q) if self.settings.balance else losses.new_zeros(())
        return SOPLoss(losses, balance, F.cross_entropy(logits.detach(), labels, reduction="none"))

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

    @torch.no_grad()
    def sync(self) -> None:
        """Bring every rank to the same u and v: each row from the rank that read its sample since the last call.

        A row that several ranks changed (the sampler's padding) becomes their mean. Every rank calls it, after each
        epoch and before `state_dict`; a single process need not.
        """
        rank, world = rank_and_world()
        if world > 1:
            owners = self._changed.to(torch.int32)
            torch.distributed.all_reduce(owners)
            # what nobody changed is the same everywhere: the first rank's copy stands for it
            own = (self._changed | (owners == 0)) if rank == 0 else self._changed
            for rows in (self.u.detach(), self.v.detach()):
                rows.masked_fill_(~own[:, None], 0.0)
                torch.distributed.all_reduce(rows)
                rows.div_(owners.clamp_min(1)[:, None])
        self._changed.zero_()

    # ------------------------------------------------------------------ checks

    def _check_batch(self, index: Tensor, labels: Tensor, logits: Tensor, strong_logits: Tensor | None) -> None:
        self._check_views(logits, strong_logits)
        for name, ids, count in (("index", index, self.num_samples), ("labels", labels, self.num_classes)):
            if ids.dtype not in INTEGERS:
                raise TypeMistake(f"{name} is {ids.dtype}, expected integers [B]: convert with .long()")
            if ids.shape != logits.shape[:1]:
                raise ValueMistake(
                    f"{name} has shape {tuple(ids.shape)} and logits {tuple(logits.shape)}, expected [B] and [B, C]: "
                    f"pass what came with this very batch"
                )
            if ids.is_cpu and len(ids):
                lowest, highest = (bound.item() for bound in torch.aminmax(ids))
                if lowest < 0 or highest >= count:
                    made = "num_samples=len(train_set)" if name == "index" else "the data set's number of classes"
                    raise ValueMistake(
                        f"{name} reaches from {lowest} to {highest}, expected 0 to {count - 1}: make SOP with {made}"
                    )

    def _check_views(self, logits: Tensor, strong_logits: Tensor | None) -> None:
        for name, view in (("logits", logits), ("strong_logits", strong_logits)):
            if view is None:
                continue
            if not view.is_floating_point():
                raise TypeMistake(f"{name} is {view.dtype}, expected a float tensor [B, C]: the network's output")
            if view.ndim != 2 or view.shape[1] != self.num_classes or view.shape != logits.shape:
                raise ValueMistake(
                    f"{name} has shape {tuple(view.shape)}, expected [B, {self.num_classes}], the same for both views: "
                    f"pass the network's outputs of one batch"
                )
            if view.device != self.u.device:
                raise ValueMistake(
                    f"{name} is on {view.device}, expected {self.u.device} as u and v: use sop.to({view.device})"
                )
        if self.settings.consistency and strong_logits is None:
            raise ValueMistake(
                f"strong_logits=None is given with consistency={self.settings.consistency}, expected the logits of a "
                f"second view: pass those of a strong augmentation, or settings with consistency=0"
            )
        if not self.settings.consistency and strong_logits is not None:
            raise ValueMistake(
                "strong_logits is given with consistency=0, which makes no use of it, expected None: leave the second "
                "view out, or pass settings with a consistency (SOP+ has 0.9)"
            )


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
        weak, strong: float [B, C], logits.

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


def _full_precision(logits: Tensor) -> Tensor:
    return logits if logits.dtype in FULL_PRECISION else logits.float()

"""The contract of a loss that resists wrong labels: settings make a module that gives every sample of a batch its loss.

Whatever is minimised, what is recorded of a sample is the plain cross-entropy of its given label. So trajectories,
alignment scores and `robust` mean the same under every loss, and each loss composes with every method that chooses
between epochs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignprune._checks import integer
from alignprune._tensors import FULL_PRECISION, INTEGERS
from alignprune.errors import TypeMistake, ValueMistake


@dataclass(frozen=True)
class LossSettings(ABC):
    """What a loss is tuned by; subclasses are frozen records of their settings.

    Attributes:
        source: where the values come from.
    """

    source: str = field(default="own", kw_only=True, repr=False)  # messages are about the values

    @property
    def needs_strong(self) -> bool:
        """Whether a second, strongly augmented view of every sample is compared with the first."""
        return False

    @property
    def learns(self) -> bool:
        """Whether it learns beside the network, with an optimiser of its own."""
        return False

    @abstractmethod
    def make(self, num_samples: int, num_classes: int, *, seed: int = 0) -> SampleLoss:
        """The loss itself.

        Args:
            num_samples: size N of the training set, also where it is pruned: samples are known by their indices.
            num_classes: number of classes C, at least 2.
            seed: of what it starts from at random; torch's global generator is not used.

        Raises:
            TypeMistake, ValueMistake: for sizes and seeds out of range.
        """


class LossOutcome(NamedTuple):
    """What a loss makes of a batch.

    Attributes:
        losses: float [B], with gradient, to be averaged.
        extra: float [], a term of the whole batch (this rank's under DDP), with gradient where there is one; else 0. To
            be added to the average.
        recorded: float [B], without gradient: plain cross-entropy of the given label, which trajectories are made of.
    """

    losses: Tensor
    extra: Tensor
    recorded: Tensor


class SampleLoss(nn.Module, ABC):
    """A loss by sample. For training only: evaluate the network alone.

    Under DDP leave it out of the wrapped model, and call `sync` on every rank after each epoch and before saving.

    Args:
        num_samples: size N of the training set, also where it is pruned.
        num_classes: number of classes C, at least 2.
        settings: of the class that the loss is made with.

    Raises:
        TypeMistake, ValueMistake: for settings of another loss, and for sizes out of range.

    Example:
        >>> elr = losses.get("elr-cifar100").settings.make(len(train_set), 100).to(device)
        >>> out = elr(index, y, model(x))
        >>> loss = pruner.reduce(index, out.losses, record=out.recorded) + out.extra
    """

    made_with: ClassVar[type[LossSettings]]
    """The class of its settings."""

    active = True
    """Whether it is minimised; else plain cross-entropy is, while what it keeps of the samples moves on all the same.
    Set it before each epoch to ``pruner.selection.memorises is not False``: where a network learns hardly anything by
    heart there is nothing to resist, and a loss that does so all the same slows it down."""

    def __init__(self, num_samples: int, num_classes: int, settings: LossSettings) -> None:
        super().__init__()
        self.num_samples = integer("num_samples", num_samples, at_least=1, remedy="len(train_set)")
        self.num_classes = integer("num_classes", num_classes, at_least=2, remedy="the number of classes")
        if not isinstance(settings, self.made_with):
            raise TypeMistake(
                f"settings={settings!r} is {type(settings).__name__}, expected {self.made_with.__name__}: take those "
                f"of a name in losses.LOSSES, or your own"
            )
        self.settings = settings

    @abstractmethod
    def compute(
        self, index: Tensor, labels: Tensor, logits: Tensor, strong_logits: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The losses [B] and the batch's extra term [] of a batch that has been checked.

        Args:
            index: int64 [B], on the device of the logits.
            labels: int64 [B], on the device of the logits.
            logits: float32 or float64 [B, C].
            strong_logits: as the logits where the settings need them, else None.
        """

    def forward(
        self, index: Tensor, labels: Tensor, logits: Tensor, strong_logits: Tensor | None = None
    ) -> LossOutcome:
        """The losses of a batch.

        Args:
            index: integers [B], the samples' indices in the training set.
            labels: integers [B], given labels, 0 to C - 1.
            logits: float [B, C], with gradient: the network's output, of the weak view where there are two.
            strong_logits: float [B, C], of the strong view; given where the settings need it, and only there.

        Returns:
            float32 (float64 for float64 logits), on the device of the logits.

        Raises:
            TypeMistake, ValueMistake: for wrong shapes, dtypes or devices, a view that is missing or not used, and for
                indices and labels that are out of range. If those live on an accelerator, its own assertion reports
                them, since to look at them here would stall it.
        """
        self._check_views(logits, strong_logits)
        self._check_ids(index, labels, logits)
        index, labels = (ids.to(logits.device, torch.int64, non_blocking=True) for ids in (index, labels))
        logits, strong = _full_precision(logits), None if strong_logits is None else _full_precision(strong_logits)
        losses, extra = self.compute(index, labels, logits, strong)
        plain = F.cross_entropy(logits, labels, reduction="none")
        if not self.active:
            losses, extra = plain, logits.new_zeros(())
        return LossOutcome(losses, extra, plain.detach())

    def make_optimizer(self) -> torch.optim.Optimizer | None:
        """The optimiser of what it learns beside the network; None where it learns nothing."""
        return None

    def sync(self) -> None:
        """Bring what is kept of the samples to the same state on every rank; every rank calls it."""

    # ------------------------------------------------------------------ checks

    @property
    def _device(self) -> torch.device | None:
        """Where it keeps what it keeps of the samples; None where that is nothing."""
        return None

    def _check_views(self, logits: Tensor, strong_logits: Tensor | None) -> None:
        for name, view in (("logits", logits), ("strong_logits", strong_logits)):
            if view is None:
                continue
            if not view.is_floating_point():
                raise TypeMistake(f"{name} is {view.dtype}, expected a float tensor [B, C]: the network's output")
            if view.ndim != 2 or view.shape[1] != self.num_classes or view.shape != logits.shape:
                raise ValueMistake(
                    f"{name} has shape {tuple(view.shape)}, expected [B, {self.num_classes}], the same for both views: "
                    f"the network's output of this very batch"
                )
            expected = self._device or logits.device
            if view.device != expected:
                raise ValueMistake(
                    f"{name} is on {view.device}, expected {expected}, where the loss is: use loss.to({view.device})"
                )
        if self.settings.needs_strong and strong_logits is None:
            raise ValueMistake(
                f"strong_logits=None is given with {type(self.settings).__name__} that compare two views, expected the "
                f"logits of the second: pass those of a strong augmentation, or settings that compare none"
            )
        if not self.settings.needs_strong and strong_logits is not None:
            raise ValueMistake(
                f"strong_logits is given with {type(self.settings).__name__} that compare no views, expected None: "
                f"leave the second view out, or pass settings that compare it"
            )

    def _check_ids(self, index: Tensor, labels: Tensor, logits: Tensor) -> None:
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
                        f"{name} reaches from {lowest} to {highest}, expected 0 to {count - 1}: make the loss with "
                        f"{made}"
                    )


def _full_precision(logits: Tensor) -> Tensor:
    return logits if logits.dtype in FULL_PRECISION else logits.float()

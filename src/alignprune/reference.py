"""The reference: a small set of samples, and its mean loss after every epoch.

    l_ref(t) = mean over D_ref of the loss at the end of epoch t        paper section 3.2, equation 4

Clean samples (or a few of them), a pseudo-clean subset by given indices, or, as the paper's control, random noisy
ones. Never the test set. Measured in evaluation mode, without gradients, with the training criterion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from alignprune._checks import floor, integer, number
from alignprune._ranks import keyed_generator
from alignprune._tensors import UNLABELLED
from alignprune.errors import TypeMistake, ValueMistake

SMALLEST = 10
"""Fewest samples a reference may have: the paper's smallest fraction, 0.1 % of 10,000."""

Losses = Callable[[nn.Module, Any], Tensor]


def cross_entropy_losses(label_smoothing: float = 0.0, device: torch.device | str | None = None) -> Losses:
    """Per-sample cross-entropy of batches ``(inputs, labels)``: what `Reference` uses unless it is given another.

    Samples with the label -100, torch's default ``ignore_index``, have no loss, as in torch's mean.

    Args:
        label_smoothing: as in the training criterion; alignment compares like with like.
        device: where to move the batch; None = where the model's parameters are.

    Returns:
        from (model, batch) to float [M], the losses of the batch's M samples that have a label.
    """

    def losses(model: nn.Module, batch: Any) -> Tensor:
        inputs, labels = batch
        target = device if device is not None else next(model.parameters()).device
        outputs = model(inputs.to(target, non_blocking=True))
        known = labels != UNLABELLED
        if not bool(known.all()):  # labels lie on the host as a rule, so that the device need not be waited for
            outputs, labels = outputs[known.to(outputs.device)], labels[known]
        return F.cross_entropy(
            outputs, labels.to(target, non_blocking=True), reduction="none", label_smoothing=label_smoothing
        )

    return losses


class Reference:
    """A fixed reference set, evaluated after every epoch.

    Args:
        loader: iterable of batches over the reference samples, without dropping or shuffling.
        losses: from (model, batch) to float [M], the losses of the batch's M samples that have a label; default:
            cross-entropy of ``(inputs, labels)``.

    Raises:
        ValueMistake: if the loader's data set has fewer than 10 samples.

    Example:
        >>> reference = ap.Reference.subset(clean_set, size=100)
        >>> pruner.end_epoch(reference_loss=reference.loss(model))
    """

    def __init__(self, loader: DataLoader[Any] | Sequence[Any], losses: Losses | None = None) -> None:
        self.loader = loader
        self.losses = losses if losses is not None else cross_entropy_losses()
        self._count = 0
        dataset = getattr(loader, "dataset", None)
        if dataset is not None:
            _enough(len(dataset))

    @classmethod
    def subset(
        cls,
        dataset: Dataset[Any],
        *,
        size: int | None = None,
        fraction: float | None = None,
        seed: int = 0,
        losses: Losses | None = None,
        batch_size: int = 512,
        num_workers: int = 0,
    ) -> Reference:
        """A random part of a data set: of a clean one, or, as the paper's control, of the noisy training set.

        Args:
            dataset: map-style; all of it, unless ``size`` or ``fraction`` says how much.
            size: samples wanted, at least 10.
            fraction: share wanted, in (0, 1], at least 10 samples.
            seed: which samples.
            losses: as in the class.
            batch_size: samples per evaluation batch.
            num_workers: of the loader.

        Returns:
            the reference, its samples in the order of the data set.

        Raises:
            TypeMistake, ValueMistake: for a size or fraction out of range, both of them, or fewer than 10 samples.
        """
        total = len(dataset)  # type: ignore[arg-type]
        if size is not None and fraction is not None:
            raise ValueMistake(f"size={size} and fraction={fraction} are both given, expected one: leave the other out")
        if fraction is not None:
            number("fraction", fraction, low=0, high=1, remedy="0.01 takes one in a hundred")
            size = floor(fraction * total)
        size = total if size is None else integer("size", size, at_least=0, remedy="samples of the reference")
        if size > total:
            raise ValueMistake(
                f"size={size} is out of range, expected at most {total}, the samples of the data set: ask for fewer"
            )
        drawn = torch.randperm(total, generator=keyed_generator(seed, 0, "reference"), device="cpu")[:size]
        return cls.indices(dataset, drawn.sort().values, losses=losses, batch_size=batch_size, num_workers=num_workers)

    @classmethod
    def indices(
        cls,
        dataset: Dataset[Any],
        indices: Tensor | Sequence[int],
        *,
        losses: Losses | None = None,
        batch_size: int = 512,
        num_workers: int = 0,
    ) -> Reference:
        """Given samples of a data set: a pseudo-clean subset that some coreset method chose.

        Args:
            dataset: map-style.
            indices: integers [M], M >= 10, each once.
            losses: as in `subset`.
            batch_size: as in `subset`.
            num_workers: as in `subset`.

        Returns:
            the reference, its samples in the order of the indices.

        Raises:
            TypeMistake, ValueMistake: for indices that are not integers [M], outside the data set or repeated, and for
                fewer than 10.
        """
        total = len(dataset)  # type: ignore[arg-type]
        _enough(len(indices))
        wanted = torch.as_tensor(indices, device="cpu")
        if wanted.ndim != 1 or wanted.is_floating_point() or wanted.dtype == torch.bool:
            raise TypeMistake(
                f"indices is {wanted.dtype} of shape {tuple(wanted.shape)}, expected integers [M]: positions in the "
                f"data set"
            )
        if wanted.min() < 0 or wanted.max() >= total:
            raise ValueMistake(
                f"indices reaches from {int(wanted.min())} to {int(wanted.max())}, expected 0 to {total - 1}: take "
                f"positions in this very data set"
            )
        if len(wanted.unique()) < len(wanted):
            raise ValueMistake(
                f"indices has {len(wanted) - len(wanted.unique())} repetitions, expected each sample once: drop them"
            )
        loader = DataLoader(
            Subset(dataset, wanted.tolist()),
            batch_size=batch_size,
            num_workers=num_workers,
            generator=keyed_generator(0, 0, "reference workers"),  # else each pass draws from the global generator
        )
        return cls(loader, losses)

    def __len__(self) -> int:
        """Samples evaluated per epoch, the reference's forward passes; of a plain list known after the first `loss`."""
        dataset = getattr(self.loader, "dataset", None)
        return self._count if dataset is None else len(dataset)

    @torch.no_grad()
    def loss(self, model: nn.Module) -> float:
        """Mean loss over the reference set, evaluation mode; the model's modes are put back.

        Args:
            model: any module that `losses` can call.

        Returns:
            the mean over the samples that have a label.

        Raises:
            ValueMistake: if the loader has no batch or fewer than 10 samples, or ``losses`` returns averages.
        """
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        total, count = None, 0
        try:
            for batch in self.loader:
                losses = self.losses(model, batch)
                if losses.ndim != 1:
                    raise ValueMistake(
                        f"losses has shape {tuple(losses.shape)}, expected [B], one loss a sample: use reduction='none'"
                    )
                part = losses.sum(dtype=torch.float64) if losses.device.type != "mps" else losses.float().sum()
                total = part if total is None else total + part
                count += len(losses)
        finally:
            for module, mode in modes:
                module.training = mode
        if total is None:
            raise ValueMistake(
                "loader has no batch, expected at least one: check its data set, drop_last and batch_size"
            )
        _enough(count)
        self._count = count
        return float(total) / count


def _enough(size: int) -> None:
    if size < SMALLEST:
        raise ValueMistake(
            f"reference has {size} samples, expected at least {SMALLEST}: take more, the mean loss of so few is noise"
        )

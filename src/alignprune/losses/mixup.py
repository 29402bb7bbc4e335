"""Mixup and CutMix: a loss that belongs to two samples is given back to both.

The criterion of a mixed item i, of sample i and its partner p(i), is ``lam * l(out_i, y_i) + (1 - lam) * l(out_i,
y_p(i))``. The first part says how well the label of sample i fits, the second how well that of its partner does. So a
sample's loss is the sum of the parts that judge its own label: one where it comes first, one where it is the partner.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alignprune._tensors import INTEGERS
from alignprune.errors import TypeMistake, ValueMistake


def mixup_losses(first: Tensor, second: Tensor, lam: float | Tensor, partner: Tensor) -> Tensor:
    """One loss a sample out of the two losses of every mixed item, for `Pruner.reduce`.

    ``loss_i = lam_i * first_i + sum over j with partner_j = i of (1 - lam_j) * second_j``. Their sum is that of the
    mixed losses, so without weights the mean and its gradient are those of plain mixup.

    Args:
        first: float [B], the criterion of the outputs and the labels, ``reduction="none"``.
        second: float [B], the criterion of the outputs and the partners' labels, ``y[partner]``.
        lam: share of the sample in its mixed item, in [0, 1]: a number, or float [B] where items differ (CutMix: the
            share of the area that is left).
        partner: integers [B], positions in the batch: item i mixes sample i with sample ``partner[i]``.

    Returns:
        float [B], with gradient, in the dtype of the losses.

    Raises:
        TypeMistake, ValueMistake: for shapes that differ, and for partners that are no integers.

    Source: Zhang et al. (ICLR 2018), mixup; Yun et al. (ICCV 2019), CutMix.
    """
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueMistake(
            f"first has shape {tuple(first.shape)} and second {tuple(second.shape)}, expected [B] both: compute the "
            f"criterion with reduction='none', once for y and once for y[partner]"
        )
    if partner.dtype not in INTEGERS:
        raise TypeMistake(f"partner is {partner.dtype}, expected integers [B]: positions in the batch, as of randperm")
    if partner.shape != first.shape:
        raise ValueMistake(
            f"partner has shape {tuple(partner.shape)}, expected [{len(first)}]: one partner for every item of the "
            f"batch"
        )
    share = torch.as_tensor(lam, dtype=first.dtype, device=first.device)
    if share.ndim and share.shape != first.shape:
        raise ValueMistake(f"lam has shape {tuple(share.shape)}, expected a number or [{len(first)}], one an item")
    return (share * first).index_add(0, partner.to(first.device), (1 - share) * second)

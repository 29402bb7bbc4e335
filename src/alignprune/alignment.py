"""The Dynamic Alignment Score (DAS): how far a sample's loss trajectory moves with the reference trajectory.

    DAS_i = rho(v_i, v_ref)            paper section 3.2, equations 3 to 5

Pure functions. A trajectory bank is [window, num_samples], one row an epoch; NaN marks an epoch in which the
sample was not trained on. Only the epochs in which a sample was seen enter its score.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from alignprune.errors import ValueMistake

CorrelationName = Literal["pearson", "cosine"]
FlatRule = Literal["zero", "exempt"]

FLAT_VARIANCE = 1e-12
"""A trajectory whose variance (mean of centred squares) is below this carries no trend."""

_EXACT_COLUMNS = 16_384  # samples per chunk: 25 epochs of them in float64 are 3 MB


def pearson(trajectories: Tensor, reference: Tensor) -> Tensor:
    """Pearson correlation of every trajectory with the reference, in float64 inside.

    Args:
        trajectories: losses [window, num_samples], any float dtype, NaN where a sample was not seen.
        reference: reference losses [window], or [window, num_samples] if every sample has epochs of its own;
            an epoch whose reference is NaN is left out.

    Returns:
        float32 [num_samples] in [-1, 1]; NaN where fewer than two epochs are common or a variance is below
        ``FLAT_VARIANCE``.

    Source: paper section 3.2, equation 5; Pearson (1895).
    """
    return _by_columns(_pearson_columns, trajectories, reference)


def cosine(trajectories: Tensor, reference: Tensor) -> Tensor:
    """Cosine similarity of every trajectory with the reference: Pearson without the centring.

    Args, Returns: as in `pearson`; NaN where a mean square is below ``FLAT_VARIANCE``.

    Source: paper section 4.4, the ablation of the correlation function.
    """
    return _by_columns(_cosine_columns, trajectories, reference)


CORRELATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"pearson": pearson, "cosine": cosine}


def dynamic_alignment_score(
    trajectories: Tensor,
    reference: Tensor,
    *,
    correlation: CorrelationName = "pearson",
    min_observations: int = 3,
    flat: FlatRule = "zero",
) -> Tensor:
    """Score every sample by the correlation of its trajectory with the reference trajectory.

    Args:
        trajectories: losses [window, num_samples], NaN where a sample was not seen.
        reference: reference losses [window] or [window, num_samples].
        correlation: "pearson" (the paper's) or "cosine".
        min_observations: samples seen in fewer epochs than this get no score.
        flat: what a trajectory without a trend gets: "zero" (neutral) or "exempt" (no score).

    Returns:
        float32 [num_samples], higher = moves with the reference = likely clean; NaN means "no score yet".

    Source: paper section 3.2, equation 5.
    """
    score = CORRELATIONS[correlation](trajectories, reference)
    if flat == "zero":
        score = score.nan_to_num(nan=0.0)
    return score.masked_fill_(_observations(trajectories, reference) < min_observations, math.nan)


def _observations(trajectories: Tensor, reference: Tensor) -> Tensor:
    known = ~reference.isnan().to(trajectories.device)
    seen = ~trajectories.isnan()
    return seen.logical_and_(known if known.ndim == 2 else known.unsqueeze(1)).sum(0)


def _by_columns(correlate: Callable[[Tensor, Tensor], Tensor], trajectories: Tensor, reference: Tensor) -> Tensor:
    if trajectories.ndim != 2:
        raise ValueMistake(
            f"trajectories has shape {tuple(trajectories.shape)}, expected [window, num_samples]: one row an epoch"
        )
    if reference.shape not in (trajectories.shape[:1], trajectories.shape):
        raise ValueMistake(
            f"reference has shape {tuple(reference.shape)}, expected {tuple(trajectories.shape[:1])} (one loss an "
            f"epoch) or {tuple(trajectories.shape)} (one for every loss)"
        )
    reference = reference.double().to(trajectories.device)
    out = torch.empty(trajectories.shape[1], dtype=torch.float32, device=trajectories.device)
    for start in range(0, trajectories.shape[1], _EXACT_COLUMNS):
        columns = slice(start, start + _EXACT_COLUMNS)
        own = reference[:, columns] if reference.ndim == 2 else reference.unsqueeze(1)
        out[columns] = correlate(trajectories[:, columns].double(), own)
    return out


def _pearson_columns(x: Tensor, r: Tensor) -> Tensor:
    seen = ~(x.isnan() | r.isnan())
    count = seen.sum(0)
    dx = torch.where(seen, x - torch.where(seen, x, 0.0).sum(0) / count, 0.0)
    dr = torch.where(seen, r - torch.where(seen, r, 0.0).sum(0) / count, 0.0)
    return _ratio(dx, dr, count, fewest=2)


def _cosine_columns(x: Tensor, r: Tensor) -> Tensor:
    seen = ~(x.isnan() | r.isnan())
    return _ratio(torch.where(seen, x, 0.0), torch.where(seen, r, 0.0), seen.sum(0), fewest=1)


def _ratio(x: Tensor, r: Tensor, count: Tensor, fewest: int) -> Tensor:
    xx, rr, xr = x.square().sum(0), r.square().sum(0), (x * r).sum(0)
    least = FLAT_VARIANCE * count.double()
    flat = (xx < least) | (rr < least) | (count < fewest)
    return (xr / (xx.sqrt() * rr.sqrt())).clamp_(-1.0, 1.0).masked_fill_(flat, math.nan)

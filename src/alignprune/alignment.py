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

CorrelationName = Literal["pearson", "cosine"]
FlatRule = Literal["zero", "exempt"]

FLAT_VARIANCE = 1e-12
"""A trajectory whose variance (mean of centred squares) is below this carries no trend."""

_EXACT_COLUMNS = 16_384  # samples per chunk of the float64 path: 25 epochs of them are 3 MB
_STREAM_COLUMNS = 131_072  # samples per chunk of the streamed path: its temporaries stay in the second-level cache
_TABLE = 13  # rows per lookup table: 8,192 patterns of three sums are 98 kB
_WORD = 2 * _TABLE  # rows per int32 word of `seen`
_ILL_CONDITIONED = 64.0**-2  # variance / mean^2 below which float32 sums lose the third digit of the score


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

    Source: paper section 3.2, equation 5; open points as methods A2 and A3 of the specification.
    """
    score = CORRELATIONS[correlation](trajectories, reference)
    if flat == "zero":
        score = score.nan_to_num(nan=0.0)
    return score.masked_fill_(_observations(trajectories, reference) < min_observations, math.nan)


def streamed_alignment_score(
    rows: Tensor,
    squares: Tensor,
    seen: Tensor | None,
    reference: Tensor,
    *,
    correlation: CorrelationName = "pearson",
    min_observations: int = 3,
    flat: FlatRule = "zero",
) -> Tensor:
    """The same score as `dynamic_alignment_score`, from one pass over a bank's rows.

    One matrix product gives every sum over the losses, since a gap holds 0; the bits of ``seen``, looked up in tables,
    give every sum over the reference; the squares are kept by the bank. Columns in which float32 sums would cancel
    (mean > 64 standard deviations) are computed again in float64; elsewhere the two differ by less than 1e-3.

    Args:
        rows: losses [window, num_samples], float32, 0 where a sample was not seen.
        squares: float32 [num_samples], the sum of the squares of every column of `rows`.
        seen: `packed` bits [words, num_samples] of the rows in which a sample was seen; None where it always was.
        reference: reference losses [window], finite.
        correlation, min_observations, flat: as in `dynamic_alignment_score`.

    Returns:
        float32 [num_samples]; NaN means "no score yet".
    """
    window, num_samples = rows.shape
    device = rows.device
    out = torch.empty(num_samples, dtype=torch.float32, device=device)
    centred = reference.double() - (reference.double().mean() if correlation == "pearson" else 0.0)
    scale = float(centred.abs().amax().clamp_min(torch.finfo(torch.float64).tiny))
    weights = (centred / scale).float().to(device)
    over_losses = torch.stack([torch.ones_like(weights), weights])
    over_reference = torch.stack([torch.ones_like(weights), weights, weights.square()])
    lookup = None if seen is None else _Lookup(over_reference)
    whole = over_reference.double().sum(1).float().unsqueeze(1)
    reference_floor = FLAT_VARIANCE * window / scale**2
    sums = torch.empty(2 * _STREAM_COLUMNS, device=device)
    doubts = []

    for start in range(0, num_samples, _STREAM_COLUMNS):
        columns = slice(start, min(start + _STREAM_COLUMNS, num_samples))
        size = columns.stop - start
        x, xr = torch.mm(over_losses, rows[:, columns], out=sums[: 2 * size].view(2, size)).unbind(0)
        count, r, rr = (whole if lookup is None or seen is None else lookup(seen[:, columns])).unbind(0)
        vx, vr = squares[columns], rr
        doubtful = -vx
        if correlation == "pearson":
            mean_r = r / count
            vx = torch.addcmul(vx, x / count, x, value=-1)
            vr = torch.addcmul(rr, mean_r, r, value=-1)
            xr.addcmul_(x, mean_r, value=-1)
            doubtful = torch.sub(squares[columns], vx, alpha=1 / _ILL_CONDITIONED)  # > 0: mean^2 dwarfs the variance
            if lookup is not None:
                doubtful = torch.maximum(doubtful, torch.sub(rr, vr, alpha=1 / _ILL_CONDITIONED))
        score = out[columns]
        torch.mul(xr, vx.mul(vr).rsqrt_(), out=score).clamp_(-1.0, 1.0)
        flat_or_doubtful = (doubtful >= 0).logical_or_(vx < FLAT_VARIANCE * window).logical_or_(vr < reference_floor)
        if lookup is not None or window < min_observations:
            score.masked_fill_(count < min_observations, math.nan)
        doubts.append(flat_or_doubtful.nonzero().squeeze(1) + start)
    again = torch.cat(doubts)
    if len(again):
        trajectories = rows.index_select(1, again)
        if seen is not None:
            trajectories.masked_fill_(~unpacked(seen.index_select(1, again), window), math.nan)
        out[again] = dynamic_alignment_score(
            trajectories,
            reference.to(device),
            correlation=correlation,
            min_observations=min_observations,
            flat=flat,
        )
    return out


def packed_words(window: int) -> int:
    """How many int32 words hold one bit for every row of a window."""
    return -(-window // _WORD)


def set_packed(seen: Tensor, row: int, observed: Tensor) -> None:
    """Write one row's bits.

    Args:
        seen: int32 [words, num_samples], changed in place.
        row: which row of the window.
        observed: bool [num_samples].
    """
    word, bit = seen[row // _WORD], 1 << (row % _WORD)
    word.bitwise_and_(~bit).bitwise_or_(observed.to(torch.int32).mul_(bit))


def unpacked(seen: Tensor, window: int) -> Tensor:
    """The bits of every row, bool [window, num_samples]."""
    rows = torch.arange(window, device=seen.device)
    return (seen[rows // _WORD] >> (rows % _WORD).to(torch.int32).unsqueeze(1)).bitwise_and_(1).bool()


class _Lookup:
    """Sums of weights over the rows that a sample was seen in, by tables over 13 rows at a time.

    Args:
        weights: float32 [k, window].
    """

    def __init__(self, weights: Tensor) -> None:
        patterns = torch.arange(1 << _TABLE, device=weights.device)
        self.tables = []
        for first in range(0, weights.shape[1], _TABLE):
            part = weights[:, first : first + _TABLE]
            bits = torch.arange(part.shape[1], device=weights.device).unsqueeze(1)
            chosen = (patterns >> bits).bitwise_and_(1).to(weights.dtype)
            self.tables.append((first // _WORD, first % _WORD, part @ chosen))

    def __call__(self, seen: Tensor) -> Tensor:
        """The sums, float32 [k, n], for `packed` bits [words, n]."""
        total = None
        for word, shift, table in self.tables:
            found = table.index_select(1, (seen[word] >> shift).bitwise_and_((1 << _TABLE) - 1))
            total = found if total is None else total.add_(found)
        assert total is not None
        return total


def _observations(trajectories: Tensor, reference: Tensor) -> Tensor:
    known = ~reference.isnan().to(trajectories.device)
    seen = ~trajectories.isnan()
    return seen.logical_and_(known if known.ndim == 2 else known.unsqueeze(1)).sum(0)


def _by_columns(correlate: Callable[[Tensor, Tensor], Tensor], trajectories: Tensor, reference: Tensor) -> Tensor:
    if trajectories.ndim != 2:
        raise ValueError(
            f"trajectories has shape {tuple(trajectories.shape)}, expected [window, num_samples]: one row an epoch"
        )
    if reference.shape not in (trajectories.shape[:1], trajectories.shape):
        raise ValueError(
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
    flat = (xx < FLAT_VARIANCE * count) | (rr < FLAT_VARIANCE * count) | (count < fewest)
    return (xr / (xx.sqrt() * rr.sqrt())).clamp_(-1.0, 1.0).masked_fill_(flat, math.nan)

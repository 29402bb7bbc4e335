"""The alignment score in one pass over a bank, as it is stored: the same numbers, several times as fast."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from alignprune.alignment import FLAT_VARIANCE, CorrelationName, FlatRule, dynamic_alignment_score
from alignprune.memory.packing import SeenSums, chunks, uninitialised, unpacked

_COLUMNS = 131_072  # samples per chunk: few calls, each long enough for several threads
_BATCHED = 2_048  # samples per product of a batch of them: it reads its rows once, for all weights
_ILL_CONDITIONED = 100.0**-2  # ratio of variance to mean square below which float32 sums cancel too far
_SMALL_VARIANCES = 1e-8  # product of the two variances below which a trajectory or the reference may be flat


def streamed_alignment_score(
    rows: Tensor,
    squares: Tensor,
    seen: Tensor | None,
    reference: Tensor,
    *,
    correlation: CorrelationName = "pearson",
    min_observations: int = 3,
    flat: FlatRule = "zero",
    out: Tensor | None = None,
) -> Tensor:
    """The same score as `dynamic_alignment_score`, from one pass over a bank's rows.

    A product gives every sum over the losses, since a gap holds 0; the bits of ``seen``, looked up in tables, give
    every sum over the reference; the squares are kept by the bank. Columns in which float32 sums would cancel
    (mean > 100 standard deviations) or a trend may be missing are computed again in float64; elsewhere the two differ
    by less than 3e-3, mostly by less than 1e-4.

    Args:
        rows: losses [window, num_samples], float32 or a half precision, 0 where a sample was not seen.
        squares: float32 [num_samples], the sum of the squares of every column of `rows`.
        seen: `set_packed` bits [words, num_samples] of the rows in which a sample was seen; None where it always was.
        reference: reference losses [window], finite.
        correlation: as in `dynamic_alignment_score`.
        min_observations: as in `dynamic_alignment_score`.
        flat: as in `dynamic_alignment_score`.
        out: float32 [num_samples] to write the scores to; None makes it.

    Returns:
        float32 [num_samples]; NaN means "no score yet".
    """
    window, num_samples = rows.shape
    out = uninitialised(num_samples, device=rows.device) if out is None else out
    if window < min_observations:
        return out.fill_(math.nan)
    centred = reference.double() - (reference.double().mean() if correlation == "pearson" else 0.0)
    length = float(centred.norm())
    if length**2 < FLAT_VARIANCE * window:  # nothing to move with
        out.fill_(0.0 if flat == "zero" else math.nan)
        few = None if seen is None else unpacked(seen, window).sum(0) < min_observations
        return out if few is None else out.masked_fill_(few, math.nan)
    weights = (centred / length).float().to(rows.device)  # of unit length: over a whole window rr = 1
    ones = torch.ones_like(weights)
    step = min(num_samples, _COLUMNS)
    sums_over = _LossSums(torch.stack([ones, weights]), step, rows.dtype)
    lookup = None if seen is None else SeenSums(torch.stack([ones, weights, weights.square()]), step)
    workspace = uninitialised(3, step, device=rows.device)
    doubts = []

    for columns in chunks(slice(0, num_samples), step):
        x, xr = sums_over(rows[:, columns]).unbind(1)
        vx, mean, margin = (part[: columns.stop - columns.start].view(x.shape) for part in workspace)
        xx, score = squares[columns].view(x.shape), out[columns].view(x.shape)
        if lookup is None or seen is None:  # count = window, r = 0, rr = 1
            few = None
            variances = torch.addcmul(xx, x, x, value=-1 / window, out=vx) if correlation == "pearson" else vx.copy_(xx)
        else:
            count, r, rr = (part.view(x.shape) for part in lookup(seen[:, columns]))
            few = count < min_observations if float(count.amin()) < min_observations else None
            if correlation == "pearson":
                torch.div(x, count, out=mean)
                torch.addcmul(xx, mean, x, value=-1, out=vx)
                rr.addcmul_(torch.div(r, count, out=count), r, value=-1)
                xr.addcmul_(mean, r, value=-1)
            else:
                vx.copy_(xx)
            variances = vx.mul_(rr)
        torch.sub(variances, xx, alpha=_ILL_CONDITIONED, out=margin)  # rr <= 1: errs on the side of doubt
        if not float(margin.amin()) > _SMALL_VARIANCES:  # also where a sum is infinite
            if few is not None:
                margin.masked_fill_(few, math.inf)  # no score, so no doubt
            doubts.append(_not_above(margin.flatten(), _SMALL_VARIANCES) + columns.start)
        torch.mul(xr, variances.rsqrt_(), out=score).clamp_(-1.0, 1.0)
        if few is not None:
            score.masked_fill_(few, math.nan)
    if doubts:
        again = torch.cat(doubts)
        trajectories = rows.index_select(1, again)
        if seen is not None:
            trajectories.masked_fill_(~unpacked(seen.index_select(1, again), window), math.nan)
        out[again] = dynamic_alignment_score(
            trajectories,
            reference.to(rows.device),
            correlation=correlation,
            min_observations=min_observations,
            flat=flat,
        )
    return out


class _LossSums:
    """Weighted sums over the rows of a bank.

    Args:
        weights: float32 [k, window].
        size: most samples asked about at once.
        dtype: of the rows.
    """

    def __init__(self, weights: Tensor, size: int, dtype: torch.dtype) -> None:
        self.weights = weights
        self.sums = uninitialised(len(weights) * size, device=weights.device)
        self.wide = None if dtype == torch.float32 else uninitialised(weights.shape[1] * size, device=weights.device)

    def __call__(self, block: Tensor) -> Tensor:
        """The sums, float32 [batch, k, n / batch], over the rows [window, n]; overwritten by the next call."""
        window, size = block.shape
        if self.wide is not None:
            block = self.wide[: window * size].view(window, size).copy_(block)
        width = _BATCHED if size % _BATCHED == 0 else size
        batch = block.unflatten(1, (-1, width)).transpose(0, 1)
        sums = self.sums[: len(self.weights) * size].view(len(batch), -1, width)
        return torch.bmm(self.weights.expand(len(batch), -1, -1), batch, out=sums)


def _not_above(values: Tensor, bound: float) -> Tensor:
    """Positions of values that are at most ``bound``, or NaN; on the host NumPy's search is several times faster."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(~(values.numpy() > bound)))
    return (values > bound).logical_not_().nonzero().squeeze(1)

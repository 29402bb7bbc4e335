"""The Dynamic Alignment Score (DAS): how far a sample's loss trajectory moves with the reference trajectory.

    DAS_i = rho(v_i, v_ref)            paper section 3.2, equations 3 to 5

Pure functions. A trajectory bank is [window, num_samples], one row an epoch; NaN marks an epoch in which the
sample was not trained on. Only the epochs in which a sample was seen enter its score.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Literal, ParamSpec

import numpy as np
import torch
from torch import Tensor

from alignprune.errors import ValueMistake

CorrelationName = Literal["pearson", "cosine"]
FlatRule = Literal["zero", "exempt"]

_Arguments = ParamSpec("_Arguments")

FLAT_VARIANCE = 1e-12
"""A trajectory whose variance (mean of centred squares) is below this carries no trend."""

_EXACT_COLUMNS = 16_384  # samples per chunk of the float64 path: 25 epochs of them are 3 MB
_STREAM_COLUMNS = 262_144  # samples per chunk of the streamed path: few calls, and temporaries that stay in cache
_LARGE = 1 << 20  # float32 entries in 4 MiB
_TABLE = 13  # rows per lookup table: 8,192 patterns of three sums are 98 kB
_WORD = 2 * _TABLE  # rows per int32 word of `seen`
_ILL_CONDITIONED = 100.0**-2  # ratio of variance to mean square below which float32 sums cancel too far
_SMALL_VARIANCES = 1e-8  # product of the two variances below which a trajectory or the reference may be flat


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


def _in_full_float32(score: Callable[_Arguments, Tensor]) -> Callable[_Arguments, Tensor]:
    """Keep the caller's autocast and reduced matmul precision, meant for the network, away from a score."""

    @functools.wraps(score)
    def wrapped(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Tensor:
        precision = torch.get_float32_matmul_precision()
        device = next(value for value in args if isinstance(value, Tensor)).device.type
        try:
            torch.set_float32_matmul_precision("highest")
            with torch.autocast(device, enabled=False):
                return score(*args, **kwargs)
        finally:
            torch.set_float32_matmul_precision(precision)

    return wrapped


@_in_full_float32
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
    (mean > 100 standard deviations) or a trend may be missing are computed again in float64; elsewhere the two differ
    by less than 3e-3, mostly by less than 1e-4.

    Args:
        rows: losses [window, num_samples], float32, 0 where a sample was not seen.
        squares: float32 [num_samples], the sum of the squares of every column of `rows`.
        seen: `set_packed` bits [words, num_samples] of the rows in which a sample was seen; None where it always was.
        reference: reference losses [window], finite.
        correlation, min_observations, flat: as in `dynamic_alignment_score`.

    Returns:
        float32 [num_samples]; NaN means "no score yet".
    """
    window, num_samples = rows.shape
    out = uninitialised(num_samples, device=rows.device)
    if window < min_observations:
        return out.fill_(math.nan)
    centred = reference.double() - (reference.double().mean() if correlation == "pearson" else 0.0)
    length = float(centred.norm())
    if length**2 < FLAT_VARIANCE * window:  # nothing to move with
        out.fill_(0.0 if flat == "zero" else math.nan)
        few = None if seen is None else unpacked(seen, window).sum(0) < min_observations
        return out if few is None else out.masked_fill_(few, math.nan)
    weights = (centred / length).float().to(rows.device)  # of unit length: over a whole window rr = 1
    over_losses = torch.stack([torch.ones_like(weights), weights])
    over_reference = torch.stack([torch.ones_like(weights), weights, weights.square()])
    step = min(num_samples, _STREAM_COLUMNS if seen is None else _STREAM_COLUMNS // 2)  # look-ups need as much again
    lookup = None if seen is None else _Lookup(over_reference, step)
    workspace = uninitialised(5, step, device=rows.device)
    doubts = []

    for start in range(0, num_samples, step):
        columns = slice(start, min(start + step, num_samples))
        sums, (vx, mean, margin) = workspace[:2, : columns.stop - start], workspace[2:, : columns.stop - start]
        x, xr = torch.mm(over_losses, rows[:, columns], out=sums).unbind(0)
        xx, score = squares[columns], out[columns]
        if lookup is None or seen is None:  # count = window, r = 0, rr = 1
            few = None
            variances = torch.addcmul(xx, x, x, value=-1 / window, out=vx) if correlation == "pearson" else vx.copy_(xx)
        else:
            count, r, rr = lookup(seen[:, columns]).unbind(0)
            few = count < min_observations if float(count.min()) < min_observations else None
            if correlation == "pearson":
                torch.div(x, count, out=mean)
                torch.addcmul(xx, mean, x, value=-1, out=vx)
                rr.addcmul_(torch.div(r, count, out=count), r, value=-1)
                xr.addcmul_(mean, r, value=-1)
            else:
                vx.copy_(xx)
            variances = vx.mul_(rr)
        torch.sub(variances, xx, alpha=_ILL_CONDITIONED, out=margin)  # rr <= 1: errs on the side of doubt
        if not float(margin.min()) > _SMALL_VARIANCES:  # also where a sum is infinite
            if few is not None:
                margin.masked_fill_(few, math.inf)  # no score, so no doubt
            doubts.append(_not_above(margin, _SMALL_VARIANCES) + start)
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
        size: most samples asked about at once.
    """

    def __init__(self, weights: Tensor, size: int) -> None:
        patterns = torch.arange(1 << _TABLE, device=weights.device)
        self.buffers = uninitialised(2, len(weights), size, device=weights.device)
        self.key = torch.empty(size, dtype=torch.int32, device=weights.device)
        self.tables = []
        for first in range(0, weights.shape[1], _TABLE):
            part = weights[:, first : first + _TABLE]
            bits = torch.arange(part.shape[1], device=weights.device).unsqueeze(1)
            chosen = (patterns >> bits).bitwise_and_(1).to(weights.dtype)
            self.tables.append((first // _WORD, first % _WORD, part @ chosen))

    def __call__(self, seen: Tensor) -> Tensor:
        """The sums, float32 [k, n], for the bits [words, n]; overwritten by the next call."""
        size = seen.shape[1]
        if size < self.key.shape[0]:  # the last chunk: an output must be contiguous
            self.buffers, self.key = self.buffers.new_empty(*self.buffers.shape[:2], size), self.key[:size]
        (total, found), key = self.buffers.unbind(0), self.key
        for place, (word, shift, table) in enumerate(self.tables):
            if shift:  # the upper half of a word, which has no bits beyond
                torch.bitwise_right_shift(seen[word], shift, out=key)
            else:
                torch.bitwise_and(seen[word], (1 << _TABLE) - 1, out=key)
            torch.index_select(table, 1, key, out=found if place else total)
            if place:
                total.add_(found)
        return total


def uninitialised(*shape: int, device: torch.device) -> Tensor:
    """Uninitialised float32. On the host NumPy allocates what is large: it asks for huge pages from 4 MiB on, and to
    touch fresh memory is then several times faster."""
    size = math.prod(shape)
    if device.type != "cpu" or size < _LARGE // 4:
        return torch.empty(shape, dtype=torch.float32, device=device)
    return torch.from_numpy(np.empty(max(size, _LARGE), dtype=np.float32)[:size]).view(shape)


def _not_above(values: Tensor, bound: float) -> Tensor:
    """Positions of values that are at most ``bound``, or NaN; on the host NumPy's search is several times faster."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(~(values.numpy() > bound)))
    return (values > bound).logical_not_().nonzero().squeeze(1)


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
    out = uninitialised(trajectories.shape[1], device=trajectories.device)
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

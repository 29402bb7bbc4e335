"""How a bank is stored: one bit for every epoch a sample was seen in, and sums over those bits by table look-ups."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

_LARGE, _HUGE = 1 << 20, 1 << 22  # bytes: what is worth a huge page, and what NumPy asks for one from
_TABLE = 13  # rows per lookup table: 8,192 patterns of three sums are 98 kB
_WORD = 2 * _TABLE  # rows per int32 word of `seen`


def chunks(columns: slice, size: int) -> Iterator[slice]:
    """Consecutive slices of at most ``size`` columns that make up one slice."""
    for start in range(columns.start, columns.stop, size):
        yield slice(start, min(start + size, columns.stop))


def packed_words(window: int) -> int:
    """How many int32 words hold one bit for every row of a window."""
    return -(-window // _WORD)


def set_packed(seen: Tensor, row: int, observed: Tensor) -> None:
    """Write one row's bits.

    Args:
        seen: int32 [words, num_samples], changed in place.
        row: which row of the window.
        observed: [num_samples], 0 or 1, of any dtype.
    """
    word, bit = seen[row // _WORD], 1 << (row % _WORD)
    word.bitwise_and_(~bit).add_(observed.to(torch.int32), alpha=bit)


def unpacked(seen: Tensor, window: int) -> Tensor:
    """The bits of every row, bool [window, num_samples]."""
    rows = torch.arange(window, device=seen.device)
    return (seen[rows // _WORD] >> (rows % _WORD).to(torch.int32).unsqueeze(1)).bitwise_and_(1).bool()


def unpacked_row(seen: Tensor, row: int) -> Tensor:
    """The bits of one row as numbers, float32 [num_samples]."""
    return seen[row // _WORD].bitwise_right_shift(row % _WORD).bitwise_and_(1).float()


class SeenSums:
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
        (total, part), key = self.buffers.unbind(0), self.key
        for place, (word, shift, table) in enumerate(self.tables):
            if shift:  # the upper half of a word, which has no bits beyond
                torch.bitwise_right_shift(seen[word], shift, out=key)
            else:
                torch.bitwise_and(seen[word], (1 << _TABLE) - 1, out=key)
            torch.index_select(table, 1, key, out=part if place else total)
            if place:
                total.add_(part)
        return total


def uninitialised(*shape: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Uninitialised numbers. On the host NumPy allocates what is large: it asks for huge pages from 4 MiB on, and to
    touch fresh memory is then several times faster."""
    size = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or size < _LARGE:
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.empty(max(size, _HUGE), dtype=np.uint8)[:size]).view(dtype).view(shape)

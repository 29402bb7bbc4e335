"""Ranks and draws: who this process is, and what chance decides.

A draw is decided by a key, a hash of (seed, epoch, purpose, sample), and never by where a sample stands in some array:
k of n without replacement are those with the k smallest keys. So every rank that asks about a sample gets the same
answer, whichever part of the samples it holds. The global generators of torch and NumPy are never touched.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Keys = NDArray[np.uint32]

DRAWS = 2
"""Version of the draws: the same seed gives the same selections where this is the same. 1 drew by position."""

_CHUNK = 65_536  # samples hashed at a time, so that all passes over them stay in cache
_ROUNDS = 3
_SPREAD = 6.0  # standard deviations that the k-th smallest of uniform keys is looked for around its expectation
_FEW = 4_096  # keys, below which to look for the k-th smallest in a part of them saves nothing


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of ranks; (0, 1) without an initialised process group."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def keyed_generator(seed: int, epoch: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """An own generator whose stream depends on its key alone, for draws that are not of samples."""
    return torch.Generator(device).manual_seed(int.from_bytes(_digest(seed, epoch, purpose, 8), "little") >> 1)


@dataclass(frozen=True)
class Draws:
    """The draws of one epoch.

    Attributes:
        seed: of the run, the same on every rank.
        epoch: that is drawn for.
    """

    seed: int
    epoch: int

    def keys(self, purpose: str, samples: Indices | Keys | int) -> Keys:
        """One number a sample, uniform in 0 to 2^32 - 1 and different for different samples below 2^32.

        Args:
            purpose: what is drawn; draws of different purposes are independent.
            samples: int64 or uint32 [n], indices in the data set; an integer N stands for 0 to N - 1.

        Returns:
            uint32 [n].
        """
        parts = np.frombuffer(_digest(self.seed, self.epoch, purpose, 4 * _ROUNDS), dtype=np.uint32)
        size = samples if isinstance(samples, int) else len(samples)
        out = np.empty(size, dtype=np.uint32)
        spare = np.empty(min(size, _CHUNK), dtype=np.uint32)
        for start in range(0, size, _CHUNK):
            hashed = out[start : start + _CHUNK]
            if isinstance(samples, int):
                hashed[:] = np.arange(start, start + len(hashed), dtype=np.uint32)
            else:
                given = samples[start : start + _CHUNK]
                hashed[:] = given.astype(np.uint32)
                if len(given) and int(given.max()) >= 1 << 32:  # the upper half too: keys may then agree
                    hashed ^= _mixed((given >> 32).astype(np.uint32), np.empty(len(given), np.uint32))
            for part in parts:
                hashed ^= part
                _mixed(hashed, spare[: len(hashed)])
        return out

    def uniform(self, purpose: str, samples: Indices | Keys | int) -> NDArray[np.float32]:
        """One number a sample, uniform in [0, 1), float32 [n]; arguments as in `keys`."""
        # 24 bits are what a float32 below 1 holds: more would round up to 1.
        fractions: NDArray[np.float32] = (self.keys(purpose, samples) >> 8).astype(np.float32)
        fractions *= np.float32(2.0**-24)
        return fractions

    def choose(self, purpose: str, samples: Indices | int, count: int) -> Indices:
        """Draw without replacement: the samples with the smallest keys.

        Args:
            purpose: what is drawn.
            samples: int64 [n], ascending, each once; an integer N stands for 0 to N - 1.
            count: how many; all where there are fewer.

        Returns:
            int64 [min(count, n)], ascending.
        """
        size = samples if isinstance(samples, int) else len(samples)
        if count >= size:
            return np.arange(size) if isinstance(samples, int) else samples
        if count <= 0:
            return np.empty(0, dtype=np.int64)
        keys = self.keys(purpose, samples)
        bound = smallest(keys, count)
        chosen = np.flatnonzero(keys <= bound)
        if len(chosen) > count:  # equal keys, of samples 2^32 apart: the later ones go
            ties = np.flatnonzero(keys[chosen] == bound)
            chosen = np.delete(chosen, ties[len(ties) - (len(chosen) - count) :])
        return chosen if isinstance(samples, int) else samples[chosen]

    def generator(self, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
        """A generator of this epoch's own, for draws that are not of samples."""
        return keyed_generator(self.seed, self.epoch, purpose, device)


def _digest(seed: int, epoch: int, purpose: str, size: int) -> bytes:
    return hashlib.blake2b(f"{seed}/{epoch}/{purpose}".encode(), digest_size=size).digest()


def _mixed(values: Keys, spare: Keys) -> Keys:
    """Mix the bits of every number, in place; different numbers stay different.

    The multipliers are those that Ettinger's search for low-bias 32-bit mixers found ("hash-prospector", lowbias32).
    """
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        np.right_shift(values, shift, out=spare)
        values ^= spare
        values *= np.uint32(factor)
    np.right_shift(values, 16, out=spare)
    values ^= spare
    return values


def smallest(keys: Keys, count: int) -> Any:
    """The ``count``-th smallest key, 1 <= count <= n.

    Keys of draws are uniform, so it lies near count / n of their range; only the keys around there are looked through.
    """
    size = len(keys)
    if size >= _FEW:
        middle, half = count / size, _SPREAD * np.sqrt(count / size * (1 - count / size) / size) + 1 / size
        low, high = (int(np.clip((middle + side) * 2**32, 0, 2**32 - 1)) for side in (-half, half))
        below = int(np.count_nonzero(keys < np.uint32(low)))
        near = keys[(keys >= np.uint32(low)) & (keys <= np.uint32(high))]
        if below < count <= below + len(near):
            return np.partition(near, count - below - 1)[count - below - 1]
    return np.partition(keys, count - 1)[count - 1]

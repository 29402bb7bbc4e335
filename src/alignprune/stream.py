"""The stream filter: which samples of a stream belong to the epoch. A Selection goes in, a bit a sample comes out.

What cannot be read by index passes by in its own order; a sample that the epoch leaves out is dropped before it is
decoded. The bits lie in shared memory, so the worker processes of a loader see every epoch's as it begins.
"""

from __future__ import annotations

import multiprocessing.context
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignprune.errors import CallMistake, TypeMistake, ValueMistake


class StreamFilter:
    """Says of a sample's id whether this epoch reads it; owned and planned by a `Pruner`, see `Pruner.stream`.

    Worker processes, started by any method, share its bits: 12.5 MB for 10^8 samples. A copy would miss the epochs that
    follow, so there is none: `copy.deepcopy` returns the filter itself, and to pickle it elsewhere is refused.

    Args:
        num_samples: size N of the data set; ids are 0 to N - 1.
    """

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples
        self._share(torch.zeros(-(-num_samples // 8), dtype=torch.uint8, device="cpu").share_memory_())

    def _share(self, bits: Tensor) -> None:
        self._bits = bits
        self._view = bits.numpy().data  # several times as fast for a single id

    def plan(self, indices: Tensor) -> None:
        """Set the epoch's samples, int64 [K]."""
        mask = np.zeros(self.num_samples, dtype=bool)
        mask[indices.numpy()] = True
        self._bits.numpy()[:] = np.packbits(mask, bitorder="little")

    def leave_out(self, indices: Tensor) -> None:
        """Let these samples through no more in this epoch, int64 [K]: a run that was resumed has read them."""
        mask = np.unpackbits(self._bits.numpy(), count=self.num_samples, bitorder="little")
        mask[indices.numpy()] = 0
        self._bits.numpy()[:] = np.packbits(mask, bitorder="little")

    def __call__(self, sample: int) -> bool:
        """Whether the epoch reads the sample of this id.

        Raises:
            TypeMistake, ValueMistake: for an id that is no integer, or outside of the data set.
        """
        if not hasattr(sample, "__index__"):
            raise TypeMistake(
                f"id={sample!r} is {type(sample).__name__}, expected an integer: number the samples, or look their "
                f"keys up in alignprune.integrations.streams.Keys"
            )
        position = sample.__index__()
        if not 0 <= position < self.num_samples:
            raise ValueMistake(
                f"id={position} is out of range, expected 0 to {self.num_samples - 1}: make the Pruner with "
                f"num_samples, the number of samples in the whole stream"
            )
        return bool(self._view[position >> 3] >> (position & 7) & 1)

    def of(self, samples: Tensor | NDArray[Any]) -> NDArray[np.bool_]:
        """Which of many ids the epoch reads, integers [B] to bool [B]; raises as for one."""
        ids = samples.numpy() if isinstance(samples, Tensor) else np.asarray(samples)
        if ids.dtype.kind not in "iu":
            raise TypeMistake(f"ids are {ids.dtype}, expected integers [B]: number the samples")
        if len(ids) and (ids.min() < 0 or ids.max() >= self.num_samples):
            raise ValueMistake(
                f"ids reach from {ids.min()} to {ids.max()}, expected 0 to {self.num_samples - 1}: make the Pruner "
                f"with num_samples, the number of samples in the whole stream"
            )
        bits: NDArray[np.bool_] = (self._bits.numpy()[ids >> 3] >> (ids & 7).astype(np.uint8) & 1).astype(bool)
        return bits

    def __deepcopy__(self, memo: dict[int, Any]) -> StreamFilter:
        return self

    def __getstate__(self) -> dict[str, Any]:
        if multiprocessing.context.get_spawning_popen() is None:
            raise CallMistake(
                "a StreamFilter was to be pickled, expected it to be shared with worker processes as they start: a "
                "copy would miss every later epoch. Give it to a DataLoader, or to a process as an argument"
            )
        return {"num_samples": self.num_samples, "bits": self._bits}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.num_samples = state["num_samples"]
        self._share(state["bits"])

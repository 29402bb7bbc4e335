"""A bank's losses in a file: its space is reserved when it is made, and it is read and written by position.

Positional reads into a buffer took half as long as reading a mapping, warm or cold, and what they have read is no
memory of the process. The mapping is there for who hands the losses on as they lie: nothing of it is read before.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignprune.errors import DamagedFile, ValueMistake
from alignprune.memory.capacity import free_disk, shown

try:
    import fcntl
except ImportError:  # no such locks on Windows, which itself refuses to map a file anew that is mapped
    fcntl = None  # type: ignore[assignment]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class RowFile:
    """Rows [window, num_samples] of zeros in a file of their own.

    Args:
        path: of the file; created, or overwritten unless another bank uses it.
        window: rows.
        num_samples: columns.
        dtype: of the losses.
        columns: most columns that are read at once.

    Attributes:
        rows: the file's content, mapped, [window, num_samples].

    Raises:
        ValueMistake: for a path that another bank uses, and for a disk without room.
    """

    def __init__(self, path: Path, window: int, num_samples: int, dtype: torch.dtype, columns: int) -> None:
        self._path, self._num_samples, self._dtype = path, num_samples, dtype
        size = window * num_samples * dtype.itemsize
        free = free_disk(path)
        if free is not None and size > free:
            raise _too_large(path, size, free)
        self._file = _locked(path)
        _reserve(self._file, path, size)
        self.rows = torch.from_numpy(np.memmap(path, np.uint8, "r+", shape=(window, size // window))).view(dtype)
        self._place = threading.Lock()  # the file has one position, which `stream` moves from another thread
        self._buffer = np.empty(window * min(columns, num_samples) * dtype.itemsize, dtype=np.uint8)

    def read(self, rows: Sequence[int], columns: slice) -> Tensor:
        """Some columns of some rows, [len(rows), columns]; overwritten by the next call.

        Raises:
            DamagedFile: if the file has become shorter.
        """
        return self._read(rows, columns, self._buffer)

    def stream(self, rows: Sequence[int], parts: Iterable[slice]) -> Iterator[tuple[slice, Tensor]]:
        """Parts one after another: the columns, and their losses, [len(rows), columns], until the next is asked for.

        The disk reads a part while the caller works on the one before it, who may `read` and `write` meanwhile.

        Raises:
            DamagedFile: if the file has become shorter.
        """
        buffers = cycle((np.empty_like(self._buffer), np.empty_like(self._buffer)))
        with ThreadPoolExecutor(1, "alignprune-bank") as reader:
            ahead = None
            for columns, buffer in zip(parts, buffers, strict=False):  # the buffers have no end
                following = columns, reader.submit(self._read, rows, columns, buffer)
                if ahead is not None:
                    yield ahead[0], ahead[1].result()
                ahead = following
            if ahead is not None:
                yield ahead[0], ahead[1].result()

    def _read(self, rows: Sequence[int], columns: slice, buffer: NDArray[np.uint8]) -> Tensor:
        size = (columns.stop - columns.start) * self._dtype.itemsize
        block = buffer[: len(rows) * size].reshape(len(rows), size)
        for row, strip in zip(rows, block, strict=True):
            with self._place:
                self._seek(row, columns)
                found = self._file.readinto(strip.data)
            if found != size:
                raise DamagedFile(
                    f"path={str(self._path)!r} is shorter than it was made, expected the losses of this bank: leave "
                    f"the file alone while the bank is in use"
                )
        return torch.from_numpy(block).view(self._dtype)

    def write(self, row: int, columns: slice, losses: Tensor) -> None:
        """Put losses in place, [columns], of the dtype of the file."""
        strip = losses.contiguous().view(torch.uint8).numpy().data
        with self._place:
            self._seek(row, columns)
            written = self._file.write(strip)
        if written != len(strip):  # where the space could not be reserved
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))

    def _seek(self, row: int, columns: slice) -> None:
        self._file.seek((row * self._num_samples + columns.start) * self._dtype.itemsize)


def _locked(path: Path) -> FileIO:
    """The file, opened and kept from every other bank as long as it is open; its content is not touched."""
    path.touch()
    file = FileIO(path, "r+")  # unbuffered, open as long as the bank lives
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise ValueMistake(
                f"path={str(path)!r} is in use by another bank, expected a file of its own for every bank: two would "
                f"overwrite each other's losses. Choose another path, or end the other run"
            ) from error
    return file


def _reserve(file: FileIO, path: Path, size: int) -> None:
    """Make the file all zeros and its space its own: a hole that a full disk cannot fill ends the process later."""
    file.truncate(0)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno in _FULL:
            file.truncate(0)
            file.close()
            raise _too_large(path, size, free_disk(path)) from error
    file.truncate(size)  # also where a file system cannot reserve


def _too_large(path: Path, size: int, free: int | None) -> ValueMistake:
    room = "free space" if free is None else f"at most the {shown(free)} that are free on its disk"
    return ValueMistake(
        f"path={str(path)!r} needs {shown(size)} for the losses, expected {room}: free some, choose a path on another "
        f"disk, precision='float16' or a smaller window"
    )

"""Large data and several ranks: memory, first batches, what the ranks say to each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed import distributed_c10d
from torch.utils.data import Dataset

import alignprune as ap
from lines.formula import Falling, Memorising, sampled
from lines.line import Found, Line, Sizes, in_turns, seconds_of
from lines.process import AnonymousPeak, alone, held, ranked

GIB = 1 << 30
ROOM = 6 * GIB / 100_000_000  # bytes a sample
SOON = 1.5  # seconds
RANKS = 4


# -- the bank on disk ----------------------------------------------------------------------------------------


def memory_on_disk(sizes: Sizes) -> Found:
    """Peak memory of a training whose bank is a file, its pages aside."""
    return _on_disk(sizes)[0]


def time_on_disk(sizes: Sizes) -> Found:
    """`end_epoch` of a training whose bank is a file."""
    return _on_disk(sizes)[1]


@cache
def _on_disk(sizes: Sizes) -> tuple[Found, Found]:
    return alone(_train_on_disk, sizes.largest, sizes.window, sizes.few_repeats)


def _train_on_disk(samples: int, window: int, repeats: int) -> tuple[Found, Found]:
    with TemporaryDirectory() as folder, AnonymousPeak() as peak:
        path = Path(folder, "bank")
        settings = {"precision": "bfloat16", "bank_path": str(path)}
        training = Falling.begin("infobatch+das", samples, window, repeats, **settings)
        found = in_turns(training.end, lambda: _read(path), samples, repeats, training.read, lambda: _forget(path))
    details = {"gib": peak.bytes / GIB, "gib_with_file": held("VmHWM") / GIB}
    return Found(peak.bytes / (ROOM * samples), samples, details=details), found


def _forget(path: Path) -> None:
    """Let the system keep nothing of a file in memory, as where the file is larger than that."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read(path: Path) -> None:
    """Read a file from its beginning to its end."""
    block = bytearray(1 << 24)
    with path.open("rb", buffering=0) as file:
        while file.readinto(block):
            pass


# -- the state shared by the ranks ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rank:
    """What a rank held at most, in bytes, and which samples it reads in the end, as bits."""

    peak: int
    reads: NDArray[np.uint8]


def owned(sizes: Sizes) -> Found:
    """Peak memory of a rank that owns its part of the state; together the ranks select what one does."""
    (whole,) = ranked(1, _train_as_rank, sizes.owned, sizes.window, "replicated")
    parts = ranked(RANKS, _train_as_rank, sizes.owned, sizes.window, "owned")
    together = np.bitwise_or.reduce([part.reads for part in parts])
    same = bool((together == whole.reads).all())
    flaw = "" if same else f"{RANKS} ranks that own their part select other samples than one rank"
    peak = max(part.peak for part in parts)
    details = {"gib_replicated": whole.peak / GIB, "gib_owned": peak / GIB}
    return Found(peak / whole.peak, sizes.owned, flaw=flaw, details=details)


def _train_as_rank(samples: int, window: int, ownership: str) -> _Rank:
    before = held("VmHWM")
    training = Falling.begin("infobatch+das", samples, window, 1, ownership=ownership)
    peak = held("VmHWM") - before
    reads = np.zeros(samples, dtype=bool)
    for batch in sampled(training.pruner):
        reads[batch.numpy()] = True
    return _Rank(peak, np.packbits(reads))


# -- the first batch -----------------------------------------------------------------------------------------


class _Numbers(Dataset[int]):
    """A data set of any size that takes no memory."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> int:
        return index


def first_batch(sizes: Sizes) -> Found:
    """From nothing to the first batch, less the time in which as much memory is allocated and touched."""
    found = [alone(_begin, sizes.many) for _ in range(sizes.few_repeats)]
    seconds = median(whole - touch for whole, touch in found)
    return Found(seconds / SOON, sizes.many, len(found), 1e3 * median(whole for whole, _ in found))


def _begin(samples: int) -> tuple[float, float]:
    """Seconds to the first batch, and those to touch as much memory."""
    before = held("VmHWM")

    def begin() -> None:
        pruner = ap.Pruner.from_preset("infobatch+das", num_samples=samples, epochs=200)
        next(iter(pruner.loader(_Numbers(samples), batch_size=128)))

    seconds = seconds_of(begin)
    size = held("VmHWM") - before
    return seconds, seconds_of(lambda: np.full(size, 1, dtype=np.uint8))


# -- what the ranks say to each other ------------------------------------------------------------------------

_SHORT_WINDOW = 3

_TALKS = (
    *("all_gather", "all_gather_into_tensor", "all_reduce", "all_to_all", "all_to_all_single", "barrier", "broadcast"),
    *("gather", "irecv", "isend", "recv", "reduce", "reduce_scatter", "reduce_scatter_tensor", "scatter", "send"),
)


@dataclass
class _Talk:
    """How often a rank talked, and the bytes of the tensors that it sent or was sent."""

    calls: int = 0
    bytes: int = 0


@contextmanager
def _overheard() -> Iterator[_Talk]:
    """Counts what this rank says through torch.distributed; collectives of objects are made of those of tensors."""
    talk = _Talk()

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            talk.calls += 1
            talk.bytes += sum(tensor.nbytes for tensor in _tensors([*arguments, *named.values()]))
            return function(*arguments, **named)

        return call

    found: dict[str, Any] = {name: counted(getattr(distributed_c10d, name)) for name in _TALKS}
    with mock.patch.multiple(distributed_c10d, **found), mock.patch.multiple(torch.distributed, **found):
        yield talk


def _tensors(values: list[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors([*value])


def calls(sizes: Sizes) -> Found:
    """Collectives of an epoch against those of an epoch a quarter as long."""
    short, long = _talks(sizes.few)
    return Found(long.calls / short.calls, sizes.few, details={"calls": long.calls})


def bytes_when_owned(sizes: Sizes) -> Found:
    """Bytes of an epoch's collectives against those of an epoch a quarter as long, where ranks own their part."""
    short, long = _talks(sizes.talking, ownership="owned")
    return Found(long.bytes / short.bytes, sizes.talking, details={"bytes": long.bytes})


def _talks(samples: int, **settings: str) -> list[_Talk]:
    """What the first of two ranks says in a short and in a long epoch."""
    return [ranked(2, _talk_of_epoch, length, _SHORT_WINDOW, settings)[0] for length in (samples // 4, samples)]


def _talk_of_epoch(samples: int, window: int, settings: dict[str, str]) -> _Talk:
    """What a rank says in an epoch of both methods."""
    every = (Falling.begin("infobatch+das", samples, window, 1, **settings), Memorising.begin(samples, 1, **settings))
    with _overheard() as talk:
        for training in every:
            training.read()
            training.end()
    return talk


LINES = (
    Line("bfloat16 bank on disk, infobatch+das: peak memory", "6 GiB per 100 million samples", 1.0, memory_on_disk),
    Line(
        "bfloat16 bank on disk, infobatch+das: end_epoch",
        "a sequential read of its file, from the disk",
        3.0,
        time_on_disk,
    ),
    Line("owned by 4 ranks: peak memory of one", "replicated, on one rank", 1 / 3, owned),
    Line("a pruner and its first batch, less their memory", "1.5 seconds", 1.0, first_batch),
    Line("collectives an epoch", "those of an epoch a quarter as long", 1.0, calls),
    Line("owned: bytes the ranks exchange an epoch", "those of an epoch a quarter as long", 1.05, bytes_when_owned),
)

"""Whether every sample of a data set can be read: each image is opened once, and the damaged ones are listed.

Loading a data set lists its files and does not open them, since that takes minutes for a million; what is in memory, as
arrays, tables of numbers and texts are, has been read whole by then.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from alignprune._checks import integer
from alignprune.bench.contents import Unreadable
from alignprune.bench.data.huggingface import TableImages
from alignprune.bench.data.views import ClassificationData, ImageFiles, Samples

_PART = 32  # samples that a worker opens at a time


@dataclass(frozen=True)
class Damage:
    """A sample that cannot be read.

    Attributes:
        sample: its file, or its row.
        reason: why.
    """

    sample: str
    reason: str


@dataclass(frozen=True)
class Report:
    """What opening a data set found.

    Attributes:
        counts: samples by split: train, and test and reference where there are some.
        damaged: the samples that cannot be read, in the order of the splits.
    """

    counts: dict[str, int]
    damaged: tuple[Damage, ...]


def open_all(
    data: ClassificationData, workers: int | None = None, progress: Callable[[int, int], object] | None = None
) -> Report:
    """Open every sample of a data set.

    Args:
        data: the data.
        workers: threads that open samples, None for one a core.
        progress: hears how many samples of how many are done.

    Returns:
        how many there are, and which cannot be read.

    Raises:
        ValueError: if workers is out of its range.
    """
    from PIL import Image

    threads = integer("workers", workers or os.cpu_count() or 1, at_least=1, remedy="one thread at least")
    parts: dict[str, Any] = {"train": data.train_eval, "test": data.test, "reference": data.reference}
    counts = {name: len(samples) for name, samples in parts.items() if samples is not None}
    damaged: list[Damage] = []
    done = 0
    Image.init()  # all formats at once: a thread that meets a rare one would see them half loaded by another
    with ThreadPoolExecutor(threads) as pool:
        for name in counts:
            for opened, found in pool.map(_opened, *zip(*_portions(parts[name]), strict=True)):
                damaged += found
                done += opened
                if progress is not None:
                    progress(done, sum(counts.values()))
    return Report(counts, tuple(damaged))


def _portions(samples: Any) -> Iterator[tuple[Samples, range]]:
    """The samples as they are stored, before any transform, some at a time."""
    stored = copy.copy(samples)
    if isinstance(samples, (ImageFiles, TableImages)):
        stored.transform = None
    for start in range(0, len(samples), _PART):
        yield stored, range(start, min(start + _PART, len(samples)))


def _opened(samples: Samples, indices: range) -> tuple[int, list[Damage]]:
    found = []
    if isinstance(samples, (ImageFiles, TableImages)):
        for index in indices:
            try:
                samples[index]
            except Unreadable as mistake:
                found.append(Damage(_name(samples, index), mistake.reason))
    return len(indices), found


def _name(samples: ImageFiles | TableImages, index: int) -> str:
    return samples.files.names[index] if isinstance(samples, ImageFiles) else f"row={index} of split {samples.split}"

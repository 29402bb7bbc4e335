"""Streams: an IterableDataset, a streamed data set of Hugging Face, a webdataset pipeline.

The samples that an epoch leaves out are dropped in the worker process, by the id that each carries, before they are
decoded. That saves decoding, transfer and training; reading it does not save.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset

from alignprune.errors import TypeMistake, ValueMistake
from alignprune.stream import StreamFilter

Id = str | Callable[[Any], int]
"""Where a sample carries its id: the name of a field, or a function from the sample."""


def _reader(id: Id) -> Callable[[Any], int]:
    if isinstance(id, str):
        return _Field(id)
    if not callable(id):
        raise TypeMistake(f"id={id!r} is {type(id).__name__}, expected the name of a field, or a function of a sample")
    return id


class _Field:
    """Reads a field of a sample; a class, since a closure cannot be sent to a process."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, sample: Any) -> int:
        try:
            value: int = sample[self.name]
        except (KeyError, TypeError, IndexError) as error:
            fields = ", ".join(map(str, sample)) if isinstance(sample, dict) else type(sample).__name__
            raise ValueMistake(
                f"id={self.name!r} is no field of a sample of {fields}, expected the one that holds its number: name "
                f"it, or pass a function of the sample"
            ) from error
        return value


class Selected:
    """Whether this epoch reads a sample: for `filter` of Hugging Face, `select` of webdataset, or any other.

    Args:
        stream: `Pruner.stream`.
        id: where a sample carries its id.

    Example:
        >>> data = wds.WebDataset(shards).select(Selected(pruner.stream, lambda sample: int(sample["__key__"])))
        >>> data = load_dataset(..., streaming=True).filter(Selected(pruner.stream, "id"))
    """

    def __init__(self, stream: StreamFilter, id: Id) -> None:
        self.stream, self.id = stream, _reader(id)

    def __call__(self, sample: Any) -> bool:
        return self.stream(self.id(sample))


class SelectedStream(IterableDataset[tuple[int, Any]]):
    """This epoch's samples of a stream, each with its id, as `Indexed` is for data that are read by index.

    Args:
        dataset: any iterable that yields all samples, each to one worker and one rank: an IterableDataset, or a
            pipeline. It is iterated once an epoch.
        stream: `Pruner.stream`.
        id: where a sample carries its id.
        decode: from a sample to an item, called for the samples of the epoch only; None = as it is.

    Example:
        >>> loader = DataLoader(SelectedStream(shards, pruner.stream, id="id", decode=to_image), batch_size=128)
        >>> for index, (x, y) in loader: ...
    """

    def __init__(
        self,
        dataset: Iterable[Any],
        stream: StreamFilter,
        id: Id,
        decode: Callable[[Any], Any] | None = None,
    ) -> None:
        if not hasattr(dataset, "__iter__") or isinstance(dataset, Iterator):
            raise TypeMistake(
                f"dataset is {type(dataset).__name__}, expected what can be iterated anew in every epoch: an "
                f"IterableDataset, or a class with __iter__"
            )
        self.dataset, self.stream, self.id, self.decode = dataset, stream, _reader(id), decode

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        for sample in self.dataset:
            number = self.id(sample)
            if self.stream(number):
                yield int(number), sample if self.decode is None else self.decode(sample)


class Keys:
    """Numbers for samples that carry a key instead: the place of the key in a list, found by its hash.

    16 bytes a sample, in whichever process looks up; 64-bit hashes, whose collisions are refused.

    Args:
        keys: the keys of all samples, each once, in the order that numbers them: strings.

    Raises:
        ValueMistake: for a key that is there twice.

    Example:
        >>> keys = Keys(open("keys.txt").read().split())
        >>> pruner = ap.Pruner.from_preset("robust", num_samples=len(keys), epochs=90)
        >>> Selected(pruner.stream, lambda sample: keys[sample["__key__"]])
    """

    def __init__(self, keys: Iterable[str]) -> None:
        hashes = np.fromiter((_hash(key) for key in keys), dtype=np.uint64)
        self._order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[self._order]
        same = np.flatnonzero(self._sorted[1:] == self._sorted[:-1])
        if len(same):
            first, second = sorted(self._order[same[0] : same[0] + 2].tolist())
            raise ValueMistake(
                f"keys hold the same key at {first} and {second}, expected each once: leave repetitions out"
            )

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, key: str) -> int:
        """The number of a key; ValueMistake for one that is not there."""
        wanted = _hash(key)
        place = int(np.searchsorted(self._sorted, np.uint64(wanted)))
        if place == len(self) or int(self._sorted[place]) != wanted:
            raise ValueMistake(
                f"key={key!r} is not among the {len(self)} keys, expected one of them: make Keys with those of all "
                f"samples"
            )
        return int(self._order[place])


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")

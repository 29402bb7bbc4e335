"""What is known about a data set before it is read, and what the loaders share: noise, data root, missing files."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from alignprune._checks import choice
from alignprune.bench.contents import quoted
from alignprune.bench.data.views import PathLike
from alignprune.errors import MissingFile, ValueMistake
from alignprune.noise import KINDS, NoisyLabels, corrupt

DATA_ROOT = "ALIGNPRUNE_DATA"

# The kinds that need nothing but labels, so that they can be drawn for any data set, and those for samples of numbers.
ANY_CLASSES = tuple(kind for kind in KINDS if kind not in ("asymmetric", "instance-dependent"))
OF_NUMBERS = (*ANY_CLASSES, "instance-dependent")


def problem(root: Path, file: str) -> str | None:
    """What is wrong with a file or folder, from outside.

    Args:
        root: the data root.
        file: path under the root; a folder ends in "/".

    Returns:
        none where it is there and not empty.
    """
    path = root / file
    if not path.exists():
        return "not there"
    if not file.endswith("/"):
        return None if path.stat().st_size else "empty"
    if not path.is_dir():
        return "not a folder"
    return None if any(path.iterdir()) else "empty"


@dataclass(frozen=True)
class DatasetRecord:
    """What a data set needs and offers; help, documentation and checks are made from it.

    Attributes:
        name: what to write for it.
        description: what it is, one line.
        files: files needed, folders ending in "/": under the data root, or in the given path; none where a library
            brings the data along.
        source: where they come from.
        noises: kinds of noise it can be loaded with.
        default_noise: the kind without a choice, in `noises`.
        note: what else to know about the files, one line.
        flips: class that each class turns into by "asymmetric" noise; None where that has no meaning.
        per_class: whether asymmetric noise takes its share of each class, or of all samples together.
        image_size: height and width in pixels to which the loader brings images without a choice; None for
            samples that have a size of their own.
        inspect: what is wrong with one of `files` under a data root, None for nothing; must not take long.
        embedder: makes the pretrained network that its loader lets look at every sample, or raises what it needs; None
            where the samples are no embeddings.
        word_vectors: whether its samples are made of word vectors, which may be given.
        only_for: by file the kinds of noise that it is needed for; a file that is absent here is always needed.
    """

    name: str
    description: str
    files: tuple[str, ...]
    source: str
    noises: tuple[str, ...]
    default_noise: str
    note: str = ""
    flips: tuple[int, ...] | None = None
    per_class: bool = True
    image_size: int | None = None
    inspect: Callable[[Path, str], str | None] = problem
    embedder: Callable[[], object] | None = None
    word_vectors: bool = False
    only_for: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def files_for(self, noises: Collection[str]) -> list[str]:
        """Those of `files` that it takes to load it with these kinds of noise."""
        return [file for file in self.files if not set(noises).isdisjoint(self.only_for.get(file, noises))]


@dataclass(frozen=True)
class DatasetStatus:
    """What of a data set is there.

    Attributes:
        name: name of the data set.
        complete: whether nothing is missing.
        found: files and folders that are as they should be.
        missing: the others, each as "FILE: what is wrong".
        source: where they come from.
        note: what else to know about the files.
    """

    name: str
    complete: bool
    found: tuple[str, ...]
    missing: tuple[str, ...]
    source: str
    note: str


def status(record: DatasetRecord, root: Path) -> DatasetStatus:
    """Look for the files of a data set.

    Args:
        record: the data set.
        root: the data root.
    """
    problems = {file: record.inspect(root, file) for file in record.files}
    missing = tuple(f"{file}: {what}" for file, what in problems.items() if what is not None)
    return DatasetStatus(
        name=record.name,
        complete=not missing,
        found=tuple(file for file, what in problems.items() if what is None),
        missing=missing,
        source=record.source,
        note=record.note,
    )


def refuse_missing(wanted: Iterable[tuple[DatasetRecord, Collection[str]]], root: PathLike | None) -> None:
    """Refuse data sets whose files are not there, all of them at once.

    Args:
        wanted: data sets, each with the kinds of noise that it is to be loaded with.
        root: data root, None for the environment variable ALIGNPRUNE_DATA.

    Raises:
        FileNotFoundError: naming each of them, what it lacks and where that comes from.
    """
    given = root or os.environ.get(DATA_ROOT)
    lacking: dict[str, list[str]] = {}  # by what is missing the data sets: some share their files
    for record, noises in wanted:
        files = record.files_for(noises)
        if given:
            looked = ((file, record.inspect(Path(given), file)) for file in files)
            files = [f"{file}: {what}" for file, what in looked if what is not None]
        if files:
            lacking.setdefault(f"{', '.join(files)}; source: {record.source}", []).append(record.name)
    if not lacking:
        return
    place = f"root={str(given)!r} is without" if given else f"root=None is given and {DATA_ROOT} is not set for"
    lacks = ", ".join(f"{' and '.join(names)} ({what})" for what, names in lacking.items())
    raise MissingFile(
        f"{place} {lacks}, expected all of that in one folder: put it there, and point to the folder with --data-root "
        f"or {DATA_ROOT}"
    )


def data_root(root: PathLike | None) -> Path:
    """The folder that holds the named data sets.

    Args:
        root: the folder; None for the environment variable ALIGNPRUNE_DATA.

    Raises:
        ValueError: if neither is given.
    """
    given = root or os.environ.get(DATA_ROOT)
    if not given:
        raise ValueMistake(
            f"root={root!r} is given and {DATA_ROOT} is not set, expected the folder that holds the data: point to it "
            f"with --data-root or {DATA_ROOT}"
        )
    return Path(given)


def check_exists(root: Path, path: Path, source: str) -> None:
    """Refuse a data root that lacks a file or folder.

    Args:
        root: the data root.
        path: the file or folder, under the root.
        source: where it comes from.

    Raises:
        FileNotFoundError: if it is missing.
    """
    if not os.path.exists(path):  # also of names that are too long for a file
        raise MissingFile(
            f"root={str(root)!r} is without {quoted(os.path.relpath(path, root))}, expected the data root that holds "
            f"it: it comes from {source}; point to the folder with --data-root or {DATA_ROOT}"
        )


def check_noise(record: DatasetRecord, noise: str, noise_rate: float | None) -> None:
    """Refuse noise that the data set does not offer, and a rate that does not belong to it.

    Args:
        record: the data set.
        noise: kind of noise.
        noise_rate: nominal rate; None for a kind that is not drawn.

    Raises:
        ValueError: if the kind is unknown, or the rate is missing or superfluous.
    """
    choice("noise", noise, record.noises)
    if noise in KINDS and noise_rate is None:
        raise ValueMistake(
            f"noise_rate=None is given with the noise {noise!r}, which is drawn, expected a number in [0, 1]: 0.2 "
            f"makes a fifth of the labels wrong"
        )
    if noise not in KINDS and noise_rate is not None:
        drawn = " or ".join(kind for kind in record.noises if kind in KINDS)
        raise ValueMistake(
            f"noise_rate={noise_rate} is given with the noise {noise!r}, which has the rate that it has, expected "
            "None: "
            "leave it out" + (f", or choose the noise {drawn}" if drawn else "")
        )


def draw(
    record: DatasetRecord,
    given: Tensor,
    noise: str,
    noise_rate: float | None,
    num_classes: int,
    seed: int,
    inputs: Tensor | None = None,
) -> NoisyLabels | None:
    """Draw synthetic noise on the given labels.

    Args:
        record: the data set.
        given: clean class ids, int64 [N].
        noise: kind of noise that `check_noise` has passed.
        noise_rate: nominal rate in [0, 1]; None for a kind that is not drawn.
        num_classes: number of classes.
        seed: seed of the draw.
        inputs: [N, ...], the samples, for noise that depends on them; None where they are no numbers.

    Returns:
        the noisy and the clean labels; None for a kind that is not drawn.

    Raises:
        ValueMistake: for noise that depends on samples that are no numbers.
    """
    if noise not in KINDS or noise_rate is None:
        return None
    if noise == "asymmetric":
        return corrupt(given, noise, noise_rate, num_classes, seed, flips=record.flips, per_class=record.per_class)
    if noise == "instance-dependent":
        if inputs is None:
            raise ValueMistake(
                f"noise={noise!r} is given for samples that are files or texts, expected numbers that wrong labels can "
                "depend on: compute features and give them as .npz, or choose the noise " + " or ".join(ANY_CLASSES)
            )
        return corrupt(given, noise, noise_rate, num_classes, seed, inputs=inputs)
    return corrupt(given, noise, noise_rate, num_classes, seed)


def as_noise(labels: Tensor, clean: Tensor, kind: str) -> NoisyLabels:
    """Labels that were not drawn; their nominal rate is the measured one.

    Args:
        labels: given class ids, int64 [N].
        clean: clean class ids, int64 [N].
        kind: what to call them.
    """
    rate = int((labels != clean).sum()) / len(labels)
    return NoisyLabels(labels=labels, clean=clean, kind=kind, rate=rate, seed=None)


def as_labels(ids: ArrayLike) -> Tensor:
    """Integers of any type as class ids, int64, in a tensor of their own."""
    return torch.from_numpy(np.array(ids, dtype=np.int64))

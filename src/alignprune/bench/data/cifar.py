"""CIFAR-100 and CIFAR-10 with the labels that people gave (CIFAR-N), with clean labels or with drawn noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from alignprune.bench.contents import head_of, substitute
from alignprune.bench.data.columns import listed
from alignprune.bench.data.records import (
    OF_NUMBERS,
    DatasetRecord,
    as_labels,
    as_noise,
    check_exists,
    check_noise,
    data_root,
    draw,
    problem,
)
from alignprune.bench.data.views import ClassificationData, PathLike, TensorData, assemble, channels_first
from alignprune.bench.reading import arrays_in, reading, saved_in
from alignprune.errors import ValueMistake
from alignprune.noise import CIFAR10_FLIPS, CIFAR100_FLIPS, NoisyLabels

if TYPE_CHECKING:
    from torchvision import datasets

REBUILT = "cifar-10.npz"
"""CIFAR-10 as arrays, in the place of the official files: train_images, train_labels, test_images, test_labels."""

_SIDE = 32  # of an image, in pixels
_REBUILT_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_REBUILT_SIZES = {"train": 50_000, "test": 10_000}

_TORONTO = "the CIFAR page of the University of Toronto"
_CIFAR_N = "repository UCSC-REAL/cifar-10-100n"


def _class(name: str) -> type[datasets.CIFAR10]:
    """Torchvision's class of that name."""
    from torchvision import datasets

    found: type[datasets.CIFAR10] = getattr(datasets, name)
    return found


def _inspect(name: str, root: Path, file: str) -> str | None:
    """The usual look, and the MD5 sums of the images, where they are not arrays."""
    if _is_rebuilt(name, root) and file.endswith("/"):
        return problem(root, REBUILT)
    found = problem(root, file)
    if found is not None or not file.endswith("/"):
        return found
    damaged = _damaged(_class(name), root)
    return f"{', '.join(damaged)} missing or not the official file (MD5)" if damaged else None


def _is_rebuilt(name: str, root: Path) -> bool:
    """Whether the images are there as arrays, and the official files are not."""
    return name == "CIFAR10" and (root / REBUILT).exists() and not (root / _class(name).base_folder).exists()


def _damaged(source: type[datasets.CIFAR10], root: Path) -> list[str]:
    """The files of the images that are missing or differ from the official ones, and what they are where that shows."""
    from torchvision.datasets.utils import check_integrity

    folder = root / source.base_folder
    wrong = [folder / file for file, md5 in _listed(source) if not check_integrity(folder / file, md5)]
    found = [substitute(head_of(file)) if file.is_file() else None for file in wrong]
    return [file.name if what is None else f"{file.name} ({what[0]})" for file, what in zip(wrong, found, strict=True)]


def _listed(source: type[datasets.CIFAR10]) -> list[tuple[str, str]]:
    """Name and MD5 sum of each file of the images."""
    return [*map(tuple, source.train_list + source.test_list), (source.meta["filename"], source.meta["md5"])]


CIFAR100N = DatasetRecord(
    name="cifar100n",
    description="CIFAR-100 (50,000 training and 10,000 test images, 100 classes) with the labels of CIFAR-N (real, "
    "40.2 % wrong), clean labels or synthetic noise",
    files=("cifar-100-python/", "CIFAR-100_human.pt"),
    source=f"images: {_TORONTO}; labels: {_CIFAR_N}",
    noises=("real", "clean", *OF_NUMBERS, "asymmetric"),
    default_noise="real",
    note="CIFAR-100_human.pt is needed for the noise real only",
    flips=CIFAR100_FLIPS,
    image_size=_SIDE,
    inspect=partial(_inspect, "CIFAR100"),
    only_for={"CIFAR-100_human.pt": ("real",)},
)

CIFAR10N = DatasetRecord(
    name="cifar10n",
    description="CIFAR-10 (50,000 training and 10,000 test images, 10 classes) with the labels of CIFAR-N (aggre "
    "9.0 %, random1-3 17-18 %, worse 40.2 % wrong), clean labels or synthetic noise",
    files=("cifar-10-batches-py/", "CIFAR-10_human.pt"),
    source=f"images: {_TORONTO}; labels: {_CIFAR_N}",
    noises=("aggre", "worse", "random1", "random2", "random3", "clean", *OF_NUMBERS, "asymmetric"),
    default_noise="worse",
    note="CIFAR-10_human.pt is needed for the noises aggre, worse and random1-3 only; "
    f"{REBUILT} may take the place of the folder",
    flips=CIFAR10_FLIPS,
    image_size=_SIDE,
    inspect=partial(_inspect, "CIFAR10"),
    only_for={"CIFAR-10_human.pt": ("aggre", "worse", "random1", "random2", "random3")},
)


def cifar100n(
    root: PathLike | None = None,
    noise: str = "real",
    noise_rate: float | None = None,
    seed: int = 0,
    image_size: int = _SIDE,
) -> ClassificationData:
    """CIFAR-100 with the labels of CIFAR-100N, clean labels or synthetic noise.

    Args:
        root: data root with cifar-100-python/ and, for "real", CIFAR-100_human.pt; None for ALIGNPRUNE_DATA.
        noise: "real" (CIFAR-100N), "clean", or a kind of `alignprune.noise`.
        noise_rate: nominal rate of synthetic noise in [0, 1]; None for "real" and "clean".
        seed: seed of synthetic noise.
        image_size: height and width of a sample in pixels; others than 32 are made in batches, and stored nowhere.

    Returns:
        the data; images are [3, image_size, image_size], normalised.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged, the labels belong to other images, or the noise does not fit.

    Source: AlignPrune 4.1; Wei et al., "Learning with Noisy Labels Revisited" (CIFAR-N).
    """
    keys = {"real": "noisy_label"}
    return _cifar(CIFAR100N, "CIFAR100", "CIFAR-100_human.pt", keys, root, noise, noise_rate, seed, image_size)


def cifar10n(
    root: PathLike | None = None,
    noise: str = "worse",
    noise_rate: float | None = None,
    seed: int = 0,
    image_size: int = _SIDE,
) -> ClassificationData:
    """CIFAR-10 with the labels of CIFAR-10N, clean labels or synthetic noise.

    Args:
        root: data root with cifar-10-batches-py/ or cifar-10.npz and, for the labels of people, CIFAR-10_human.pt;
            None for ALIGNPRUNE_DATA.
        noise: "aggre", "worse", "random1", "random2", "random3" (CIFAR-10N), "clean", or a kind of
            `alignprune.noise`.
        noise_rate: nominal rate of synthetic noise in [0, 1]; None for the other kinds.
        seed: seed of synthetic noise.
        image_size: height and width of a sample in pixels; others than 32 are made in batches, and stored nowhere.

    Returns:
        the data; images are [3, image_size, image_size], normalised.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged, the labels belong to other images, or the noise does not fit.

    Source: AlignPrune 4.1; Wei et al., "Learning with Noisy Labels Revisited" (CIFAR-N).
    """
    keys = {"aggre": "aggre_label", "worse": "worse_label"}
    keys |= {f"random{i}": f"random_label{i}" for i in (1, 2, 3)}
    return _cifar(CIFAR10N, "CIFAR10", "CIFAR-10_human.pt", keys, root, noise, noise_rate, seed, image_size)


def _cifar(
    record: DatasetRecord,
    name: str,
    label_file: str,
    keys: dict[str, str],
    root: PathLike | None,
    noise: str,
    noise_rate: float | None,
    seed: int,
    image_size: int,
) -> ClassificationData:
    """The images of torchvision's class of that name; keys: the noises that the label file holds."""
    from alignprune.bench.data.transforms import CIFAR_MEAN, CIFAR_STD, tensor_transforms

    check_noise(record, noise, noise_rate)
    folder = data_root(root)
    if _is_rebuilt(name, folder):
        train, test = _rebuilt(folder)
    else:
        train, test = (_torchvision(_class(name), folder, part) for part in (True, False))
    images, clean = channels_first(train.images), train.labels
    num_classes = len(train.classes)
    if noise in keys:
        human = _human_labels(folder / label_file, keys[noise], clean, num_classes)
        noisy: NoisyLabels | None = as_noise(human, clean, noise)
    else:
        noisy = draw(record, clean, noise, noise_rate, num_classes, seed, images)

    transforms, finish = tensor_transforms(_SIDE, _SIDE, 4, CIFAR_MEAN, CIFAR_STD, image_size)

    def view(labels: Tensor, augment: nn.Module | None) -> TensorData:
        return TensorData(images, labels, augment, finish)

    return assemble(
        name=record.name,
        view=view,
        transforms=transforms,
        given=clean,
        noise=noisy,
        truth=clean,
        test=TensorData(channels_first(test.images), test.labels, None, finish),
        reference=None,
        num_classes=num_classes,
        input_shape=(3, image_size, image_size),
        class_names=train.classes,
    )


@dataclass(frozen=True, eq=False)
class _Part:
    """Training or test images, uint8 [N, 32, 32, 3], with their labels, int64 [N], and the names of the classes."""

    images: np.ndarray
    labels: Tensor
    classes: Sequence[str]


def _rebuilt(root: Path) -> tuple[_Part, _Part]:
    """The training and the test images of a file of arrays, in the order of the labels of people where these are."""
    file, human = root / REBUILT, root / "CIFAR-10_human.pt"
    place, remedy = f"file={str(file)!r}", f"make it again, or take the official files from {_TORONTO}"
    names = [f"{split}_{what}" for split in _REBUILT_SIZES for what in ("images", "labels")]
    with reading(place, file, f"the arrays {', '.join(names)}", remedy):
        held, found = arrays_in(file, names)
        if set(names) - found.keys():
            raise ValueMistake(f"{place} holds {listed(held) or 'nothing'}, expected {', '.join(names)}: {remedy}")
        parts = []
        for split, size in _REBUILT_SIZES.items():
            images, labels = found[f"{split}_images"], found[f"{split}_labels"]
            if images.dtype != np.uint8 or images.shape != (size, 32, 32, 3):
                raise ValueMistake(
                    f"{place} has {split}_images of {images.dtype} and shape {images.shape}, expected uint8 "
                    f"[{size}, 32, 32, 3]: {remedy}"
                )
            ids = _class_ids(f"{split}_labels", labels)
            if ids.shape != (size,) or int(ids.min()) < 0 or int(ids.max()) >= len(_REBUILT_CLASSES):
                raise ValueMistake(
                    f"{place} has {split}_labels of shape {labels.shape}, expected {size} class ids from 0 to "
                    f"{len(_REBUILT_CLASSES) - 1}: {remedy}"
                )
            parts.append(_Part(images, ids, _REBUILT_CLASSES))
    if human.exists():
        _check_order(human, read_labels(human, ("clean_label",))[0], parts[0].labels)
    return parts[0], parts[1]


def _torchvision(source: type[datasets.CIFAR10], root: Path, train: bool) -> _Part:
    """Read the official files; torchvision compares their MD5 sums before it unpickles them."""
    for file, _ in _listed(source):
        check_exists(root, root / source.base_folder / file, f"{_TORONTO} (archive {source.filename})")
    try:
        found = source(str(root), train=train, download=False)
    except RuntimeError as error:
        raise ValueMistake(
            f"folder={str(root / source.base_folder)!r} holds {', '.join(_damaged(source, root))} with other MD5 sums, "
            f"expected the official files: unpack {source.filename} from {_TORONTO} again"
        ) from error
    return _Part(found.data, as_labels(found.targets), found.classes)


def _human_labels(file: Path, key: str, clean: Tensor, num_classes: int) -> Tensor:
    """Labels of CIFAR-N, after a check that they list the same images in the same order."""
    check_exists(file.parent, file, f"{_CIFAR_N} (folder data)")
    truth, labels = read_labels(file, ("clean_label", key))
    _check_order(file, truth, clean)
    if labels.shape != clean.shape or int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise ValueMistake(
            f"file={str(file)!r} has {key} of shape {tuple(labels.shape)}, expected {len(clean)} class ids from 0 to "
            f"{num_classes - 1}: copy the file from {_CIFAR_N} again"
        )
    return labels


def _check_order(file: Path, truth: Tensor, clean: Tensor) -> None:
    """Refuse images in another order than that of the labels of CIFAR-N."""
    if not torch.equal(truth, clean):
        raise ValueMistake(
            f"file={str(file)!r} has a clean_label that differs from the labels of the images, expected the same "
            "order: use the .pt file, not the _ordered.npy file, and the python version of the images, or arrays in "
            "its order"
        )


def read_labels(file: Path, names: Sequence[str]) -> list[Tensor]:
    """Labels of a file of CIFAR-N, int64 [N] for each of the names; code in the file is refused, not run."""
    # The file is a pickle of numpy arrays. Its authors load it with weights_only=False, which would run
    # whatever code a changed file holds; these three names are all that the official files need. They were
    # written by numpy 1, which knew the function under another name than numpy 2.
    reconstruct = np.empty(0).__reduce__()[0]
    allowed: list[Any] = [
        (reconstruct, "numpy.core.multiarray._reconstruct"),
        reconstruct,
        np.ndarray,
        np.dtype,
        type(np.dtype(np.int64)),
    ]
    place, remedy = f"file={str(file)!r}", f"copy it from {_CIFAR_N} again"
    with reading(place, file, "a dict of arrays", remedy):
        with torch.serialization.safe_globals(allowed):
            found = saved_in(file)
        if not isinstance(found, dict):
            raise ValueMistake(f"{place} holds a {type(found).__name__}, expected a dict of arrays: {remedy}")
        if not set(names) <= found.keys():
            held, expected = listed(list(map(str, found))) or "nothing", " and ".join(names)
            raise ValueMistake(f"{place} holds {held}, expected {expected}: {remedy}")
        return [_class_ids(name, np.asarray(found[name])) for name in names]


def _class_ids(name: str, ids: np.ndarray) -> Tensor:
    if ids.dtype.kind not in "iu":
        raise TypeError(f"{name} is {ids.dtype} and no integers")
    return as_labels(ids)

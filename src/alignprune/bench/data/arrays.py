"""Own data from an .npz file: images or features in memory."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from alignprune.bench.data.columns import class_name, listed, sorted_classes
from alignprune.bench.data.preparation import Features, Preparation
from alignprune.bench.data.records import OF_NUMBERS, DatasetRecord, as_labels, as_noise, check_noise, draw
from alignprune.bench.data.views import (
    ClassificationData,
    PathLike,
    Strings,
    TensorData,
    Transforms,
    assemble,
    channels_first,
    refuse_overlap,
)
from alignprune.bench.reading import arrays_in, naming, reading
from alignprune.errors import MissingFile, ValueMistake

ARRAYS = DatasetRecord(
    name="FILE.npz",
    description="Images (uint8 [N, H, W, C] or [N, H, W]) or features (float [N, D]) with labels",
    files=(
        "x_train, y_train",
        "x_test, y_test (optional: --holdout takes a part of the training samples)",
        "y_train_clean (optional, for diagnosis)",
        "x_reference, y_reference (optional, clean)",
        "class_names, ids (optional: what you call the classes and the training samples)",
    ),
    source="your own, written by numpy.savez",
    noises=("none", *OF_NUMBERS),
    default_noise="none",
)


def arrays(path: PathLike, noise: str = "none", noise_rate: float | None = None, seed: int = 0) -> ClassificationData:
    """Own data from an .npz file.

    Images are flipped and cropped (reflect padding of an eighth of the height) in training and normalised
    with the mean and standard deviation of the training images; features are standardised with those of the
    training set.

    Args:
        path: file with x_train, y_train; optional x_test, y_test; y_train_clean (known truth: diagnosis only, it
            never becomes the reference); x_reference, y_reference (clean samples of your own); class_names, a
            string a class, in the order of the class ids; ids, a string or integer a training sample. Labels are
            class ids, or names in all y arrays: the classes are then those of y_train, numbers by their value and
            other names by the alphabet.
        noise: "none", or a kind of `alignprune.noise` to add noise; the labels of the file then count as clean.
        noise_rate: nominal rate of the added noise in [0, 1]; None for "none".
        seed: seed of the added noise.

    Returns:
        the data.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if an array is missing or has another shape, type or range than described.
    """
    check_noise(ARRAYS, noise, noise_rate)
    place = f"path={str(path)!r}"
    found = _read_arrays(Path(path), place)
    with naming(place):
        found = _numbered(found)
        num_classes = _check_arrays(found)
        inputs, transforms, finish = _prepare(found)
        given = as_labels(found["y_train"])
        known = as_labels(found["y_train_clean"]) if "y_train_clean" in found else None
        if known is not None and noise != "none" and not torch.equal(known, given):
            raise ValueMistake(
                f"noise={noise!r} is given, but y_train_clean shows that y_train is noisy already, expected 'none': "
                "leave it out, or give a file whose y_train is clean"
            )
    noisy = draw(ARRAYS, given, noise, noise_rate, num_classes, seed, inputs["x_train"])
    if noisy is None and known is not None:
        noisy = as_noise(given, known, "given")

    def view(labels: Tensor, augment: nn.Module | None) -> TensorData:
        return TensorData(inputs["x_train"], labels, augment, finish)

    test, reference = (
        TensorData(inputs[f"x_{split}"], as_labels(found[f"y_{split}"]), None, finish)
        if f"x_{split}" in found
        else None
        for split in ("test", "reference")
    )
    with naming(place):
        refuse_overlap(reference, test)
    return assemble(
        name=Path(path).stem,
        view=view,
        transforms=transforms,
        given=given,
        noise=noisy,
        truth=given if noise != "none" else None,
        test=test,
        reference=reference,
        num_classes=num_classes,
        input_shape=tuple(inputs["x_train"].shape[1:]),
        class_names=found["class_names"].tolist() if "class_names" in found else None,
        ids=Strings(map(str, found["ids"].tolist())) if "ids" in found else None,
    )


_REQUIRED = ("x_train", "y_train")
_OPTIONAL = ("x_test", "y_test", "y_train_clean", "x_reference", "y_reference", "class_names", "ids")


def _read_arrays(path: Path, place: str) -> dict[str, np.ndarray]:
    """The known arrays of the file; others are reported and left out."""
    if not path.exists():
        raise MissingFile(f"{place} is not there, expected an .npz file: check the path")
    with reading(place, path, "arrays of numbers", "write them with numpy.savez"):
        names, found = arrays_in(path, _REQUIRED + _OPTIONAL)
    missing = [name for name in _REQUIRED if name not in found]
    if missing:
        raise ValueMistake(
            f"{place} is without {', '.join(missing)} (it holds {listed(names) or 'nothing'}), expected "
            f"{', '.join(_REQUIRED)}: add what is missing; optional are {', '.join(_OPTIONAL)}"
        )
    for x, y in (("x_test", "y_test"), ("x_reference", "y_reference")):
        if (x in found) != (y in found):
            raise ValueMistake(f"{place} holds one of {x} and {y}, expected both or neither: add the other")
    unknown = [name for name in names if name not in found]
    if unknown:
        warnings.warn(
            f"{place} holds {listed(unknown)}, which nothing reads, expected no others than "
            f"{', '.join(_REQUIRED + _OPTIONAL)}: check the names",
            stacklevel=3,
        )
    return found


def _numbered(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays with class ids in the place of names, and the names beside them."""
    labels = {name: array for name, array in found.items() if name.startswith("y_")}
    ids = [name for name, array in labels.items() if array.dtype.kind != "U"]
    if len(ids) == len(labels):
        return found
    if ids:
        raise ValueMistake(
            f"{ids[0]} is {labels[ids[0]].dtype} where others are names, expected names in all of "
            f"{', '.join(labels)}: write the labels alike"
        )
    if "class_names" in found:
        raise ValueMistake(
            "class_names is given beside labels that are names, expected it beside class ids: leave it out"
        )
    named = {name: np.array([class_name(one) for one in array.flat], dtype=object) for name, array in labels.items()}
    for name, names in named.items():
        if (missing := np.flatnonzero(names == "")).size:
            raise ValueMistake(f"{name}[{missing[0]}] is no name, expected one: fill in or remove the sample")
    classes = sorted_classes(set(named["y_train"]))
    if len(classes) < 2:
        raise ValueMistake(f"y_train has the class {listed(classes)} alone, expected at least two classes: add samples")
    number = {name: i for i, name in enumerate(classes)}
    for name, names in named.items():
        if foreign := sorted(set(names) - number.keys()):
            raise ValueMistake(
                f"{name} has the classes {listed(foreign)}, which y_train does not have, expected none but "
                f"{listed(classes)}: use the same names in every array, or remove these samples"
            )
    numbers = {
        name: np.array([number[one] for one in names], dtype=np.int64).reshape(labels[name].shape)
        for name, names in named.items()
    }
    return found | numbers | {"class_names": np.array(classes)}


def _check_arrays(found: dict[str, np.ndarray]) -> int:
    """Check every array, alone and against the training arrays; gives the number of classes."""
    train = found["x_train"]
    for name in ("x_train", "x_test", "x_reference"):
        if name in found:
            _check_input_array(name, found[name])
            if found[name].shape[1:] != train.shape[1:] or found[name].dtype.kind != train.dtype.kind:
                raise ValueMistake(
                    f"{name} has samples of shape {found[name].shape[1:]} and dtype {found[name].dtype}, expected "
                    f"{train.shape[1:]} and {train.dtype} as in x_train: convert the array"
                )
    num_classes = _count_classes(found["y_train"], len(train))
    partners = {"y_test": "x_test", "y_train_clean": "x_train", "y_reference": "x_reference"}
    for name, partner in partners.items():
        if name in found:
            _check_label_array(name, found[name], len(found[partner]))
            low, high = int(found[name].min()), int(found[name].max())
            if low < 0 or high >= num_classes:
                raise ValueMistake(
                    f"{name} has class ids from {low} to {high}, expected 0 to {num_classes - 1} as in y_train: number "
                    f"the classes alike"
                )
    _check_names("class_names", found, num_classes, "class")
    _check_names("ids", found, len(train), "training sample")
    return num_classes


def _check_names(name: str, found: dict[str, np.ndarray], count: int, of: str) -> None:
    """Refuse names that are not one each, all different."""
    if name not in found:
        return
    names = found[name]
    if names.shape != (count,) or names.dtype.kind not in "Uiu":
        raise ValueMistake(
            f"{name} is {names.dtype} of shape {names.shape}, expected strings or integers [{count}], one a {of}: "
            "convert the array"
        )
    unique, counts = np.unique(names, return_counts=True)
    if len(unique) < count:
        again = unique[counts > 1][0]
        raise ValueMistake(
            f"{name} has {str(again)!r} at the positions {', '.join(map(str, np.flatnonzero(names == again)[:3]))}, "
            "expected each name once: rename them"
        )


def _check_input_array(name: str, x: np.ndarray) -> None:
    image = x.dtype == np.uint8 and x.ndim in (3, 4)
    features = x.dtype.kind == "f" and x.ndim == 2
    if not image and not features:
        raise ValueMistake(
            f"{name} is {x.dtype} of shape {x.shape}, expected images, uint8 [N, H, W, C] or [N, H, W], or features, "
            "float [N, D]: convert the array"
        )
    if x.size == 0:
        raise ValueMistake(f"{name} has shape {x.shape}, expected at least one sample and one value in it: add samples")
    if x.ndim == 4 and x.shape[3] > 4:
        raise ValueMistake(
            f"{name} has shape {x.shape}, expected [N, H, W, C] with at most 4 channels: move the channels to the end "
            "with x.transpose(0, 2, 3, 1)"
        )
    if features and not np.isfinite(x).all():
        row, column = np.argwhere(~np.isfinite(x))[0]
        raise ValueMistake(
            f"{name}[{row}, {column}]={x[row, column]} is not finite, expected a number: fill or remove the sample"
        )


def _check_label_array(name: str, y: np.ndarray, length: int) -> None:
    if y.dtype.kind not in "iu":
        raise ValueMistake(
            f"{name} is {y.dtype}, expected integer class ids or names: use y.astype('int64'), or y.astype('str')"
        )
    if y.shape != (length,):
        raise ValueMistake(
            f"{name} has shape {y.shape}, expected ({length},), one class id per sample: one-hot rows become ids with "
            "y.argmax(1)"
        )


def _count_classes(y_train: np.ndarray, length: int) -> int:
    """Number of classes; the training labels must use every id from 0 up."""
    _check_label_array("y_train", y_train, length)
    ids = np.unique(y_train)
    if len(ids) < 2:
        raise ValueMistake(f"y_train has the class id {ids[0]} alone, expected at least two classes: add samples")
    if not np.array_equal(ids, np.arange(len(ids))):
        shown = ", ".join(str(i) for i in ids[:10]) + (", ..." if len(ids) > 10 else "")
        raise ValueMistake(
            f"y_train has the class ids {shown}, expected 0 to {len(ids) - 1} without gaps: renumber all label arrays "
            "alike, for example with numpy.searchsorted(numpy.unique(y_train), y)"
        )
    return len(ids)


def _prepare(found: dict[str, np.ndarray]) -> tuple[dict[str, Tensor], Transforms, nn.Module | None]:
    """Tensors of the x arrays, the random transforms that go with them, and the normalisation."""
    x = {name: array for name, array in found.items() if name.startswith("x_")}
    train = x["x_train"]
    if train.ndim == 2:
        ready, preparation = standardised(x)
        return ready, Transforms(None, None, None, preparation=preparation), None
    from alignprune.bench.data.transforms import tensor_transforms

    images = {name: channels_first(array) for name, array in x.items()}
    height, width = images["x_train"].shape[2:]
    mean_std = _pixel_statistics(images["x_train"])
    # Reflection needs a padding below the other side, too.
    transforms, finish = tensor_transforms(height, width, min(height // 8, width - 1), *mean_std)
    return images, transforms, finish


def standardised(x: dict[str, np.ndarray], names: Sequence[str] | None = None) -> tuple[dict[str, Tensor], Preparation]:
    """Features with mean 0 and variance 1 over the training samples.

    Args:
        x: features of each split, float [N, D], among them "x_train".
        names: what the D features are called; None where they have no names.

    Returns:
        the same, float32, and the preparation that made them.

    Raises:
        ValueError: if a number is too large for float32 once it is standardised.
    """
    train = x["x_train"]
    with np.errstate(over="ignore", invalid="ignore"):  # found below
        mean, std = train.mean(0, dtype=np.float64), train.std(0, dtype=np.float64)
    # A constant feature (up to rounding) carries nothing; a divisor of 1 leaves it at 0.
    std[std <= 1e-12 * np.abs(mean)] = 1
    for column in np.flatnonzero(~np.isfinite(std)):
        raise _too_large("x_train", train, int(np.abs(train[:, column]).argmax()), int(column))
    step = Features(tuple(mean.tolist()), tuple(std.tolist()))
    named = tuple(names) if names is not None and len(names) == train.shape[1] else None
    preparation = Preparation("features", (step,), shape=train.shape[1:], names=named)
    prepare = preparation.build()
    ready = {name: prepare(torch.from_numpy(array.astype(np.float64))) for name, array in x.items()}
    for name, values in ready.items():
        refuse_overflow(name, x[name], values)
    return ready, preparation


def refuse_overflow(name: str, x: np.ndarray, ready: Tensor) -> None:
    """Refuse numbers that are finite as they are given and no longer once they are standardised.

    Args:
        name: what to call them.
        x: as they are given, float [N, D].
        ready: standardised, float32 [N, D].
    """
    if not bool(ready.isfinite().all()):
        raise _too_large(name, x, *(~ready.isfinite()).nonzero()[0].tolist())


def _too_large(name: str, x: np.ndarray, row: int, column: int) -> ValueMistake:
    return ValueMistake(
        f"{name}[{row}, {column}]={x[row, column]:g} is too large to be standardised, expected a number of the size of "
        "the others: mend or remove the sample"
    )


def _pixel_statistics(images: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, of values scaled to [0, 1]."""
    channels = images.shape[1]
    counts = torch.zeros(channels, 256, dtype=torch.float64)
    for part in images.split(4096):  # bincount needs int64, eight times the memory of the images
        for channel in range(channels):
            counts[channel] += torch.bincount(part[:, channel].flatten().long(), minlength=256)
    weights = counts / counts.sum(1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = weights @ values
    variance = (weights * (values - mean[:, None]) ** 2).sum(1)
    # A constant channel carries nothing; a divisor of 1 leaves it at 0.
    std = torch.where(variance > 0, variance.sqrt(), 1.0)
    return mean.tolist(), std.tolist()

"""ImageNet-1K from its folders of classes, with clean labels or with drawn noise."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from alignprune.bench.data.folder import Skipped, files_by_class, split_by_class
from alignprune.bench.data.records import (
    ANY_CLASSES,
    DatasetRecord,
    check_exists,
    check_noise,
    data_root,
    draw,
    problem,
)
from alignprune.bench.data.views import ClassificationData, ImageFiles, PathLike, assemble
from alignprune.errors import ValueMistake

NUM_CLASSES = 1000


def _inspect(root: Path, file: str) -> str | None:
    """The usual look, and the number of classes."""
    found = problem(root, file)
    if found is not None:
        return found
    with os.scandir(root / file) as inside:
        classes = sum(entry.is_dir() for entry in inside)
    return None if classes == NUM_CLASSES else f"{classes} folders of classes, expected {NUM_CLASSES}"


IMAGENET = DatasetRecord(
    name="imagenet",
    description="ImageNet-1K (ILSVRC 2012): 1,281,167 training and 50,000 validation images, 1,000 classes, with clean "
    "labels or synthetic noise",
    files=("imagenet/train/", "imagenet/val/"),
    source="image-net.org (ILSVRC 2012), after registration",
    noises=("clean", *ANY_CLASSES, "asymmetric"),
    default_noise="clean",
    note="the validation images come in one folder; sort them into one folder a class, as the training images are",
    flips=tuple((c + 1) % NUM_CLASSES for c in range(NUM_CLASSES)),
    per_class=False,
    image_size=224,
    inspect=_inspect,
)


def imagenet(
    root: PathLike | None = None,
    noise: str = "clean",
    noise_rate: float | None = None,
    seed: int = 0,
    image_size: int = 224,
) -> ClassificationData:
    """ImageNet-1K with clean labels or synthetic noise; the official validation images are the test set.

    Args:
        root: data root with imagenet/train/WNID/ and imagenet/val/WNID/; None for ALIGNPRUNE_DATA.
        noise: "clean", or a kind of `alignprune.noise`; "asymmetric" turns class y of floor(rate * N) samples,
            drawn from all, into (y + 1) mod 1000.
        noise_rate: nominal rate of synthetic noise in [0, 1]; None for "clean".
        seed: seed of synthetic noise.
        image_size: height and width of a sample in pixels.

    Returns:
        the data; images are [3, image_size, image_size], the classes are named by their WordNet ids.

    Raises:
        FileNotFoundError: if a folder, or the images of a class, are missing.
        ValueError: if a folder does not hold 1,000 classes, or the noise does not fit. An image that cannot be
            read raises one when it is loaded, with the name of the file.

    Source: AlignPrune 4.1 and A; the noise is that of Prune4ReL (Park et al., 2023).
    """
    from alignprune.bench.data.transforms import photo_transforms

    check_noise(IMAGENET, noise, noise_rate)
    transforms = photo_transforms(image_size)
    base = data_root(root)
    _check_folders(base)
    folder = base / "imagenet"
    skipped = Skipped(folder)
    files, clean, classes = files_by_class(folder, "train", skipped)
    test = split_by_class(folder, "val", classes, transforms.plain, skipped)
    skipped.warn()
    return assemble(
        name=IMAGENET.name,
        view=partial(ImageFiles, files),
        transforms=transforms,
        given=clean,
        noise=draw(IMAGENET, clean, noise, noise_rate, NUM_CLASSES, seed),
        truth=clean,
        test=test,
        reference=None,
        num_classes=NUM_CLASSES,
        input_shape=(3, image_size, image_size),
        class_names=classes,
        ids=files.names,
    )


def _check_folders(root: Path) -> None:
    """Count the classes before a million files are listed."""
    for file in IMAGENET.files:
        check_exists(root, root / file, IMAGENET.source)
        found = IMAGENET.inspect(root, file)
        if found is not None:
            raise ValueMistake(
                f"root={str(root)!r} has {file!r} with {found}: sort the images into one folder a class, named by its "
                "WordNet id (other sets of classes: give the folder as the data set)"
            )

"""Own data from image files, one folder per class."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from alignprune.bench.data.records import ANY_CLASSES, DatasetRecord, as_labels, check_noise, draw
from alignprune.bench.data.views import ClassificationData, FileNames, ImageFiles, PathLike, assemble, refuse_overlap
from alignprune.errors import MissingFile, ValueMistake

FOLDER = DatasetRecord(
    name="FOLDER",
    description="Image files, one folder per class",
    files=("train/CLASS/", "test/CLASS/ or val/CLASS/", "reference/CLASS/ (optional, clean)"),
    source="your own",
    noises=("none", *ANY_CLASSES),
    default_noise="none",
    image_size=224,
)


def image_folder(
    path: PathLike,
    noise: str = "none",
    noise_rate: float | None = None,
    seed: int = 0,
    image_size: int = 224,
) -> ClassificationData:
    """Own data from image files, one folder per class.

    Training crops are random (RandomResizedCrop, flip); otherwise the short side is resized to image_size /
    0.875 and the centre is cut out. Normalised with the mean and standard deviation of ImageNet.

    Args:
        path: folder with train/CLASS/ and test/CLASS/ (or, without test/, val/CLASS/), optional
            reference/CLASS/ with clean samples. The classes are those of train/.
        noise: "none", or a kind of `alignprune.noise` to add noise; the folders then count as the clean labels.
        noise_rate: nominal rate of the added noise in [0, 1]; None for "none".
        seed: seed of the added noise.
        image_size: height and width of a sample in pixels.

    Returns:
        the data; images are [3, image_size, image_size].

    Raises:
        FileNotFoundError: if a folder or the images of a class are missing.
        ValueError: if there are fewer than two classes, a class is unknown in train/, or an argument does not
            fit. An image that cannot be read raises one when it is loaded, with the name of the file.
    """
    from alignprune.bench.data.transforms import photo_transforms

    check_noise(FOLDER, noise, noise_rate)
    transforms = photo_transforms(image_size)
    folder = Path(path)
    files, given, classes = files_by_class(_existing(folder / "train"))
    if len(classes) < 2:
        raise ValueMistake(
            f"path={str(folder / 'train')!r} holds {len(classes)} class, expected at least two: one folder per class"
        )
    noisy = draw(FOLDER, given, noise, noise_rate, len(classes), seed)

    tested = folder / "test" if (folder / "test").is_dir() or not (folder / "val").is_dir() else folder / "val"
    test, reference = split_by_class(_existing(tested), classes, transforms.plain), None
    if (folder / "reference").is_dir():
        reference = split_by_class(folder / "reference", classes, transforms.plain)
    refuse_overlap(reference, test)
    return assemble(
        name=folder.resolve().name,
        view=partial(ImageFiles, files),
        transforms=transforms,
        given=given,
        noise=noisy,
        truth=given if noisy is not None else None,
        test=test,
        reference=reference,
        num_classes=len(classes),
        input_shape=(3, image_size, image_size),
    )


def files_by_class(folder: Path, *, allow_empty: bool = False) -> tuple[FileNames, Tensor, list[str]]:
    """The images in the subfolders of a folder, each of which is a class.

    Args:
        folder: folder with CLASS/*.jpg, *.png, ... at any depth below the class.
        allow_empty: whether a class may have no image.

    Returns:
        the N files, their class ids, int64 [N], and the names of the classes in the order of the ids.

    Raises:
        FileNotFoundError: if there is no class, or one without an image.
    """
    from torchvision import datasets

    found = datasets.ImageFolder(str(folder), allow_empty=allow_empty)
    start = len(os.path.join(folder, ""))
    return FileNames(folder, (file[start:] for file, _ in found.samples)), as_labels(found.targets), found.classes


def split_by_class(folder: Path, classes: list[str], transform: nn.Module | None) -> ImageFiles:
    """The images of a further split, under the class ids of the training split.

    Args:
        folder: folder of the split; classes may be missing.
        classes: names of the training classes in the order of their ids.
        transform: RGB image to tensor.

    Raises:
        FileNotFoundError: if the split holds no image.
        ValueError: if it holds a class that training does not have.
    """
    files, given, names = files_by_class(folder, allow_empty=True)
    foreign = [name for name in names if name not in classes]
    if foreign:
        raise ValueMistake(
            f"path={str(folder)!r} holds the classes {', '.join(foreign)}, which train/ does not have, expected none "
            f"but {', '.join(classes)}: rename or remove the folders"
        )
    if not len(files):
        raise MissingFile(f"path={str(folder)!r} holds no image, expected CLASS/*.jpg or *.png: add the images")
    ids = as_labels([classes.index(name) for name in names])
    return ImageFiles(files, ids[given], transform)


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise MissingFile(
            f"path={str(folder)!r} is not there, expected train/CLASS/ and test/CLASS/ (or val/CLASS/) with image "
            "files: check the path"
        )
    return folder

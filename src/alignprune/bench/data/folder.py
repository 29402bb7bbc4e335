"""Own data from image files, one folder per class, with or without folders for training and test."""

from __future__ import annotations

import os
import unicodedata
import warnings
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from alignprune.bench.data.columns import listed
from alignprune.bench.data.images import SUFFIXES
from alignprune.bench.data.records import ANY_CLASSES, DatasetRecord, as_labels, check_noise, draw
from alignprune.bench.data.views import ClassificationData, FileNames, ImageFiles, PathLike, assemble, refuse_overlap
from alignprune.errors import MissingFile, ValueMistake

FOLDER = DatasetRecord(
    name="FOLDER",
    description="Image files, one folder per class",
    files=(
        "train/CLASS/, or CLASS/ alone",
        "test/CLASS/ or val/CLASS/ (optional: --holdout takes a part of the training images)",
        "reference/CLASS/ (optional, clean)",
    ),
    source="your own",
    noises=("none", *ANY_CLASSES),
    default_noise="none",
    image_size=224,
)

# What a test split is called, the first that is there.
_TESTS = ("test", "val", "valid", "validation")
_SPLITS = ("train", *_TESTS, "reference")

# What systems leave beside the files of their users; names that begin with a dot are hidden, too.
_LEFT_BEHIND = {"__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir", "$RECYCLE.BIN"}


def image_folder(
    path: PathLike,
    noise: str = "none",
    noise_rate: float | None = None,
    seed: int = 0,
    image_size: int = 224,
) -> ClassificationData:
    """Own data from image files, one folder per class.

    Training crops are random (RandomResizedCrop, flip); otherwise the short side is resized to image_size /
    0.875 and the centre is cut out. Normalised with the mean and standard deviation of ImageNet. Hidden files and
    folders count as absent; files whose names are no image's are left out with a warning.

    Args:
        path: folder with train/CLASS/, optional test/CLASS/ (or, without test/, val/, valid/ or validation/) and
            optional reference/CLASS/ with clean samples, or with CLASS/ alone, which are training samples. The
            classes are those of the training samples, two spellings of one name in Unicode are one class.
        noise: "none", or a kind of `alignprune.noise` to add noise; the folders then count as the clean labels.
        noise_rate: nominal rate of the added noise in [0, 1]; None for "none".
        seed: seed of the added noise.
        image_size: height and width of a sample in pixels.

    Returns:
        the data; images are [3, image_size, image_size], ids the paths from the folder on, such as "train/cat/1.png".

    Raises:
        FileNotFoundError: if a folder or the images of a class are missing.
        ValueError: if there are fewer than two classes, a class is unknown in training, the folders are neither
            splits nor classes, or an argument does not fit. An image that cannot be read raises one when it is
            loaded, with the name of the file.
    """
    from alignprune.bench.data.transforms import photo_transforms

    check_noise(FOLDER, noise, noise_rate)
    transforms = photo_transforms(image_size)
    folder = Path(path)
    layout = _layout(folder)
    skipped = Skipped(folder, list(layout.ignored))
    files, given, classes = files_by_class(folder, layout.train, skipped)
    if len(classes) < 2:
        raise ValueMistake(
            f"path={str(folder / layout.train)!r} holds {len(classes)} class, expected at least two: one folder per "
            "class"
        )
    noisy = draw(FOLDER, given, noise, noise_rate, len(classes), seed)
    test, reference = (
        None if split is None else split_by_class(folder, split, classes, transforms.plain, skipped)
        for split in (layout.test, layout.reference)
    )
    skipped.warn()
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
        class_names=classes,
        ids=files.names,
    )


# -- which folder is what ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    """Folders under the given one: of each split, "" for the folder itself; and what no split reads."""

    train: str
    test: str | None
    reference: str | None
    ignored: tuple[str, ...]


def _layout(folder: Path) -> _Layout:
    if not folder.is_dir():
        raise MissingFile(
            f"path={str(folder)!r} is not there, expected train/CLASS/ or CLASS/ with image files: check the path"
        )
    inside, files = _entries(folder)
    if "train" in inside and (_entries(folder / "train")[0] or set(inside) <= set(_SPLITS)):
        # A test folder without folders of classes has no labels, as those of competitions.
        test = next((name for name in _TESTS if name in inside and _entries(folder / name)[0]), None)
        reference = "reference" if "reference" in inside else None
        ignored = [f"{name}/" for name in inside if name not in ("train", test, reference)]
        return _Layout("train", test, reference, (*ignored, *files))
    # A folder of images called train may be a class, as bus and car are; test or Training among classes may not.
    splits = [name for name in inside if name.casefold() in (*_SPLITS, "training", "testing") and name != "train"]
    if splits:
        raise ValueMistake(
            f"path={str(folder)!r} holds {', '.join(f'{name}/' for name in splits)} and no train/ with folders of "
            "classes, expected train/CLASS/, or CLASS/ alone: move the folders of classes for training into train/"
        )
    nested = [name for name in inside if (folder / name / "train").is_dir()]
    if nested:
        raise ValueMistake(
            f"path={str(folder)!r} holds {nested[0]}/train/, expected train/CLASS/ or CLASS/: give the folder "
            f"{str(folder / nested[0])!r}"
        )
    return _Layout("", None, None, tuple(files))


def _entries(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the folders and of the files in a folder, sorted, without hidden ones."""
    with os.scandir(folder) as inside:
        seen = [(entry.name, entry.is_dir()) for entry in inside if not is_hidden(entry.name)]
    return sorted(name for name, is_dir in seen if is_dir), sorted(name for name, is_dir in seen if not is_dir)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's: hidden by a dot, or left behind by a system."""
    return name.startswith(".") or name in _LEFT_BEHIND


# -- the images of a split ---------------------------------------------------------------------------------


@dataclass
class Skipped:
    """What is not read, over all splits of a data set, for one warning.

    Attributes:
        folder: the data set.
        names: files and folders beside the splits and the classes.
        endings: how often each ending that is no image's was met.
    """

    folder: Path
    names: list[str] = field(default_factory=list)
    endings: Counter[str] = field(default_factory=Counter)

    def warn(self) -> None:
        """Say it, where there is something to say."""
        parts = []
        if self.endings:
            counts = ", ".join(f"{count} {ending or 'without'}" for ending, count in self.endings.most_common())
            parts.append(f"files whose names do not end as an image's ({counts})")
        if self.names:
            parts.append(f"entries outside the splits and classes ({listed(self.names)})")
        if parts:
            warnings.warn(
                f"path={str(self.folder)!r} holds {' and '.join(parts)}, which nothing reads, expected "
                f"{', '.join(SUFFIXES)} in folders of classes: convert or move what you miss",
                stacklevel=4,
            )


def files_by_class(
    folder: Path, split: str, skipped: Skipped, *, allow_empty: bool = False
) -> tuple[FileNames, Tensor, list[str]]:
    """The images in the subfolders of a split, each of which is a class.

    Args:
        folder: the data set, from which the names of the files start.
        split: folder under it with CLASS/*.jpg, *.png, ... at any depth below the class; "" for the data set itself.
        skipped: takes note of what is not read.
        allow_empty: whether a class may have no image.

    Returns:
        the N files, their class ids, int64 [N], and the names of the classes in the order of the ids.

    Raises:
        FileNotFoundError: if there is no class, or one without an image.
        ValueError: if a link leads to a folder of the same class.
    """
    inside, loose = _entries(folder / split)
    if split:
        skipped.names += [f"{split}/{name}" for name in loose]
    # macOS writes é as two characters where others write one.
    names = {name: unicodedata.normalize("NFC", name) for name in inside}
    classes = sorted(set(names.values()))
    number = {name: i for i, name in enumerate(classes)}
    found: list[str] = []
    ids: list[int] = []
    for name in sorted(inside, key=lambda name: (number[names[name]], name)):
        images = _images(folder, f"{split}/{name}" if split else name, skipped.endings)
        found += images
        ids += [number[names[name]]] * len(images)
    seen = set(ids)
    empty = [name for name in classes if number[name] not in seen]
    if not classes or (empty and not allow_empty):
        what = f"no image of {listed(empty)}" if empty else "no folder of a class"
        raise MissingFile(
            f"path={str(folder / split)!r} holds {what}, expected CLASS/*.jpg or *.png for each class: add the images, "
            "remove what is no class, or list the files and their labels in a TABLE.csv"
        )
    return FileNames(folder, found), as_labels(ids), classes


def _images(folder: Path, start: str, endings: Counter[str]) -> list[str]:
    """Paths from the folder on, of the images at any depth below the start, in a fixed order."""
    walked = []
    top = os.path.join(folder, start)
    known: dict[str, str] = {}
    for place, folders, files in os.walk(top, followlinks=True, onerror=_raise):
        first = known.setdefault(os.path.realpath(place), place)
        if first != place:  # a link back to where it lies would give each image some forty times
            raise ValueMistake(
                f"path={place!r} is a link to {first!r}, whose images are read there, expected each folder once: "
                "remove the link"
            )
        folders[:] = [name for name in folders if not is_hidden(name)]  # os.walk goes down into those that are left
        walked.append((place, sorted(name for name in files if not is_hidden(name))))
    found = []
    for place, files in sorted(walked):
        inside = start + place[len(top) :].replace(os.sep, "/")
        for name in files:
            ending = os.path.splitext(name)[1].lower()
            if ending in SUFFIXES:
                found.append(f"{inside}/{name}")
            else:
                endings[ending] += 1
    return found


def _raise(error: OSError) -> None:
    raise error


def split_by_class(
    folder: Path, split: str, classes: list[str], transform: nn.Module | None, skipped: Skipped
) -> ImageFiles:
    """The images of a further split, under the class ids of the training split.

    Args:
        folder: the data set.
        split: folder of the split under it; classes may be missing.
        classes: names of the training classes in the order of their ids.
        transform: RGB image to tensor.
        skipped: takes note of what is not read.

    Raises:
        FileNotFoundError: if the split holds no image.
        ValueError: if it holds a class that training does not have.
    """
    files, given, names = files_by_class(folder, split, skipped, allow_empty=True)
    foreign = [name for name in names if name not in classes]
    if foreign:
        raise ValueMistake(
            f"path={str(folder / split)!r} holds the classes {', '.join(foreign)}, which train/ does not have, "
            f"expected none but {', '.join(classes)}: rename or remove the folders"
        )
    if not len(files):
        raise MissingFile(f"path={str(folder / split)!r} holds no image, expected CLASS/*.jpg or *.png: add the images")
    ids = as_labels([classes.index(name) for name in names])
    return ImageFiles(files, ids[given], transform)

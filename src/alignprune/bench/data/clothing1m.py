"""Clothing-1M: a million photos of clothes from online shops, 14 classes, labelled by the text around them.

Nobody knows which training labels are wrong. People labelled further photos: the official validation part of
these is the reference, the official test part the test set.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from alignprune.bench.contents import quoted
from alignprune.bench.data import lists
from alignprune.bench.data.records import DatasetRecord, check_exists, data_root, problem
from alignprune.bench.data.views import ClassificationData, ImageFiles, PathLike, assemble
from alignprune.errors import ValueMistake

CLASSES = (
    "T-shirt",
    "shirt",
    "knitwear",
    "chiffon",
    "sweater",
    "hoodie",
    "windbreaker",
    "jacket",
    "down coat",
    "suit",
    "shawl",
    "dress",
    "vest",
    "underwear",
)
NUM_CLASSES = len(CLASSES)

_FOLDER = "clothing1m"
_LISTS = f"{_FOLDER}/annotations"
_NOISY = "noisy_label_kv.txt"
_CLEAN = "clean_label_kv.txt"
_KEYS = {"train": "noisy_train_key_list.txt", "reference": "clean_val_key_list.txt", "test": "clean_test_key_list.txt"}


def _place(root: Path, file: str) -> str:
    """Where a list lies: in annotations/, or beside images/ where some copies of the data set have it."""
    moved = file.replace(_LISTS, _FOLDER)
    return moved if (root / moved).exists() and not (root / file).exists() else file


def _inspect(root: Path, file: str) -> str | None:
    """The usual look, in either place."""
    return problem(root, _place(root, file))


CLOTHING1M = DatasetRecord(
    name="clothing1m",
    description="Clothing-1M: 1,000,000 training photos of online shops with their real noise, 14 classes; 14,313 "
    "validation and 10,526 test photos with clean labels",
    files=(*(f"{_LISTS}/{name}" for name in (*_KEYS.values(), _NOISY, _CLEAN)), f"{_FOLDER}/images/"),
    source="the authors of Clothing-1M (Xiao et al., 2015), on request",
    noises=("real",),
    default_noise="real",
    note="the lists may also lie beside images/",
    image_size=224,
    inspect=_inspect,
)


def clothing1m(root: PathLike | None = None, image_size: int = 224) -> ClassificationData:
    """Clothing-1M with the labels of the shops.

    Args:
        root: data root with clothing1m/images/ and the lists in clothing1m/annotations/ or beside images/;
            None for ALIGNPRUNE_DATA.
        image_size: height and width of a sample in pixels; 224 is cut from 256.

    Returns:
        the data; images are [3, image_size, image_size].

    Raises:
        FileNotFoundError: if a list, the first images or the last image of one are missing.
        ValueError: if a line of a list is broken or an image has no label. An image that cannot be read raises
            one when it is loaded, with the name of the file.

    Source: AlignPrune 4.1 and A; Xiao et al. (2015).
    """
    from alignprune.bench.data.transforms import resized_transforms

    transforms = resized_transforms(image_size)
    base = data_root(root)
    noisy, clean = (dict(lists.entries(_list(base, name), NUM_CLASSES)) for name in (_NOISY, _CLEAN))
    train, reference, test = (
        lists.images(base, base / _FOLDER, _labelled(_list(base, _KEYS[part]), labels), CLOTHING1M.source, transform)
        for part, labels, transform in (
            ("train", noisy, transforms.train),
            ("reference", clean, transforms.plain),
            ("test", clean, transforms.plain),
        )
    )
    return assemble(
        name=CLOTHING1M.name,
        view=partial(ImageFiles, train.files),
        transforms=transforms,
        given=train.labels,
        noise=None,
        truth=None,
        test=test,
        reference=reference,
        num_classes=NUM_CLASSES,
        input_shape=(3, image_size, image_size),
        class_names=CLASSES,
        ids=train.files.names,
    )


def _list(root: Path, name: str) -> Path:
    file = root / _place(root, f"{_LISTS}/{name}")
    check_exists(root, file, CLOTHING1M.source)
    return file


def _labelled(keys: Path, labels: dict[str, int]) -> list[lists.Entry]:
    """The images of a key list with their labels."""
    found = []
    for number, path in lists.paths(keys):
        if path not in labels:
            raise ValueMistake(
                f"file={str(keys)!r} names {quoted(path)} in line {number}, expected a path that the list of labels "
                "beside it has: copy both lists again"
            )
        found.append((path, labels[path]))
    if not found:
        raise ValueMistake(f"file={str(keys)!r} lists no image, expected one at least: copy the list again")
    return found

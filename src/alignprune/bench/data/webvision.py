"""Mini-WebVision: the first 50 classes of WebVision 1.0, images that Google found for their names.

Nobody knows which labels are wrong. The validation images, whose labels people checked, are cut into two
halves: one is the reference, the other the test set, so that nothing is tested on what pruning has seen.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from alignprune.bench.data import lists
from alignprune.bench.data.records import DatasetRecord, as_labels, check_exists, data_root
from alignprune.bench.data.views import ClassificationData, ImageFiles, PathLike, assemble, balanced
from alignprune.errors import ValueMistake

NUM_CLASSES = 50
_ALL_CLASSES = 1000
_SPLIT_SEED = 0  # of the halves, the same in every run

_TRAIN = "webvision/info/train_filelist_google.txt"
_VALIDATION = "webvision/info/val_filelist.txt"
_VALIDATION_IMAGES = "webvision/val_images_256/"

WEBVISION = DatasetRecord(
    name="webvision",
    description="mini-WebVision: the first 50 classes of WebVision 1.0, about 66,000 training images found by Google, "
    "with their real noise",
    files=(_TRAIN, _VALIDATION, "webvision/google/", _VALIDATION_IMAGES),
    source="the WebVision 1.0 page of ETH Zurich (lists; Google and validation images resized to 256 pixels)",
    noises=("real",),
    default_noise="real",
    note="of the images, those of the first 50 classes in the lists are needed",
    image_size=224,
)


def webvision(root: PathLike | None = None, image_size: int = 224) -> ClassificationData:
    """Mini-WebVision with the labels of the crawl.

    Half of the validation images, drawn with the same number of each class and the same in every run, is the
    reference; the other half is the test set.

    Args:
        root: data root with webvision/ as its authors distribute it; None for ALIGNPRUNE_DATA.
        image_size: height and width of a sample in pixels; 224 is cut from 256.

    Returns:
        the data; images are [3, image_size, image_size].

    Raises:
        FileNotFoundError: if a list, the first images or the last image of one are missing.
        ValueError: if a line of a list is broken. An image that cannot be read raises one when it is loaded,
            with the name of the file.

    Source: AlignPrune 4.1 and A; Li et al. (2017); the 50 classes are those of Chen et al. (2019).
    """
    from alignprune.bench.data.transforms import resized_transforms

    transforms = resized_transforms(image_size)
    base = data_root(root)
    train = lists.images(base, base / "webvision", _first_classes(base, _TRAIN), WEBVISION.source, transforms.train)

    validation = _first_classes(base, _VALIDATION)
    labels = as_labels([label for _, label in validation])
    generator = torch.Generator().manual_seed(_SPLIT_SEED)
    chosen = set(balanced(labels, NUM_CLASSES, len(labels) // 2, generator).tolist())
    reference, test = (
        lists.images(
            base,
            base / _VALIDATION_IMAGES,
            [entry for i, entry in enumerate(validation) if (i in chosen) == half],
            WEBVISION.source,
            transforms.plain,
        )
        for half in (True, False)
    )
    return assemble(
        name=WEBVISION.name,
        view=partial(ImageFiles, train.files),
        transforms=transforms,
        given=train.labels,
        noise=None,
        truth=None,
        test=test,
        reference=reference,
        num_classes=NUM_CLASSES,
        input_shape=(3, image_size, image_size),
        class_names=_names(),
        ids=train.files.names,
    )


def _names() -> list[str]:
    """Names of the first 50 classes, which are those of ImageNet."""
    from torchvision.models import ResNet18_Weights

    return list(ResNet18_Weights.DEFAULT.meta["categories"][:NUM_CLASSES])


def _first_classes(root: Path, name: str) -> list[lists.Entry]:
    """The entries of a list of all classes that belong to the first 50."""
    file = root / name
    check_exists(root, file, WEBVISION.source)
    found = [(path, label) for path, label in lists.entries(file, _ALL_CLASSES) if label < NUM_CLASSES]
    if len(found) < 2:
        raise ValueMistake(
            f"file={str(file)!r} lists {len(found)} images of the classes 0 to {NUM_CLASSES - 1}, expected at least "
            "two: copy the list again"
        )
    return found

"""Own data from a Hugging Face data set: a folder that `save_to_disk` wrote, or what `load_dataset` finds.

The columns are found by their types, Image and ClassLabel; a name such as "hf:PATH?image=photo&label=kind"
chooses among several.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

import numpy as np
from torch import Tensor, nn
from torch.utils.data import Dataset

from alignprune._checks import choice
from alignprune.bench.data.records import ANY_CLASSES, DatasetRecord, as_labels, check_noise, draw
from alignprune.bench.data.views import ClassificationData, assemble
from alignprune.errors import ValueMistake

if TYPE_CHECKING:
    import datasets

PREFIX = "hf:"

HUGGINGFACE = DatasetRecord(
    name="hf:NAME_OR_PATH",
    description="A Hugging Face data set with a column of images and one of class ids",
    files=("train", "test or validation", "reference (optional, clean)"),
    source="your own, written by save_to_disk, or the Hugging Face Hub",
    noises=("none", *ANY_CLASSES),
    default_noise="none",
    note="hf:NAME?image=COLUMN&label=COLUMN chooses the columns",
    image_size=224,
)


class TableImages(Dataset[tuple[Tensor, int]]):
    """Samples read from a column of images.

    Args:
        images: a table of the N images alone.
        split: what to call the table in errors.
        labels: class ids, int64 [N].
        transform: RGB image to tensor.
    """

    def __init__(self, images: datasets.Dataset, split: str, labels: Tensor, transform: nn.Module | None) -> None:
        self.images = images
        self.split = split
        self.labels = labels
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        try:
            (image,) = self.images[index].values()
            image = image.convert("RGB")
        except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, ... by image format
            raise ValueMistake(
                f"row={index} of split {self.split} cannot be read ({type(error).__name__}: {error}), expected an "
                f"image: replace or remove the row"
            ) from error
        return image if self.transform is None else self.transform(image), int(self.labels[index])


def huggingface(
    source: str,
    noise: str = "none",
    noise_rate: float | None = None,
    seed: int = 0,
    image_size: int = 224,
) -> ClassificationData:
    """Own data from a Hugging Face data set of images, transformed as those of `image_folder`.

    Args:
        source: a folder that `save_to_disk` wrote or a name that `datasets.load_dataset` finds, with the
            splits train, test or (without test) validation, and optional reference with clean samples. Where
            more than one column is of type Image or ClassLabel, "?image=COLUMN&label=COLUMN" follows; the label
            may then also be a column of integers.
        noise: "none", or a kind of `alignprune.noise` to add noise; the labels then count as clean.
        noise_rate: nominal rate of the added noise in [0, 1]; None for "none".
        seed: seed of the added noise.
        image_size: height and width of a sample in pixels.

    Returns:
        the data; images are [3, image_size, image_size].

    Raises:
        ValueError: if the data set cannot be loaded, a split or a column is missing, a label is no class id, or
            an argument does not fit. An image that cannot be read raises one when it is loaded, with its row.
    """
    from alignprune.bench.data.transforms import photo_transforms

    check_noise(HUGGINGFACE, noise, noise_rate)
    transforms = photo_transforms(image_size)
    path, _, chosen = source.partition("?")
    splits = _splits(path)
    columns = _columns(splits["train"], chosen)
    num_classes = _count_classes(splits["train"], columns["label"])
    train = _split(splits, "train", columns, num_classes, transforms.train)
    given = train.labels
    noisy = draw(HUGGINGFACE, given, noise, noise_rate, num_classes, seed)
    test = "test" if "test" in splits else "validation"
    return assemble(
        name=Path(path).name,
        view=partial(TableImages, train.images, "train"),
        transforms=transforms,
        given=given,
        noise=noisy,
        truth=given if noisy is not None else None,
        test=_split(splits, test, columns, num_classes, transforms.plain),
        reference=_split(splits, "reference", columns, num_classes, transforms.plain)
        if "reference" in splits
        else None,
        num_classes=num_classes,
        input_shape=(3, image_size, image_size),
    )


def _splits(path: str) -> dict[str, datasets.Dataset]:
    import datasets  # a second, which no other data set needs to wait

    try:
        saved = os.path.isfile(os.path.join(path, "dataset_dict.json"))
        found = datasets.load_from_disk(path) if saved else datasets.load_dataset(path)
    except Exception as error:  # the library raises its own, those of pyarrow, of the network, ...
        raise ValueMistake(
            f"dataset={PREFIX + path!r} cannot be loaded ({type(error).__name__}: {error}), expected a folder that "
            "DatasetDict.save_to_disk wrote, or a name on the Hugging Face Hub: check the name; the Hub needs the "
            "network unless its cache has the data set already"
        ) from error
    if "train" not in found or not {"test", "validation"} & set(found):
        raise ValueMistake(
            f"dataset={PREFIX + path!r} holds the splits {', '.join(found)}, expected train and test (or validation): "
            "save a DatasetDict with these"
        )
    return dict(found)


def _columns(train: datasets.Dataset, chosen: str) -> dict[str, str]:
    """The columns of image and label: as chosen, otherwise the only one of its type."""
    given = dict(parse_qsl(chosen))
    for key in given:
        choice("option", key, ("image", "label"))
    types = {name: type(feature).__name__ for name, feature in train.features.items()}
    columns = {}
    for key, wanted in (("image", "Image"), ("label", "ClassLabel")):
        candidates = [name for name, kind in types.items() if kind == wanted]
        if key in given:
            choice("column", given[key], types)
        elif len(candidates) != 1:
            raise ValueMistake(
                f"dataset has {len(candidates)} columns of type {wanted} ({', '.join(candidates) or 'none'}) among "
                f"{', '.join(types)}, expected one: name it, as in hf:NAME?{key}=COLUMN"
            )
        columns[key] = given.get(key) or candidates[0]
    if types[columns["image"]] != "Image":
        raise ValueMistake(
            f"column={columns['image']!r} is of type {types[columns['image']]}, expected Image: use cast_column"
        )
    return columns


def _count_classes(train: datasets.Dataset, column: str) -> int:
    """As many as the type of the labels names; of plain integers, the highest and all below it."""
    named = getattr(train.features[column], "num_classes", None)
    count = int(named) if named is not None else int(_integers(train, "train", column).max()) + 1
    if count < 2:
        raise ValueMistake(
            f"column={column!r} has {count} class, expected at least two: choose another by hf:NAME?label=COLUMN"
        )
    return count


def _integers(split: datasets.Dataset, name: str, column: str) -> np.ndarray:
    found = np.asarray(split.with_format("numpy")[column][:])
    if found.dtype.kind not in "iu" or found.ndim != 1:
        raise ValueMistake(
            f"column={column!r} of split {name} holds {found.dtype} values of shape {found.shape}, expected one class "
            "id a row: use class_encode_column, and remove rows without a label"
        )
    return found


def _split(
    splits: dict[str, datasets.Dataset],
    name: str,
    columns: dict[str, str],
    num_classes: int,
    transform: nn.Module | None,
) -> TableImages:
    """The samples of a split, after a look at all labels."""
    split = splits[name]
    missing = [column for column in columns.values() if column not in split.column_names]
    if missing:
        raise ValueMistake(
            f"split={name!r} is without the column {', '.join(missing)}, expected the columns of train: save all "
            f"splits with the same columns"
        )
    labels = _integers(split, name, columns["label"])
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        raise ValueMistake(
            f"row={wrong[0]} of split {name} has the label {labels[wrong[0]]}, expected 0 to {num_classes - 1}: remove "
            f"the rows without a label, or choose a column by hf:NAME?label=COLUMN"
        )
    return TableImages(split.select_columns(columns["image"]), name, as_labels(labels), transform)

"""Own data from a Hugging Face data set: a folder that `save_to_disk` wrote, or what `load_dataset` finds.

The columns are found by their types: a ClassLabel, and an Image, a text or numbers; a name such as
"hf:PATH?image=photo&label=kind" chooses among several. The classes of all splits are put together by their names.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from alignprune._checks import choice
from alignprune.bench.contents import refuse_substitute, sentence, unreadable
from alignprune.bench.data import columns
from alignprune.bench.data.arrays import standardised
from alignprune.bench.data.images import read_image
from alignprune.bench.data.records import ANY_CLASSES, DatasetRecord, check_noise, draw
from alignprune.bench.data.views import (
    ClassificationData,
    Strings,
    TensorData,
    Texts,
    Transforms,
    View,
    assemble,
    refuse_overlap,
)
from alignprune.bench.reading import naming
from alignprune.errors import ValueMistake

if TYPE_CHECKING:
    import datasets

PREFIX = "hf:"

HUGGINGFACE = DatasetRecord(
    name="hf:NAME_OR_PATH",
    description="A Hugging Face data set with a column of labels, and one of images, one of texts, or some of numbers",
    files=(
        "train",
        "test or validation (optional: --holdout takes a part of the training samples)",
        "reference (optional, clean)",
    ),
    source="your own, written by save_to_disk, or the Hugging Face Hub",
    noises=("none", *ANY_CLASSES),
    default_noise="none",
    note="hf:NAME?image=COLUMN&label=COLUMN chooses the columns; also text=, features=A,B, id=",
    image_size=224,
)

OPTIONS = ("label", "image", "text", "features", "id")

# What a test split is called, the first that is there and has labels.
_TESTS = ("test", "validation", "valid", "val")

# Files of a data set on the Hub, which Git LFS keeps.
_STORED = {".arrow", ".parquet", ".csv", ".json", ".jsonl", ".zip", ".gz", ".tar"}


class TableImages(Dataset[tuple[Tensor, int]]):
    """Samples read from a column of images.

    Args:
        images: a table of the N images alone.
        source, split: of which data set, and which of its splits; for errors.
        labels: class ids, int64 [N].
        transform: RGB image to tensor, None for the image itself.
    """

    def __init__(
        self, images: datasets.Dataset, source: str, split: str, labels: Tensor, transform: nn.Module | None
    ) -> None:
        import datasets

        (column,) = images.column_names
        # As bytes or a path, for the one function that reads images.
        self.images = images.cast_column(column, datasets.Image(decode=False))
        self.source, self.split = source, split
        self.labels = labels
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        place = f"row={index} of split {self.split} of {self.source!r}"
        try:
            (stored,) = self.images[index].values()
        except Exception as error:  # pyarrow raises its own for a file that was cut off
            raise unreadable(place, b"?", error, "an image", "save it again") from error
        content = stored and (stored["path"] if stored["bytes"] is None else stored["bytes"])
        image: Any = read_image(place, content or b"")
        return image if self.transform is None else self.transform(image), int(self.labels[index])


def huggingface(
    source: str,
    noise: str = "none",
    noise_rate: float | None = None,
    seed: int = 0,
    image_size: int = 224,
) -> ClassificationData:
    """Own data from a Hugging Face data set; images are transformed as those of `image_folder`, numbers standardised.

    Args:
        source: a folder that `save_to_disk` wrote or a name that `datasets.load_dataset` finds, with the splits train,
            optional test (or, without labels in it, validation, valid or val), and optional reference with clean
            samples; a single split is the training split. "?image=COLUMN&label=COLUMN" may follow: label is a
            ClassLabel, strings or integers, and a sample is an image, a text (text=) or the numbers of some columns
            (features=A,B); id= is what you call the samples.
        noise: "none", or a kind of `alignprune.noise` to add noise; the labels then count as clean.
        noise_rate: nominal rate of the added noise in [0, 1]; None for "none".
        seed: seed of the added noise.
        image_size: height and width of a sample in pixels.

    Returns:
        the data; samples are images [3, image_size, image_size], float32 [D], or strings (`Texts`).

    Raises:
        ValueError: if the data set cannot be loaded, a split or a column is missing, a row has no label or one that
            training does not have, or an argument does not fit. An image that cannot be read raises one when it is
            loaded, with its row.
    """
    check_noise(HUGGINGFACE, noise, noise_rate)
    path, _, query = source.partition("?")
    chosen = columns.options(query, OPTIONS)
    splits = _splits(path)
    with naming(f"dataset={PREFIX + path!r}"):
        roles = _roles(splits["train"], chosen)
        used = _used(splits, roles.label)
        names = {part: _label_names(used[part], part, roles.label) for part in used}
        classes = _classes(used["train"], roles.label, names["train"])
        labels = {part: columns.class_ids(names[part], classes, _place(part, roles.label)) for part in used}
        make, shape, transforms = _maker(used, roles, image_size, PREFIX + path)
        ids = None if roles.id is None else columns.sample_ids(*_column(used["train"], "train", roles.id))

    given = labels["train"]
    noisy = draw(HUGGINGFACE, given, noise, noise_rate, len(classes), seed)
    test, reference = (
        make(part)(labels[part], transforms.plain) if part in used else None for part in (_test_of(used), "reference")
    )
    with naming(f"dataset={PREFIX + path!r}"):
        refuse_overlap(reference, test)
    return assemble(
        name=Path(path).name,
        view=make("train"),
        transforms=transforms,
        given=given,
        noise=noisy,
        truth=given if noisy is not None else None,
        test=test,
        reference=reference,
        num_classes=len(classes),
        input_shape=shape,
        class_names=classes,
        ids=None if ids is None else Strings(ids),
    )


# -- splits ------------------------------------------------------------------------------------------------


def _splits(path: str) -> dict[str, datasets.Dataset]:
    """All splits, train among them."""
    found = loaded(path, f"dataset={PREFIX + path!r}")
    splits = dict(found) if isinstance(found, dict) else {"train": found}
    if "train" not in splits and len(splits) == 1:
        splits = {"train": next(iter(splits.values()))}
    if "train" not in splits:
        raise ValueMistake(
            f"dataset={PREFIX + path!r} holds the splits {', '.join(splits)}, expected one called train: rename it"
        )
    return splits


def loaded(path: str, place: str) -> datasets.Dataset | datasets.DatasetDict:
    """A data set with all that it has of itself checked, since a damaged one would end the process.

    Args:
        path: a folder that `save_to_disk` wrote, or a name that `load_dataset` finds.
        place: what to call it.

    Raises:
        ValueError: if it cannot be loaded.
    """
    import datasets  # a second, which no other data set needs to wait

    try:
        saved = any(os.path.isfile(os.path.join(path, name)) for name in ("dataset_dict.json", "state.json"))
        found = datasets.load_from_disk(path) if saved else datasets.load_dataset(path)
        for split in found.values() if isinstance(found, dict) else [found]:
            split.data.validate(full=True)
    except Exception as error:  # the library raises its own, those of pyarrow, of the network, ...
        for file in sorted(Path(path).rglob("*")):
            if file.suffix in _STORED:
                refuse_substitute(f"file={str(file)!r}", file, "a part of the data set")
        raise ValueMistake(
            f"{place} cannot be loaded ({sentence(error)}), expected a folder that save_to_disk wrote, or a name on "
            "the Hugging Face Hub: check the name; the Hub needs the network unless its cache has the data set already"
        ) from error
    if isinstance(found, dict) and not found:
        raise ValueMistake(f"{place} holds no split, expected one at least: save it again")
    return found


def _used(splits: Mapping[str, datasets.Dataset], label: str) -> dict[str, datasets.Dataset]:
    """The splits that are read: train, the first test split with labels, and reference."""
    tests = [name for name in _TESTS if name in splits]
    labelled = [name for name in tests if _has_labels(splits[name], label)]
    test = labelled[:1]
    skipped = [name for name in splits if name not in ("train", "reference", *test)]
    if tests[:1] != test:
        instead = f"{test[0]} takes its place" if test else "there is no test split"
        warnings.warn(
            f"split={tests[0]!r} has no labels, expected some to judge a run by: {instead}",
            stacklevel=4,
        )
        skipped.remove(tests[0])
    if skipped:
        warnings.warn(
            f"dataset has the splits {', '.join(skipped)}, which nothing reads, expected train, one of "
            f"{', '.join(_TESTS)}, and reference: rename what you miss",
            stacklevel=4,
        )
    return {name: splits[name] for name in ("train", *test, "reference") if name in splits}


def _has_labels(split: datasets.Dataset, label: str) -> bool:
    """Whether any row has a label; -1 stands for none."""
    if label not in split.column_names:
        return False
    values = split.select_columns(label).to_pandas()[label]
    return bool((values.notna() & (values != -1)).any())


def _test_of(used: Mapping[str, datasets.Dataset]) -> str:
    return next((name for name in _TESTS if name in used), _TESTS[0])


# -- columns -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Roles:
    """Which column is what; of image, text and features one is given."""

    label: str
    image: str | None
    text: str | None
    features: tuple[str, ...]
    id: str | None


def _roles(train: datasets.Dataset, chosen: Mapping[str, str]) -> _Roles:
    """The columns as chosen, otherwise found by their types."""
    types = {name: _type_of(feature) for name, feature in train.features.items()}
    features = tuple(part for part in chosen.get("features", "").split(",") if part)
    for name in (*(value for role, value in chosen.items() if role != "features"), *features):
        choice("column", name, types)
    label = chosen.get("label") or _label(types)
    if label in (chosen.get("image"), chosen.get("text"), *features):
        raise ValueMistake(
            f"column={label!r} is the label and a part of the samples, too, expected another: nothing could be learned "
            "from it"
        )
    rest = {name: kind for name, kind in types.items() if name not in (label, chosen.get("id"))}
    kinds = [role for role in ("image", "text", "features") if role in chosen]
    if len(kinds) > 1:
        raise ValueMistake(
            f"dataset gives {' and '.join(kinds)}, expected one of them, since a sample is an image, a text or "
            "numbers: leave the others out"
        )
    image, text = chosen.get("image"), chosen.get("text")
    if not kinds:
        image = _only(rest, "Image", types) if "Image" in rest.values() else None
        text = _text(rest) if image is None else None
    if image is not None and types[image] != "Image":
        raise ValueMistake(f"column={image!r} is of type {types[image]}, expected Image: use cast_column")
    if image is None and text is None and not features:
        features = _numeric(train, rest)
    return _Roles(label, image, text, features, chosen.get("id"))


_WORDS = ("string", "large_string")


def _type_of(feature: Any) -> str:
    """The type of a column by its name: Image, ClassLabel, List, ..., or int64, string, ... of plain values."""
    kind = type(feature).__name__
    return str(feature.dtype) if kind == "Value" else kind


def _label(types: Mapping[str, str]) -> str:
    """The only ClassLabel, or else a column called label."""
    if "ClassLabel" not in types.values() and types.get("label", "").startswith((*_WORDS, "int", "uint", "bool")):
        return "label"
    return _only(types, "ClassLabel", types, role="label")


def _only(among: Mapping[str, str], kind: str, types: Mapping[str, str], role: str = "image") -> str:
    candidates = [name for name, given in among.items() if given == kind]
    if len(candidates) != 1:
        raise ValueMistake(
            f"dataset has {len(candidates)} columns of type {kind} ({', '.join(candidates) or 'none'}) among "
            f"{', '.join(types)}, expected one: name it, as in hf:NAME?{role}=COLUMN"
        )
    return candidates[0]


def _text(rest: Mapping[str, str]) -> str | None:
    """A column called text, or the only one of strings where no other holds measured numbers."""
    words = [name for name, kind in rest.items() if kind in _WORDS]
    if "text" in words:
        return "text"
    measured = [name for name, kind in rest.items() if kind.startswith("float") or "List" in kind or kind == "Sequence"]
    return words[0] if len(words) == 1 and not measured else None


def _numeric(train: datasets.Dataset, rest: Mapping[str, str]) -> tuple[str, ...]:
    """The columns of numbers; the others are named in a warning, since they are left out."""
    sample = train.select_columns(list(rest)).select(range(min(1, len(train)))).to_pandas()
    numeric = tuple(name for name in rest if columns.is_numeric(sample[name]))
    left = [name for name in rest if name not in numeric]
    if not numeric:
        raise ValueMistake(
            f"dataset has no column of images, none called text and none of numbers among {', '.join(rest) or 'none'}, "
            "expected one of these: name it, as in hf:NAME?image=COLUMN, text=COLUMN or features=A,B"
        )
    if left:
        warnings.warn(
            f"dataset has columns that nothing reads ({columns.listed(left)}), expected numbers: choose the columns by "
            "?features=A,B or ?text=COLUMN",
            stacklevel=5,
        )
    return numeric


def _place(part: str, column: str) -> str:
    return f"column={column!r} of split {part}"


def _column(split: datasets.Dataset, part: str, column: str) -> tuple[Any, str]:
    """A column as a pandas series, and what to call it in errors."""
    if column not in split.column_names:
        raise ValueMistake(
            f"split={part!r} is without the column {column}, expected the columns of train: save all splits with the "
            "same columns"
        )
    return split.select_columns(column).to_pandas()[column], _place(part, column)


# -- labels ------------------------------------------------------------------------------------------------


def _label_names(split: datasets.Dataset, part: str, column: str) -> NDArray[np.object_]:
    """The class of each row by its name; of a ClassLabel its name, never its number."""
    values, place = _column(split, part, column)
    known = getattr(split.features[column], "names", None)
    if known is not None:
        wrong = np.flatnonzero(values >= len(known))
        if len(wrong):
            raise ValueMistake(
                f"row={wrong[0]} of split {part} has the label {values[wrong[0]]}, expected 0 to {len(known) - 1}: "
                "save the split with the ClassLabel of its labels"
            )
    if values.dtype.kind in "if":
        values = values.where(values >= 0)  # -1 stands for no label
    if known is not None:
        values = values.map(lambda number: known[int(number)], na_action="ignore")
    return columns.label_names(values, place)


def _classes(train: datasets.Dataset, column: str, names: NDArray[np.object_]) -> list[str]:
    """As many as the ClassLabel of training names; of other labels, those that training has."""
    known: Sequence[str] | None = getattr(train.features[column], "names", None)
    if known is None:
        return columns.classes_of(names, _place("train", column))
    if len(known) < 2:
        raise ValueMistake(
            f"column={column!r} has {len(known)} class, expected at least two: choose another by hf:NAME?label=COLUMN"
        )
    return [columns.class_name(name) for name in known]


# -- samples -----------------------------------------------------------------------------------------------


def _maker(
    used: Mapping[str, datasets.Dataset], roles: _Roles, image_size: int, source: str
) -> tuple[Callable[[str], View], tuple[int, ...], Transforms]:
    """What makes the samples of a split, their shape, and their transforms."""
    nothing = Transforms(None, None, None)
    for part, split in used.items():
        for column in (roles.image, roles.text, *roles.features):
            if column is not None and column not in split.column_names:
                _column(split, part, column)
    if roles.image is not None:
        from alignprune.bench.data.transforms import photo_transforms

        images = {part: split.select_columns(roles.image) for part, split in used.items()}
        shape = (3, image_size, image_size)
        return lambda part: partial(TableImages, images[part], source, part), shape, photo_transforms(image_size)
    if roles.text is not None:
        texts = {part: columns.texts(*_column(split, part, roles.text)) for part, split in used.items()}
        return lambda part: lambda labels, _: Texts(texts[part], labels), (), nothing
    numbers = {
        part: columns.features(split.select_columns(list(roles.features)).to_pandas(), roles.features, f"split {part}")
        for part, split in used.items()
    }
    widths = {part: values.shape[1] for part, values in numbers.items()}
    for part, width in widths.items():
        if width != widths["train"]:
            raise ValueMistake(
                f"split={part!r} has {width} features, expected {widths['train']} as in train: save lists of one length"
            )
    inputs, preparation = standardised({f"x_{part}": values for part, values in numbers.items()}, roles.features)
    transforms = Transforms(None, None, None, preparation=preparation)
    return lambda part: partial(TensorData, inputs[f"x_{part}"]), (widths["train"],), transforms

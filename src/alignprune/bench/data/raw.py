"""Samples to predict, as they come: images, arrays, tables or a Hugging Face data set, with or without given labels.

What a source holds has to be what the network's preparation reads; anything else is refused with what was expected.
What an embedder reads is embedded at once, and so as in training; other samples are prepared when they are loaded.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from alignprune._checks import choice
from alignprune.bench.data import columns
from alignprune.bench.data.arrays import refuse_overflow
from alignprune.bench.data.columns import class_name
from alignprune.bench.data.embedding.contract import Progress
from alignprune.bench.data.huggingface import PREFIX, TableImages, loaded
from alignprune.bench.data.images import SUFFIXES, opened, read_image
from alignprune.bench.data.preparation import Preparation
from alignprune.bench.data.table import SUFFIXES as TABLES
from alignprune.bench.data.views import FileNames, ImageFiles, Samples, TensorData, Texts, channels_first, labels_of
from alignprune.bench.reading import arrays_in, naming, parquet_in, reading, refuse_open_quote, refuse_wide_csv
from alignprune.errors import MissingFile, ValueMistake

if TYPE_CHECKING:
    import pyarrow

UNKNOWN = -1
"""The class id of a sample whose label is not given, or is none of the network's classes."""

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # by the number of channels, what PIL calls such an image
_BLOCK = 2**26  # bytes of a CSV file that are read at once: more than its longest row has
_ARRAYS = (("x", "y"), ("x_test", "y_test"), ("x_train", "y_train"))
_ID, _PATH, _TEXT, _LABELS = "id", "path", "text", ("label", "given_label")
_SPLIT, _TESTED = "split", (("test",), ("val", "valid", "validation"))  # as `alignprune.bench.data.table` judges a run
_OPTIONS = (_ID, _PATH, _TEXT, _SPLIT, "label")  # of a table


@dataclass(frozen=True, eq=False)
class RawSamples:
    """N samples as a network reads them.

    Attributes:
        samples: prepared samples with their class ids, `UNKNOWN` where none is known.
        ids: what the source calls them: file names, values of the column id, or their positions.
        given: names of their given labels, None where there is none.
        part: what of the source they are, such as an array or a split.
    """

    samples: Samples
    ids: Sequence[str]
    given: Sequence[str | None]
    part: str


def read(
    source: str, preparation: Preparation, class_names: Sequence[str], progress: Progress | None = None
) -> RawSamples:
    """Find the samples of a source.

    Args:
        source: an image file; a folder of images, in which a subfolder with the name of a class gives that label; an
            .npz file with x (or x_test, or x_train) and optional labels; a .csv, .tsv or .parquet file with a column
            path, a column text or the features, optional id and label, which ?label=COLUMN and the like may choose; or
            hf:NAME_OR_PATH with a column of images or of texts.
        preparation: what the network's raw inputs are, and what is done to them.
        class_names: C names, in the order of the class ids.
        progress: called with the samples done and all while they are embedded.

    Returns:
        the samples; an image that cannot be read, or does not fit, raises when it is loaded, which an embedder does
        here.

    Raises:
        FileNotFoundError: if there is no such source, or no sample in it.
        ValueError: if it holds something else than the network reads.
    """
    found = _found(source, preparation, class_names)
    if preparation.embedder is None:
        return found
    vectors = preparation.embedder.embed(found.samples, progress)
    return replace(found, samples=TensorData(vectors, labels_of(found.samples)))


def _found(source: str, preparation: Preparation, class_names: Sequence[str]) -> RawSamples:
    """The samples of a source, prepared, but for those that have to be embedded."""
    if source.startswith(PREFIX):
        return _huggingface(source, preparation, class_names)
    place, _, query = source.partition("?")
    is_table = place.lower().endswith(TABLES)
    path = Path(place if is_table else source)
    if not path.exists():
        raise MissingFile(
            f"data={source!r} is not there, expected an image, a folder of images, an .npz, .csv or .parquet file, or "
            f"{PREFIX}NAME_OR_PATH: check the path"
        )
    if path.is_dir():
        return _folder(path, preparation, class_names)
    if is_table:
        return _table(path, columns.options(query, _OPTIONS), preparation, class_names)
    return (_arrays if path.suffix.lower() == ".npz" else _image)(path, preparation, class_names)


# -- images ------------------------------------------------------------------------------------------------


class _Pictures(Dataset[tuple[Tensor, int]]):
    """Images, opened and prepared one by one.

    Args:
        images: N of them, as paths or as what the files hold.
        labels: class ids, int64 [N].
        preparation: of a photo, or of an image of a fixed size.
    """

    def __init__(self, images: FileNames | _Column, labels: Tensor, preparation: Preparation) -> None:
        self.images, self.labels = images, labels
        self.shape, self.prepare = preparation.shape, preparation.build()

    def stored(self) -> Samples:
        """The same images as an embedder reads them, before anything is done to them."""
        if self.shape is not None:
            pixels = [_pixels(self._place(i), self.images[i], self.shape) for i in range(len(self))]
            return TensorData(torch.stack(pixels), self.labels)
        if isinstance(self.images, FileNames):
            return ImageFiles(self.images, self.labels, None)
        return TableImages(self.images.table, self.images.source, self.images.split, self.labels, None)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        source, place = self.images[index], self._place(index)
        raw = read_image(place, source) if self.shape is None else _pixels(place, source, self.shape)
        return self.prepare(raw), int(self.labels[index])

    def _place(self, index: int) -> str:
        return f"file={self.images[index]!r}" if isinstance(self.images, FileNames) else self.images.place(index)


def _pixels(place: str, source: str | bytes, shape: tuple[int, ...]) -> Tensor:
    """An image of the size and the channels that the network reads, uint8 [C, H, W]."""
    channels, height, width = shape
    wanted = _MODES.get(channels, f"{channels} channels")
    pixels, mode, size = opened(place, source, lambda image: (np.array(image), image.mode, image.size))
    if mode != wanted or size != (width, height):
        raise ValueMistake(
            f"{place} is an image of {size[0]} x {size[1]} pixels in mode {mode}, expected {width} x {height} in mode "
            f"{wanted}, as the run was trained on: convert it"
        )
    return channels_first(pixels[None])[0]


def _pictures(
    images: FileNames | _Column,
    names: Sequence[str],
    labels: Sequence[str | None],
    part: str,
    preparation: Preparation,
    class_names: Sequence[str],
) -> RawSamples:
    if preparation.raw not in ("photo", "pixels"):
        raise ValueMistake(
            f"data is {part}, expected {_expected(preparation)}, which the run was trained on: give an .npz, .csv or "
            f".parquet file with these"
        )
    class_ids = _class_ids(labels, class_names)
    found = _Pictures(images, class_ids, preparation)
    return RawSamples(found if preparation.embedder is None else found.stored(), names, labels, part)


def _image(path: Path, preparation: Preparation, class_names: Sequence[str]) -> RawSamples:
    if path.suffix.lower() not in SUFFIXES:
        raise ValueMistake(
            f"data={str(path)!r} ends in {path.suffix!r}, expected an image ({', '.join(SUFFIXES)}), .npz, .csv or "
            f".parquet: convert it"
        )
    return _pictures(FileNames(path.parent, [path.name]), [path.name], [None], "an image", preparation, class_names)


def _folder(folder: Path, preparation: Preparation, class_names: Sequence[str]) -> RawSamples:
    files = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    images = [file for file in files if file.suffix.lower() in SUFFIXES]
    if not images:
        raise MissingFile(
            f"data={str(folder)!r} holds no image, expected files that end in {', '.join(SUFFIXES)}: check the path"
        )
    if len(images) < len(files):
        other = next(file for file in files if file not in set(images))
        warnings.warn(
            f"data={str(folder)!r} holds {len(files) - len(images)} files that are no images and are not read, such as "
            f"{str(other)!r}",
            stacklevel=2,
        )
    names = [str(file) for file in images]
    given = [
        class_name(file.parts[0]) if len(file.parts) > 1 and class_name(file.parts[0]) in class_names else None
        for file in images
    ]
    return _pictures(FileNames(folder, names), names, given, "a folder of images", preparation, class_names)


# -- arrays and tables -------------------------------------------------------------------------------------


def _arrays(path: Path, preparation: Preparation, class_names: Sequence[str]) -> RawSamples:
    place = f"data={str(path)!r}"
    with reading(place, path, "arrays of numbers", "write them with numpy.savez"):
        held, found = arrays_in(path, [array for names in _ARRAYS for array in names])
    name, label = next((names for names in _ARRAYS if names[0] in found), ("", ""))
    x, y = found.get(name), found.get(label)
    if x is None:
        raise ValueMistake(
            f"{place} holds {columns.listed(held) or 'nothing'}, expected the array x, x_test or x_train: add it"
        )
    with naming(place):
        inputs = _checked(name, x, preparation)
    if y is not None and y.shape != (len(x),):
        raise ValueMistake(
            f"{place}: {label} has shape {y.shape}, expected ({len(x)},), one label a sample of {name}: mend or remove "
            "the array"
        )
    given = [None] * len(x) if y is None else _label_names(y.tolist(), class_names)
    return _tensors(inputs, [str(i) for i in range(len(x))], given, f"the array {name}", preparation, class_names)


def _tensors(
    inputs: Tensor,
    ids: Sequence[str],
    given: Sequence[str | None],
    part: str,
    preparation: Preparation,
    class_names: Sequence[str],
) -> RawSamples:
    finish = preparation.build() if preparation.embedder is None else None
    return RawSamples(TensorData(inputs, _class_ids(given, class_names), None, finish), ids, given, part)


def _checked(name: str, x: np.ndarray, preparation: Preparation) -> Tensor:
    """An array of raw inputs of the shape that the network reads, as a tensor."""
    inputs = None
    if preparation.raw == "features" and x.dtype.kind == "f" and x.ndim == 2:
        inputs = torch.from_numpy(x.astype(np.float64))
    elif preparation.raw == "pixels" and x.dtype == np.uint8 and x.ndim in (3, 4):
        inputs = channels_first(x)
    if inputs is None or tuple(inputs.shape[1:]) != preparation.shape:
        raise ValueMistake(
            f"{name} is {x.dtype} of shape {x.shape}, expected {_expected(preparation)}, as the run was trained on: "
            f"convert it"
        )
    if not len(x):
        raise ValueMistake(f"{name} has shape {x.shape}, expected one sample at least: add samples")
    if preparation.raw == "features" and not bool(inputs.isfinite().all()):
        row, column = (~inputs.isfinite()).nonzero()[0].tolist()
        raise ValueMistake(
            f"{name}[{row}, {column}]={x[row, column]} is not finite, expected a number: fill or remove the sample"
        )
    if preparation.raw == "features" and preparation.embedder is None:
        refuse_overflow(name, x, preparation.build()(inputs))
    return inputs


def _expected(preparation: Preparation) -> str:
    """What a raw input is, in words."""
    if preparation.raw == "text":
        return f"texts in a column {_TEXT} of a table or a Hugging Face data set"
    if preparation.shape is None:
        return "photos as image files or in a Hugging Face data set"
    if preparation.raw == "features":
        return f"{preparation.shape[0]} features a sample, float [N, {preparation.shape[0]}]"
    channels, height, width = preparation.shape
    return f"images of {width} x {height} pixels and {channels} channels, uint8 [N, {height}, {width}, {channels}]"


def _table(path: Path, chosen: dict[str, str], preparation: Preparation, class_names: Sequence[str]) -> RawSamples:
    table, rows, part = _read_table(path, chosen)
    label = chosen.get("label") or next((name for name in _LABELS if name in table.column_names), None)
    given = [None] * len(rows) if label is None else _label_names(table[label].to_pylist(), class_names)
    ids = [str(i) for i in rows]
    if (key := chosen.get(_ID, _ID)) in table.column_names:
        ids = [str(value) for value in table[key].to_pylist()]
    if preparation.raw == "text":
        texts = _texts(path, table, chosen.get(_TEXT, _TEXT), preparation)
        return RawSamples(Texts(texts, _class_ids(given, class_names)), ids, given, f"{part} of texts")
    if (column := chosen.get(_PATH, _PATH)) in table.column_names:
        files = ["" if file is None else str(file) for file in table[column].to_pylist()]
        empty = [row for row, file in zip(rows, files, strict=True) if not file]
        if empty:
            raise ValueMistake(f"{column} is empty in row {empty[0]} of {str(path)!r}, expected a file: fill it")
        names = ids if key in table.column_names else files
        return _pictures(FileNames(path.parent, files), names, given, f"{part} of images", preparation, class_names)
    others = [name for name in table.column_names if name in (_SPLIT, *chosen.values())]
    features = _feature_columns(path, table.drop_columns(others), preparation)
    values = np.stack([_numbers(path, table, name) for name in features], axis=1)
    inputs = _checked(f"data={str(path)!r}", values, preparation)
    return _tensors(inputs, ids, given, f"{part} of {len(features)} columns of features", preparation, class_names)


def _tested(table: pyarrow.Table, column: str) -> tuple[list[int], str]:
    """The rows that a run on this table is judged by, all without such, and what they are."""
    words = [str(word).strip().casefold() for word in table[column].to_pylist()] if column in table.column_names else []
    for names in _TESTED:
        rows = [row for row, word in enumerate(words) if word in names]
        if rows:
            return rows, f"the {names[0]} rows of a table"
    return list(range(table.num_rows)), "a table"


def _texts(path: Path, table: pyarrow.Table, name: str, preparation: Preparation) -> Sequence[str]:
    if name not in table.column_names:
        raise ValueMistake(
            f"data={str(path)!r} has the columns {columns.listed(table.column_names)}, expected "
            f"{_expected(preparation)}, as the run was trained on: choose it by ?{_TEXT}=COLUMN"
        )
    return columns.texts(table[name].to_pandas(), f"column={name!r} of {str(path)!r}")


def _read_table(path: Path, chosen: dict[str, str]) -> tuple[pyarrow.Table, list[int], str]:
    """The rows to predict, which they are of the table, and what to call them.

    Words are as they are written in the columns that are no numbers and no labels.
    """
    import pyarrow
    from pyarrow import csv

    place = f"data={str(path)!r}"
    with reading(place, path, "a table with a line of names and a row a sample", "mend the file"):
        if path.suffix.lower() == ".parquet":
            table = parquet_in(place, path)
        else:
            separator = "\t" if path.suffix.lower() == ".tsv" else ","
            refuse_wide_csv(place, path, separator)
            refuse_open_quote(path, separator)
            words = {chosen.get(role, role): pyarrow.string() for role in (_ID, _PATH, _TEXT)}
            table = csv.read_csv(
                path,
                read_options=csv.ReadOptions(block_size=_BLOCK),
                parse_options=csv.ParseOptions(delimiter=separator, newlines_in_values=True),
                convert_options=csv.ConvertOptions(column_types=words),
            )
        names = table.column_names
        if len(set(names)) < len(names):
            raise ValueMistake(
                f"{place} has the columns {columns.listed(names)}, some of them twice, expected each once: rename them"
            )
        with naming(place):
            for column in chosen.values():
                choice("column", column, names)
        if not table.num_rows:
            raise ValueMistake(f"{place} has no row, expected one sample at least: add samples")
        rows, part = _tested(table, chosen.get(_SPLIT, _SPLIT))
        return table.take(rows), rows, part


def _feature_columns(path: Path, table: pyarrow.Table, preparation: Preparation) -> list[str]:
    """The features in the order of the network: by their names, or, where they have none, all but id and label."""
    others = [name for name in table.column_names if name not in (_ID, *_LABELS)]
    if preparation.names is None:
        if preparation.raw != "features" or preparation.shape != (len(others),):
            raise ValueMistake(
                f"data={str(path)!r} has no column {_PATH} and {len(others)} other columns beside {_ID} and label "
                f"({columns.listed(others)}), expected {_expected(preparation)}, as the run was trained on: add or "
                "remove columns"
            )
        return others
    missing = [name for name in preparation.names if name not in others]
    if missing:
        raise ValueMistake(
            f"data={str(path)!r} is without the columns {columns.listed(missing)}, "
            f"expected all {len(preparation.names)} features that the run was trained on: add them"
        )
    unread = [name for name in others if name not in preparation.names]
    if unread:
        warnings.warn(
            f"data={str(path)!r} has the columns {columns.listed(unread)}, which the run was not trained on and which "
            "are not read",
            stacklevel=2,
        )
    return list(preparation.names)


def _numbers(path: Path, table: pyarrow.Table, name: str) -> np.ndarray:
    from pyarrow import types

    column = table[name]
    if not (types.is_integer(column.type) or types.is_floating(column.type)) or column.null_count:
        what = f"{column.null_count} empty rows" if column.null_count else f"values of type {column.type}"
        raise ValueMistake(
            f"column={name!r} of {str(path)!r} has {what}, expected a number in every row: fill or convert them"
        )
    return column.to_numpy().astype(np.float64)


# -- Hugging Face ------------------------------------------------------------------------------------------


class _Column:
    """A column of images as a sequence, which worker processes can open."""

    def __init__(self, table: Any, source: str, split: str) -> None:
        import datasets

        self.source, self.split = source, split
        (column,) = table.column_names
        self.table = table.cast_column(column, datasets.Image(decode=False))

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> str | bytes:
        (stored,) = self.table[index].values()
        content: str | bytes | None = stored and (stored["path"] if stored["bytes"] is None else stored["bytes"])
        return content or b""

    def place(self, index: int) -> str:
        """What to call an image in errors."""
        return f"row={index} of split {self.split} of {self.source!r}"


def _huggingface(source: str, preparation: Preparation, class_names: Sequence[str]) -> RawSamples:
    path, _, options = source.removeprefix(PREFIX).partition("?")
    chosen = dict(parse_qsl(options))
    for option in chosen:
        choice("option", option, ("split", "image", "text", "label", "id"))
    with naming(f"data={PREFIX + path!r}"):
        return _of_split(PREFIX + path, *_split(path, chosen.get("split")), chosen, preparation, class_names)


def _of_split(
    source: str, name: str, table: Any, chosen: dict[str, str], preparation: Preparation, class_names: Sequence[str]
) -> RawSamples:
    types = {column: type(feature).__name__ for column, feature in table.features.items()}
    label = _label_column(types, chosen)
    given: list[str | None] = [None] * len(table)
    if label is not None:
        names = getattr(table.features[label], "names", None)
        values = table[label][:]
        if names is not None:
            wrong = [row for row, value in enumerate(values) if value is not None and value >= len(names)]
            if wrong:
                raise ValueMistake(
                    f"row={wrong[0]} of split {name} has the label {values[wrong[0]]}, expected 0 to {len(names) - 1}: "
                    "save the split with the ClassLabel of its labels"
                )
            values = [None if value is None or value < 0 else names[value] for value in values]
        given = _label_names(values, class_names)
    key = chosen.get("id", _ID)
    ids = [str(value) for value in table[key][:]] if key in types else [str(i) for i in range(len(table))]
    if preparation.raw == "text":
        column = _text_column(table.features, chosen, (label, key))
        texts = columns.texts(table.select_columns(column).to_pandas()[column], f"column={column!r} of split {name}")
        samples = Texts(texts, _class_ids(given, class_names))
        return RawSamples(samples, ids, given, f"the split {name}")
    images = [column for column, kind in types.items() if kind == "Image"]
    if "image" in chosen:
        choice("column", chosen["image"], images)
    elif len(images) != 1:
        raise ValueMistake(
            f"split={name!r} has {len(images)} columns of images among {', '.join(types)}, expected one: name it, as "
            f"in {PREFIX}NAME?image=COLUMN"
        )
    pictures = _Column(table.select_columns(chosen.get("image", images[0])), source, name)
    return _pictures(pictures, ids, given, f"the split {name}", preparation, class_names)


def _label_column(types: dict[str, str], chosen: dict[str, str]) -> str | None:
    """The column of labels: as chosen, otherwise the only one of its type, or that of the name; None without."""
    if "label" in chosen:
        choice("column", chosen["label"], types)
        return chosen["label"]
    found = [name for name, kind in types.items() if kind == "ClassLabel"]
    return found[0] if len(found) == 1 else "label" if "label" in types else None


def _text_column(features: Any, chosen: dict[str, str], others: tuple[str | None, str]) -> str:
    """The column of texts: as chosen, otherwise that of the name, or the only one of strings."""
    words = [
        name
        for name, feature in features.items()
        if name not in others and getattr(feature, "dtype", None) in ("string", "large_string")
    ]
    if "text" in chosen or len(words) != 1:
        column = chosen.get("text", _TEXT)
        choice("column", column, words)
        return column
    return words[0]


def _split(path: str, wanted: str | None) -> tuple[str, Any]:
    """The split that is asked for; otherwise test, validation, train, or the only one."""
    found = loaded(path, f"data={PREFIX + path!r}")
    if not isinstance(found, dict):
        return str(found.split or "data"), found
    name = wanted or next((name for name in ("test", "validation", "train") if name in found), next(iter(found)))
    choice("split", name, found)
    return name, found[name]


# -- labels ------------------------------------------------------------------------------------------------


def _label_names(values: Sequence[Any], class_names: Sequence[str]) -> list[str | None]:
    """Labels by their names: as they are, or, where they are integers and no names, as class ids."""
    given = [None if value is None else class_name(str(value)) for value in values]
    ids = all(isinstance(value, int) for value in values if value is not None)
    if ids and not {name for name in given if name is not None} <= set(class_names):
        in_range = range(len(class_names))
        return [None if value is None else class_names[value] if value in in_range else str(value) for value in values]
    return given


def _class_ids(given: Sequence[str | None], class_names: Sequence[str]) -> Tensor:
    """The class ids of given labels, int64 [N]; `UNKNOWN` where there is none, or no such class."""
    ids = {name: i for i, name in enumerate(class_names)}
    return torch.tensor([UNKNOWN if name is None else ids.get(name, UNKNOWN) for name in given], dtype=torch.int64)

"""Samples to predict, as they come: images, arrays, tables or a Hugging Face data set, with or without given labels.

What a source holds has to be what the network's preparation reads; anything else is refused with what was expected.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qsl

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from alignprune._checks import choice
from alignprune.bench.data.columns import class_name
from alignprune.bench.data.contents import head_of, unreadable
from alignprune.bench.data.huggingface import PREFIX
from alignprune.bench.data.images import SUFFIXES, read_image
from alignprune.bench.data.preparation import Preparation
from alignprune.bench.data.views import FileNames, Samples, TensorData, channels_first
from alignprune.errors import MissingFile, ValueMistake

if TYPE_CHECKING:
    import pyarrow

UNKNOWN = -1
"""The class id of a sample whose label is not given, or is none of the network's classes."""

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # by the number of channels, what PIL calls such an image
_ARRAYS = (("x", "y"), ("x_test", "y_test"), ("x_train", "y_train"))
_ID, _PATH, _LABELS = "id", "path", ("label", "given_label")


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


def read(source: str, preparation: Preparation, class_names: Sequence[str]) -> RawSamples:
    """Find the samples of a source.

    Args:
        source: an image file; a folder of images, in which a subfolder with the name of a class gives that label; an
            .npz file with x (or x_test, or x_train) and optional labels; a .csv or .parquet file with a column path or
            the features, optional id and label; or hf:NAME_OR_PATH with a column of images.
        preparation: what the network's raw inputs are, and what is done to them.
        class_names: C names, in the order of the class ids.

    Returns:
        the samples; an image that cannot be read, or does not fit, raises when it is loaded.

    Raises:
        FileNotFoundError: if there is no such source, or no sample in it.
        ValueError: if it holds something else than the network reads.
    """
    if source.startswith(PREFIX):
        return _huggingface(source, preparation, class_names)
    path = Path(source)
    if not path.exists():
        raise MissingFile(
            f"data={source!r} is not there, expected an image, a folder of images, an .npz, .csv or .parquet file, or "
            f"{PREFIX}NAME_OR_PATH: check the path"
        )
    if path.is_dir():
        return _folder(path, preparation, class_names)
    reader = {".npz": _arrays, ".csv": _table, ".parquet": _table}.get(path.suffix.lower(), _image)
    return reader(path, preparation, class_names)


# -- images ------------------------------------------------------------------------------------------------


class _Images(Protocol):
    """N images, as paths or as what the files hold."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


class _Pictures(Dataset[tuple[Tensor, int]]):
    """Images, opened and prepared one by one.

    Args:
        images: N of them.
        names: what to call them in errors.
        labels: class ids, int64 [N].
        preparation: of a photo, or of an image of a fixed size.
    """

    def __init__(self, images: _Images, names: Sequence[str], labels: Tensor, preparation: Preparation) -> None:
        self.images, self.names, self.labels = images, names, labels
        self.shape, self.prepare = preparation.shape, preparation.build()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        source, place = self.images[index], repr(self.names[index])
        raw = read_image(place, source) if self.shape is None else _pixels(place, source, self.shape)
        return self.prepare(raw), int(self.labels[index])


def _pixels(place: str, source: str | bytes, shape: tuple[int, ...]) -> Tensor:
    """An image of the size and the channels that the network reads, uint8 [C, H, W]."""
    from PIL import Image

    channels, height, width = shape
    mode = _MODES.get(channels, f"{channels} channels")
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            pixels = np.array(image)
    except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, ... by image format
        head = source if isinstance(source, bytes) else head_of(Path(source)) if os.path.isfile(source) else b"?"
        said = f"{type(error).__name__}: {error}"
        raise unreadable(place, head, said, "an image", "replace or remove it") from error
    if image.mode != mode or image.size != (width, height):
        raise ValueMistake(
            f"{place} is an image of {image.width} x {image.height} pixels in mode {image.mode}, expected {width} x "
            f"{height} in mode {mode}, as the run was trained on: convert it"
        )
    return channels_first(pixels[None])[0]


def _pictures(
    images: _Images,
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
    return RawSamples(_Pictures(images, names, _class_ids(labels, class_names), preparation), names, labels, part)


def _image(path: Path, preparation: Preparation, class_names: Sequence[str]) -> RawSamples:
    if path.suffix.lower() not in SUFFIXES:
        raise ValueMistake(
            f"data={str(path)!r} ends in {path.suffix!r}, expected an image ({', '.join(SUFFIXES)}), .npz, .csv or "
            f".parquet: convert it"
        )
    return _pictures([str(path)], [path.name], [None], "an image", preparation, class_names)


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
    try:
        with np.load(path, allow_pickle=False) as file:
            held = list(file.keys())
            name, label = next((names for names in _ARRAYS if names[0] in held), ("", ""))
            x, y = (file[array] if array in held else None for array in (name, label))
    except Exception as error:  # numpy raises BadZipFile, ValueError (pickled objects), EOFError, ...
        raise ValueMistake(
            f"data={str(path)!r} cannot be read ({type(error).__name__}: {error}), expected arrays of numbers: write "
            f"them with numpy.savez"
        ) from error
    if x is None:
        raise ValueMistake(
            f"data={str(path)!r} holds {', '.join(held) or 'nothing'}, expected the array x, x_test or x_train: add it"
        )
    if y is not None and y.shape != (len(x),):
        raise ValueMistake(
            f"{label} has shape {y.shape}, expected ({len(x)},), one label a sample of {name}: mend or remove the array"
        )
    inputs = _checked(name, x, preparation)
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
    prepared = TensorData(inputs, _class_ids(given, class_names), None, preparation.build())
    return RawSamples(prepared, ids, given, part)


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
    return inputs


def _expected(preparation: Preparation) -> str:
    """What a raw input is, in words."""
    if preparation.shape is None:
        return "photos as image files or in a Hugging Face data set"
    if preparation.raw == "features":
        return f"{preparation.shape[0]} features a sample, float [N, {preparation.shape[0]}]"
    channels, height, width = preparation.shape
    return f"images of {width} x {height} pixels and {channels} channels, uint8 [N, {height}, {width}, {channels}]"


def _table(path: Path, preparation: Preparation, class_names: Sequence[str]) -> RawSamples:
    table = _read_table(path)
    if not table.num_rows:
        raise ValueMistake(f"data={str(path)!r} has no row, expected one sample at least: add samples")
    label = next((name for name in _LABELS if name in table.column_names), None)
    given = [None] * table.num_rows if label is None else _label_names(table[label].to_pylist(), class_names)
    if _PATH in table.column_names:
        files = table[_PATH].to_pylist()
        if None in files:
            raise ValueMistake(
                f"{_PATH} is empty in row {files.index(None)} of {str(path)!r}, expected a file: fill it"
            )
        images = [os.path.join(path.parent, str(file)) for file in files]
        ids = _ids(table) or [str(file) for file in files]
        return _pictures(images, ids, given, "a table of images", preparation, class_names)
    columns = _feature_columns(path, table, preparation)
    features = np.stack([_numbers(path, table, name) for name in columns], axis=1)
    inputs = _checked(f"data={str(path)!r}", features, preparation)
    ids = _ids(table) or [str(i) for i in range(table.num_rows)]
    return _tensors(inputs, ids, given, f"{len(columns)} columns of features", preparation, class_names)


def _read_table(path: Path) -> pyarrow.Table:
    import pyarrow
    from pyarrow import csv, parquet

    try:
        return parquet.read_table(path) if path.suffix.lower() == ".parquet" else csv.read_csv(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueMistake(
            f"data={str(path)!r} cannot be read ({str(error).splitlines()[0]}), expected a table with a line of names "
            f"and a row a sample: mend the file"
        ) from error


def _ids(table: pyarrow.Table) -> list[str] | None:
    return [str(value) for value in table[_ID].to_pylist()] if _ID in table.column_names else None


def _feature_columns(path: Path, table: pyarrow.Table, preparation: Preparation) -> list[str]:
    """The features in the order of the network: by their names, or, where they have none, all but id and label."""
    others = [name for name in table.column_names if name not in (_ID, *_LABELS)]
    if preparation.names is None:
        if preparation.raw != "features" or preparation.shape != (len(others),):
            raise ValueMistake(
                f"data={str(path)!r} has no column {_PATH} and {len(others)} other columns beside {_ID} and label "
                f"({', '.join(others[:5])}{', ...' if len(others) > 5 else ''}), expected {_expected(preparation)}, as "
                f"the run was trained on: add or remove columns"
            )
        return others
    missing = [name for name in preparation.names if name not in others]
    if missing:
        raise ValueMistake(
            f"data={str(path)!r} is without the columns {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}, "
            f"expected all {len(preparation.names)} features that the run was trained on: add them"
        )
    unread = [name for name in others if name not in preparation.names]
    if unread:
        warnings.warn(
            f"data={str(path)!r} has the columns {', '.join(unread)}, which the run was not trained on and which are "
            f"not read",
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

    def __init__(self, table: Any) -> None:
        import datasets

        (column,) = table.column_names
        self.table = table.cast_column(column, datasets.Image(decode=False))

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> str | bytes:
        (stored,) = self.table[index].values()
        content: str | bytes | None = stored and (stored["path"] if stored["bytes"] is None else stored["bytes"])
        return content or b""


def _huggingface(source: str, preparation: Preparation, class_names: Sequence[str]) -> RawSamples:
    path, _, options = source.removeprefix(PREFIX).partition("?")
    chosen = dict(parse_qsl(options))
    for option in chosen:
        choice("option", option, ("split", "image", "label"))
    name, table = _split(path, chosen.get("split"))
    types = {column: type(feature).__name__ for column, feature in table.features.items()}
    images = [column for column, kind in types.items() if kind == "Image"]
    if "image" in chosen:
        choice("column", chosen["image"], images)
    elif len(images) != 1:
        raise ValueMistake(
            f"data={source!r} has {len(images)} columns of images among {', '.join(types)}, expected one: name it, as "
            f"in {PREFIX}NAME?image=COLUMN"
        )
    label = _label_column(types, chosen)
    column = _Column(table.select_columns(chosen.get("image", images[0])))
    given: list[str | None] = [None] * len(table)
    if label is not None:
        names = getattr(table.features[label], "names", None)
        values = table[label][:]
        if names is not None:
            values = [None if value is None or value < 0 else names[value] for value in values]
        given = _label_names(values, class_names)
    ids = [str(value) for value in table[_ID][:]] if _ID in types else [str(i) for i in range(len(table))]
    return _pictures(column, ids, given, f"the split {name}", preparation, class_names)


def _label_column(types: dict[str, str], chosen: dict[str, str]) -> str | None:
    """The column of labels: as chosen, otherwise the only one of its type; None without."""
    if "label" in chosen:
        choice("column", chosen["label"], types)
        return chosen["label"]
    found = [name for name, kind in types.items() if kind == "ClassLabel"]
    return found[0] if len(found) == 1 else None


def _split(path: str, wanted: str | None) -> tuple[str, Any]:
    """The split that is asked for; otherwise test, validation, train, or the only one."""
    import datasets

    try:
        saved = any(os.path.isfile(os.path.join(path, name)) for name in ("dataset_dict.json", "state.json"))
        found = datasets.load_from_disk(path) if saved else datasets.load_dataset(path)
    except Exception as error:  # the library raises its own, those of pyarrow, of the network, ...
        raise ValueMistake(
            f"data={PREFIX + path!r} cannot be loaded ({type(error).__name__}: {error}), expected a folder that "
            f"save_to_disk wrote, or a name on the Hugging Face Hub: check the name"
        ) from error
    if isinstance(found, datasets.Dataset):
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

"""Own data from a table: a CSV, TSV or Parquet file, or a pandas frame, with a row a sample.

A sample is an image file that the row names, a text, or the numbers of the row. Rows are counted from 0, under the
header; a CSV file is read as UTF-8.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from alignprune._checks import choice
from alignprune.bench.contents import quoted, refuse_substitute
from alignprune.bench.data import columns
from alignprune.bench.data.arrays import standardised
from alignprune.bench.data.records import OF_NUMBERS, DatasetRecord, check_noise, draw
from alignprune.bench.data.views import (
    ClassificationData,
    FileNames,
    ImageFiles,
    PathLike,
    Strings,
    TensorData,
    Texts,
    Transforms,
    View,
    assemble,
    refuse_overlap,
)
from alignprune.bench.reading import naming, parquet_in, reading, refuse_wide_csv
from alignprune.errors import MissingFile, ValueMistake

if TYPE_CHECKING:
    import pandas

SUFFIXES = (".csv", ".tsv", ".parquet")

TABLE = DatasetRecord(
    name="TABLE.csv",
    description="A table (.csv, .tsv or .parquet) with a row a sample: an image file, a text, or numbers",
    files=(
        "label",
        "path (image files, from the table's folder on), or text, or columns of numbers",
        "split (optional: train, test or val, reference)",
        "id (optional: what you call the sample)",
    ),
    source="your own",
    noises=("none", *OF_NUMBERS),
    default_noise="none",
    note="TABLE.csv?label=COLUMN&path=COLUMN chooses the columns; also text=, features=A,B, split=, id=",
    image_size=224,
)

OPTIONS = ("label", "path", "text", "features", "split", "id")

_SPLITS = {"train": "train", "test": "test", "reference": "reference"} | dict.fromkeys(
    ("val", "valid", "validation"), "val"
)

# What stands for a missing number in a CSV file. In other columns these are words: NA is a label, too.
_MISSING = ("", "NA", "N/A", "na", "n/a", "NaN", "nan", "NULL", "null", "None")


def table(
    source: PathLike | pandas.DataFrame,
    noise: str = "none",
    noise_rate: float | None = None,
    seed: int = 0,
    image_size: int = 224,
    *,
    label: str | None = None,
    path: str | None = None,
    text: str | None = None,
    features: Sequence[str] = (),
    split: str | None = None,
    id: str | None = None,
    folder: PathLike | None = None,
) -> ClassificationData:
    """Own data from a table with a row a sample.

    Images are transformed as those of `image_folder`, numbers standardised by the training rows, texts left as they
    are.

    Args:
        source: path of a .csv, .tsv or .parquet file, which "?label=COLUMN&path=COLUMN" and the like may follow, or a
            pandas frame.
        noise: "none", or a kind of `alignprune.noise` to add noise; the labels of the table then count as clean.
        noise_rate: nominal rate of the added noise in [0, 1]; None for "none".
        seed: seed of the added noise.
        image_size: height and width of an image in pixels.
        label: column of the labels, strings or integers; None for "label".
        path: column of the image files; None for "path" where there is one.
        text: column of the texts; None for "text" where there is one.
        features: columns of numbers, or of lists of them; empty for all that are not named here, where the table has
            neither paths nor texts.
        split: column with train, test or val (valid, validation), and reference; None for "split" where there is one.
            Without it all rows are training samples. val stands in for test where that is missing.
        id: column of what you call the samples; None for "id" where there is one, otherwise the path or the row.
        folder: where the paths start from; None for the folder of the file, and for the current one with a frame.

    Returns:
        the data; samples are images [3, image_size, image_size], float32 [D], or strings (`Texts`).

    Raises:
        FileNotFoundError: if the table, or an image that it names, is not there.
        ValueError: if a column is missing, a value does not fit, or two rows have one id or one file.
    """
    check_noise(TABLE, noise, noise_rate)
    given = {"label": label, "path": path, "text": text, "features": ",".join(features), "split": split, "id": id}
    chosen = {name: value for name, value in given.items() if value}
    if isinstance(source, (str, os.PathLike)):
        file, _, query = os.fspath(source).partition("?")
        chosen |= columns.options(query, OPTIONS)
        frame, place, name = _read(Path(file), chosen), f"path={file!r}", Path(file).stem
        folder = os.path.dirname(file) if folder is None else folder
    else:
        frame, place, name = source.reset_index(drop=True), "source", "table"
    with naming(place):
        roles = _roles(frame, chosen, place)
    rows = _rows_by_split(frame, roles.split, place)
    train = rows["train"]
    where = f"column={roles.label!r} of {place}"
    labels = columns.label_names(frame[roles.label], where)
    classes = columns.classes_of(labels[train], where)
    numbers = columns.class_ids(labels, classes, where)
    files = None if roles.path is None else _files(frame[roles.path], f"column={roles.path!r} of {place}", folder or "")
    with naming(place):
        make, shape, transforms = _makers(frame, roles, files, train, folder or "", image_size, place)

    given_labels = numbers[train]
    samples = make(train)(given_labels, None)
    numeric = samples.inputs if isinstance(samples, TensorData) else None
    noisy = draw(TABLE, given_labels, noise, noise_rate, len(classes), seed, numeric)
    test, reference = (
        make(at)(numbers[at], transforms.plain) if len(at := rows[part]) else None for part in ("test", "reference")
    )
    with naming(place):
        refuse_overlap(reference, test)
    return assemble(
        name=name,
        view=make(train),
        transforms=transforms,
        given=given_labels,
        noise=noisy,
        truth=given_labels if noisy is not None else None,
        test=test,
        reference=reference,
        num_classes=len(classes),
        input_shape=shape,
        class_names=classes,
        ids=_ids(frame, roles, files, train, place),
        places=None if roles.split is None else torch.from_numpy(train),
    )


# -- the table and its columns -----------------------------------------------------------------------------


def _read(file: Path, chosen: dict[str, str]) -> pandas.DataFrame:
    """The table of a file, with words as they are written, NA among them, in the columns that are no numbers."""
    import pandas

    if not file.exists():
        raise MissingFile(f"path={str(file)!r} is not there, expected a table ({', '.join(SUFFIXES)}): check the path")
    place = f"path={str(file)!r}"
    refuse_substitute(place, file, "a table")
    with reading(place, file, "a table, text in UTF-8 or Parquet", "save it again"):
        if file.suffix == ".parquet":
            return parquet_in(place, file).to_pandas().reset_index(drop=True)
        form: dict[str, Any] = {"sep": "\t" if file.suffix == ".tsv" else ",", "encoding": "utf-8-sig"}
        refuse_wide_csv(place, file, form["sep"])
        first = pandas.read_csv(file, nrows=1, header=None, dtype=str, keep_default_na=False, **form)
        header = [name.strip() for name in first.iloc[0]]
        words = {chosen.get(name, name) for name in OPTIONS if name != "features"} & set(header)
        missing = {name: list(_MISSING) for name in header if name not in words}
        form |= {"dtype": dict.fromkeys(words, str), "keep_default_na": False, "na_values": missing}
        with warnings.catch_warnings():
            warnings.simplefilter("error", pandas.errors.ParserWarning)  # of rows that are longer than the header
            return pandas.read_csv(file, names=header, header=0, index_col=False, low_memory=False, **form)


@dataclass(frozen=True)
class _Roles:
    """Which column is what; of path, text and features one is given."""

    label: str
    path: str | None
    text: str | None
    features: tuple[str, ...]
    split: str | None
    id: str | None


def _roles(frame: pandas.DataFrame, chosen: dict[str, str], place: str) -> _Roles:
    """The columns as chosen, otherwise those of the usual names."""
    names = [str(name) for name in frame.columns]
    if len(set(names)) < len(names) or names != list(frame.columns):
        raise ValueMistake(
            f"{place} has the columns {columns.listed(frame.columns.tolist())}, expected a string each, once: rename "
            "them"
        )
    features = tuple(part for part in chosen.get("features", "").split(",") if part)
    for name in (*(chosen[role] for role in OPTIONS if role in chosen and role != "features"), *features):
        choice("column", name, names)
    label = chosen.get("label", "label")
    if label not in names:
        hint = (
            "; it seems to be separated by semicolons, expected commas" if len(names) == 1 and ";" in names[0] else ""
        )
        raise ValueMistake(
            f"{place} has the columns {columns.listed(names)}, expected one called label: choose it by "
            f"?label=COLUMN{hint}"
        )
    if label in (chosen.get("path"), chosen.get("text"), *features):
        raise ValueMistake(
            f"column={label!r} of {place} is the label and a part of the samples, too, expected another: nothing could "
            "be learned from it"
        )
    usual = {role: role for role in ("path", "text") if role in names and role != label}
    kinds = [role for role in ("path", "text", "features") if role in chosen] or list(usual)
    if len(kinds) > 1:
        raise ValueMistake(
            f"{place} gives {' and '.join(kinds)}, expected one of them, since a sample is an image, a text or "
            "numbers: choose it by ?path=COLUMN, ?text=COLUMN or ?features=A,B"
        )
    split, key = (chosen.get(role, role if role in names and role != label else None) for role in ("split", "id"))
    found = _Roles(
        label=label,
        path=chosen.get("path", "path") if kinds == ["path"] else None,
        text=chosen.get("text", "text") if kinds == ["text"] else None,
        features=features,
        split=split,
        id=key,
    )
    if not kinds:
        found = replace(found, features=_numeric(frame, {label, split, key}, place))
    read = {found.label, found.path, found.text, *found.features, found.split, found.id}
    unread = [name for name in names if name not in read]
    if unread and not features:
        warnings.warn(
            f"{place} has columns that nothing reads ({columns.listed(unread)}), expected label, split, id and one of "
            "path, text or numbers in every row: turn words into numbers, or choose the columns by ?features=A,B and "
            "the like",
            stacklevel=4,
        )
    return found


def _numeric(frame: pandas.DataFrame, taken: set[str | None], place: str) -> tuple[str, ...]:
    """The columns of numbers among those that are nothing else."""
    numeric = tuple(name for name in frame.columns if name not in taken and columns.is_numeric(frame[name]))
    if not numeric:
        raise ValueMistake(
            f"{place} has the columns {columns.listed(list(frame.columns))}, expected one called path or text, or some "
            "of numbers: choose it by ?path=COLUMN, ?text=COLUMN or ?features=A,B"
        )
    return numeric


def _rows_by_split(frame: pandas.DataFrame, column: str | None, place: str) -> dict[str, NDArray[np.int64]]:
    """The rows of train, test and reference; validation rows are the test where there are no others."""
    if column is None:
        return {"train": np.arange(len(frame)), "test": np.arange(0), "reference": np.arange(0)}
    words = frame[column].astype(str).str.strip().str.casefold()
    unknown = np.flatnonzero(~words.isin(list(_SPLITS)))
    if len(unknown):
        raise ValueMistake(
            f"column={column!r} of {place} says {quoted(frame[column].iloc[unknown[0]])} in row={unknown[0]} "
            "(from 0), "
            f"expected one of {', '.join(_SPLITS)}: mend {len(unknown)} such rows, or rename the column"
        )
    parts = words.map(_SPLITS)
    rows = {part: np.flatnonzero(parts == part) for part in ("train", "test", "val", "reference")}
    if not len(rows["train"]):
        raise ValueMistake(f"column={column!r} of {place} says train in no row, expected training rows: add some")
    validation = rows.pop("val")
    if not len(rows["test"]):
        rows["test"] = validation
    elif len(validation):
        warnings.warn(
            f"{place} has {len(validation)} rows for validation, which nothing reads, since it has test rows, expected "
            "one of the two: call them train to train on them",
            stacklevel=4,
        )
    return rows


# -- the samples -------------------------------------------------------------------------------------------

Maker = Callable[[NDArray[np.int64]], View]


def _makers(
    frame: pandas.DataFrame,
    roles: _Roles,
    files: NDArray[np.object_] | None,
    train: NDArray[np.int64],
    folder: PathLike,
    image_size: int,
    place: str,
) -> tuple[Maker, tuple[int, ...], Transforms]:
    """What makes the samples of some rows, their shape, and their transforms."""
    if files is not None:
        from alignprune.bench.data.transforms import photo_transforms

        return (
            lambda at: partial(ImageFiles, FileNames(folder, files[at])),
            (3, image_size, image_size),
            photo_transforms(image_size),
        )
    if roles.text is not None:
        texts = columns.texts(frame[roles.text], f"column={roles.text!r} of {place}")
        return lambda at: _text_view(Strings(texts[i] for i in at)), (), Transforms(None, None, None)
    values = columns.features(frame, roles.features, place)
    ready, preparation = standardised({"row": values, "x_train": values[train]}, roles.features)
    inputs, transforms = ready["row"], Transforms(None, None, None, preparation=preparation)
    return lambda at: partial(TensorData, inputs[at]), (inputs.shape[1],), transforms


def _text_view(texts: Strings) -> View:
    return lambda labels, _: Texts(texts, labels)


def _files(column: pandas.Series, place: str, folder: PathLike) -> NDArray[np.object_]:
    """The image files as the table names them, after a look whether each is there, and is there once."""
    missing = np.flatnonzero(column.isna() | (column.astype(str) == ""))
    if len(missing):
        raise ValueMistake(
            f"{place} names no file in {len(missing)} rows, the first row={missing[0]} (from 0), expected one in every "
            "row: fill in or remove these rows"
        )
    names = column.astype(str).to_numpy(dtype=object)
    whole = np.array([os.path.normpath(os.path.join(folder, name)) for name in names], dtype=object)
    columns.refuse_twice(whole, place, "is the file", "keep one row of each file")
    absent = np.flatnonzero([not there for there in _are_there(whole)])
    if len(absent):
        raise MissingFile(
            f"{place} names {len(absent)} files that are not there ({columns.listed(whole[absent].tolist())}), the "
            f"first in row={absent[0]} (from 0), expected paths from the table's folder on: mend the paths, or remove "
            "these rows"
        )
    return names


def _are_there(files: NDArray[np.object_]) -> list[bool]:
    """Whether each file is there: a list of each folder answers for many files at once."""
    folders: dict[str, set[str]] = {}
    found = []
    for file in files:
        folder, name = os.path.split(file)
        if folder not in folders:
            folders[folder] = set(os.listdir(folder or ".")) if os.path.isdir(folder or ".") else set()
        # A file system may take other spellings of a name, too.
        found.append(name in folders[folder] or os.path.exists(file))
    return found


def _ids(
    frame: pandas.DataFrame,
    roles: _Roles,
    files: NDArray[np.object_] | None,
    train: NDArray[np.int64],
    place: str,
) -> Sequence[str] | None:
    if roles.id is not None:
        return Strings(columns.sample_ids(frame[roles.id], f"column={roles.id!r} of {place}")[train])
    return None if files is None else Strings(files[train])

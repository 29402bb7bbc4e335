"""Columns of a table as samples: labels by name, names of samples, features. What tables and Hugging Face share.

Rows are counted from 0. A label is a name: the same string stands for the same class in every split, whatever number
another split gives to it.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Collection, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from alignprune._checks import choice
from alignprune.bench.contents import brief, quoted
from alignprune.bench.data.records import as_labels
from alignprune.bench.data.views import Strings
from alignprune.errors import ValueMistake

if TYPE_CHECKING:
    import pandas

_SHOWN = 5


def options(query: str, known: Sequence[str]) -> dict[str, str]:
    """The columns that follow the name of a data set, as "label=kind&id=key".

    Args:
        query: what follows the question mark; "" for nothing.
        known: the options that there are.

    Raises:
        ValueError: for an option that there is not, or one given twice.
    """
    pairs = parse_qsl(query, keep_blank_values=True)
    for name, value in pairs:
        choice("option", name, known)
        if not value:
            raise ValueMistake(f"option={name!r} is empty, expected the name of a column: write it as {name}=COLUMN")
        if sum(name == other for other, _ in pairs) > 1:
            raise ValueMistake(f"option={name!r} is given twice, expected once: leave one of them out")
    return dict(pairs)


def label_names(column: pandas.Series, place: str) -> NDArray[np.object_]:
    """The class of each row as a string.

    Args:
        column: strings, integers or booleans; floats that are whole numbers, as gaps make them.
        place: what to call the column in errors.

    Returns:
        names in Unicode's composed form, without blanks around them, object [N].

    Raises:
        ValueError: if a row has no label, or one that is no name of a class.
    """
    import pandas

    try:
        codes, values = pandas.factorize(column.astype(object))
    except TypeError as error:  # a list cannot be looked up
        raise ValueMistake(
            f"{place} holds {type(column.iloc[0]).__name__} values, expected a string or an integer a row: choose the "
            "column of the labels by ?label=COLUMN"
        ) from error
    # The last stands for the missing ones, whose code is -1.
    names = np.array([*(_name(value, place) for value in values), ""], dtype=object)[codes]
    missing = np.flatnonzero(names == "")
    if len(missing):
        raise ValueMistake(
            f"{place} has no label in {len(missing)} of {len(names)} rows, the first in row={missing[0]} (from 0), "
            "expected one in every row: fill in or remove these rows, or choose another column by ?label=COLUMN"
        )
    return names


def _name(value: Any, place: str) -> str:
    if isinstance(value, str):
        return class_name(value)
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value))
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, Real) and float(value).is_integer():
        return str(int(float(value)))
    raise ValueMistake(
        f"{place} holds {quoted(value)}, expected a string or an integer a row: choose the column of the labels "
        "by ?label=COLUMN"
    )


def class_name(text: str) -> str:
    """A name in Unicode's composed form, without blanks around it."""
    return unicodedata.normalize("NFC", text.strip())


def classes_of(names: NDArray[np.object_], place: str) -> list[str]:
    """The classes of the training rows, numbers by their value and other names by the alphabet.

    Raises:
        ValueError: if there are fewer than two.
    """
    found = set(names)
    if not found:
        raise ValueMistake(
            f"{place} holds no label to train on, expected those of two classes at least: add rows, or choose another "
            f"column by ?label=COLUMN"
        )
    if len(found) == 1:
        raise ValueMistake(
            f"{place} has the class {listed(list(found))} alone, expected at least two: choose another column by "
            f"?label=COLUMN"
        )
    return sorted_classes(found)


def sorted_classes(names: Collection[str]) -> list[str]:
    """Names of classes in the order of their ids: numbers by their value and other names by the alphabet."""
    if all(re.fullmatch(r"-?\d{1,4000}", name) for name in names):  # Python reads no longer ones
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def class_ids(names: NDArray[np.object_], classes: Sequence[str], place: str) -> Tensor:
    """Class ids by name, int64 [N].

    Args:
        names: the class of each row.
        classes: the classes of training, in the order of their ids.
        place: what to call the column in errors.

    Raises:
        ValueError: if a row has a class that training does not have.
    """
    number = {name: i for i, name in enumerate(classes)}
    foreign = sorted(set(names) - number.keys())
    if foreign:
        first = next(i for i, name in enumerate(names) if name not in number)
        raise ValueMistake(
            f"{place} has the classes {listed(foreign)}, first in row={first} (from 0), which no training row has, "
            f"expected none but {listed(classes)}: use the same names in every split, or remove these rows"
        )
    return as_labels([number[name] for name in names])


def sample_ids(column: pandas.Series, place: str) -> NDArray[np.object_]:
    """What the user calls the samples, object [N].

    Raises:
        ValueError: if a row has no name, or two have the same.
    """
    missing = np.flatnonzero(column.isna() | (column.astype(str).str.strip() == ""))
    if len(missing):
        raise ValueMistake(
            f"{place} has no value in {len(missing)} rows, the first row={missing[0]} (from 0), expected one in every "
            "row: fill them in, or leave the option out"
        )
    ids = column.astype(str).to_numpy(dtype=object)
    refuse_twice(ids, place, "is the id", "give every row an id of its own")
    return ids


def refuse_twice(values: NDArray[np.object_], place: str, what: str, remedy: str) -> None:
    """Refuse a value that two rows have.

    Args:
        values: object [N].
        place: what to call the column.
        what: what the value is of the rows, such as "is the id".
        remedy: what to do.
    """
    seen: dict[str, int] = {}
    for row, value in enumerate(values):
        first = seen.setdefault(value, row)
        if first != row:
            raise ValueMistake(
                f"{place}: {quoted(value)} {what} of row={first} and row={row} (from 0), expected each once, and "
                f"{len(values) - len(set(values))} rows repeat another: {remedy}"
            )


def is_numeric(column: pandas.Series) -> bool:
    """Whether a column holds numbers, or as many of them in every row."""
    from pandas.api.types import is_complex_dtype, is_numeric_dtype

    return bool(is_numeric_dtype(column) and not is_complex_dtype(column)) or is_vector(column)


def is_vector(column: pandas.Series) -> bool:
    """Whether the rows of a column are lists of numbers."""
    values = column.dropna()
    first = values.iloc[0] if len(values) else None
    if not isinstance(first, (list, tuple, np.ndarray)):
        return False
    row = np.asarray(first)
    return row.ndim == 1 and row.dtype.kind in "iufb"


def features(frame: pandas.DataFrame, columns: Sequence[str], place: str) -> NDArray[np.float64]:
    """Columns of numbers side by side, float [N, D]; a column of lists gives as many features as a list is long.

    Args:
        frame: the table.
        columns: names of the columns, one at least.
        place: what to call the table in errors.

    Raises:
        ValueError: if a column holds something else, or a value is missing or not finite.
    """
    return np.concatenate([_feature(frame[name], f"column={name!r} of {place}") for name in columns], axis=1)


def _feature(column: pandas.Series, place: str) -> NDArray[np.float64]:
    if not is_numeric(column):
        words = ((row, value) for row, value in enumerate(column) if not _is_number(value))
        row, given = next(words, (0, column.iloc[0]))
        raise ValueMistake(
            f"{place} holds {quoted(given)} in row={row} (from 0), expected numbers: choose others by ?features=A,B, "
            "or turn it into some"
        )
    if is_vector(column):
        lengths = column.map(
            lambda value: len(value) if isinstance(value, (list, tuple, np.ndarray)) else -1
        ).to_numpy()
        other = np.flatnonzero(lengths != lengths[0])
        if len(other):
            raise ValueMistake(
                f"{place} holds {lengths[0]} numbers in row=0 and {max(lengths[other[0]], 0)} in row={other[0]} (from "
                "0), expected as many in every row: choose others by ?features=A,B, or mend these rows"
            )
        values = np.stack(column.tolist()).astype(np.float64)
    else:
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)[:, None]
    wrong = np.flatnonzero(~np.isfinite(values).all(1))
    if len(wrong):
        raise ValueMistake(
            f"{place} has no finite number in {len(wrong)} rows, the first row={wrong[0]} (from 0), expected one in "
            "every row: fill in or remove these rows, or choose other columns by ?features=A,B"
        )
    return values


def _is_number(value: object) -> bool:
    try:
        float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True


def texts(column: pandas.Series, place: str) -> Strings:
    """The texts of a column; a missing one is empty, and a warning says how many are.

    Raises:
        ValueError: if a value is no string.
    """
    values = column.astype(object).fillna("").tolist()
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise ValueMistake(
                f"{place} holds {quoted(value)} in row={row} (from 0), expected strings: choose the column of the "
                "texts by ?text=COLUMN"
            )
    empty = [row for row, value in enumerate(values) if not value.strip()]
    if empty:
        warnings.warn(
            f"{place} has no text in {len(empty)} of {len(values)} rows, the first row={empty[0]} (from 0), expected "
            "some in every row: they stay samples, with an empty text",
            stacklevel=5,
        )
    return Strings(values)


def listed(names: Sequence[str]) -> str:
    """Some names for a sentence: the first of many, and how many there are."""
    return ", ".join(map(brief, names[:_SHOWN])) + (f", ... ({len(names)})" if len(names) > _SHOWN else "")

"""What people decided about labels: keep, relabel or drop, a row a sample, in a file that spreadsheet programs survive.

The page of the label report writes `decisions.csv`; `load` reads it, and `Decisions.apply` changes the labels of that
very data set and of no other: each row carries the fingerprint of the ids and given labels that were looked at.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from alignprune._checks import choice
from alignprune.errors import MissingFile, TypeMistake, UserError, ValueMistake

CHOICES = ("keep", "relabel", "drop")
COLUMNS = ("index", "id", "given_label", "decision", "label", "data")

# What makes a spreadsheet program take a cell for a formula, also in the wide forms of East Asian keyboards.
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")
_PREFIX = "alignprune1-"
_LONG = 200  # characters of a cell that a mistake repeats


@dataclass(frozen=True)
class Decision:
    """One row of the file.

    Attributes:
        row: its number in the file, as a spreadsheet program counts: the header is row 1.
        index: place of the sample in the data set.
        id: what the user calls the sample.
        given_label: name of the label that it had, "" = unlabelled.
        decision: keep, relabel or drop.
        label: name of the new label; "" unless relabelled.
    """

    row: int
    index: int
    id: str
    given_label: str
    decision: str
    label: str


@dataclass(frozen=True)
class Decisions:
    """The decisions on one data set.

    Attributes:
        data: fingerprint of the data set, see `fingerprint`.
        rows: the decisions, at most one a sample, in the order of the file.
    """

    data: str
    rows: tuple[Decision, ...]

    def apply(
        self, labels: Tensor, class_names: Sequence[str], ids: Sequence[str], places: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Relabel and drop as decided.

        Args:
            labels: given labels, int64 [N], negative = unlabelled.
            class_names: names of the C classes, in the order of their ids.
            ids: what the user calls the N samples, in the order of the labels.
            places: where they stand in the data set, int64 [N], ascending, if they are a part of it; None = they are
                all of it.

        Returns:
            labels of all samples, int64 [N], a new tensor, and the samples that were not dropped, int64 [K], ascending.

        Raises:
            ValueMistake: if the decisions are of another data set or a row does not fit it, with the row's number.
        """
        given = [class_names[label] if label >= 0 else None for label in labels.tolist()]
        if (data := fingerprint(ids, given)) != self.data:
            raise ValueMistake(
                f"data={self.data!r:.{_LONG}} is the fingerprint of another data set, expected {data!r}: these "
                "decisions are on other samples, another order or other given labels; decide on a report of this data "
                "set"
            )
        names = [as_written(name) for name in class_names]
        decided, kept = labels.clone(), torch.ones(len(labels), dtype=torch.bool)
        where = range(len(labels)) if places is None else places.tolist()
        sample_at = dict(zip(where, range(len(labels)), strict=True))
        for row in self.rows:
            if row.index not in sample_at:
                raise ValueMistake(
                    f"row {row.row}: index={row.index} is no sample of these {len(labels)}, expected one of "
                    f"{min(where)} to {max(where)} that was looked at: keep the column as it was saved"
                )
            sample = sample_at[row.index]
            _fit(row, given[sample] or "", ids[sample], names)
            if row.decision == "relabel":
                decided[sample] = names.index(row.label)
            kept[sample] = row.decision != "drop"
        return decided, torch.nonzero(kept).flatten()


def fingerprint(ids: Iterable[str], given_labels: Iterable[str | None]) -> str:
    """A short text that two data sets share only if they have the same ids and given labels in the same order.

    Args:
        ids: what the user calls the N samples.
        given_labels: names of their labels; None or NaN = unlabelled.

    Returns:
        a word with a prefix, so that no spreadsheet program takes it for a number or a date.

    Raises:
        TypeMistake: if an id or a label is no text.
        ValueMistake: if there are more ids than labels, or fewer.
    """
    names, labels = list(ids), list(given_labels)
    if len(names) != len(labels):
        raise ValueMistake(
            f"ids has {len(names)} samples, expected {len(labels)}, as given_labels has: pass both whole"
        )
    digest = hashlib.sha256()
    for name, label in zip(names, labels, strict=True):
        digest.update(_counted("ids", name))
        digest.update(b"-" if label is None or label != label else _counted("given_labels", label))
    return _PREFIX + digest.hexdigest()[:24]


def load(path: str | os.PathLike[str]) -> Decisions:
    """Read a file of decisions, as the page wrote it or as a spreadsheet program saved it.

    Args:
        path: a CSV file in UTF-8 with the columns `COLUMNS` in any order; further columns are for notes and not read.

    Raises:
        MissingFile: if it is not there.
        ValueMistake: if it is no such file, or a row is none, with the row's number.
    """
    if not Path(path).is_file():
        raise MissingFile(f"path={os.fspath(path)!r} is no file, expected decisions.csv: save it on the report's page")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            header, *cells = list(csv.reader(file, strict=True)) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueMistake(
            f"path={os.fspath(path)!r} is not CSV in UTF-8 ({error}), expected what the page of the report saves: save "
            "it there anew, or choose CSV UTF-8 in the spreadsheet program"
        ) from error
    where = _columns(path, header)
    try:
        return _decisions(cells, where, len(header))
    except UserError as error:
        raise type(error)(f"path={os.fspath(path)!r}: {error}") from error


def as_cell(text: str) -> str:
    """A text as a CSV cell that no spreadsheet program takes for a formula: such a text gets an apostrophe in front."""
    return f"'{text}" if text.startswith((*_FORMULA, "'")) else text


def from_cell(cell: str) -> str:
    """The text of a cell that `as_cell` made."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith((*_FORMULA, "'")) else cell


def as_written(text: str) -> str:
    """A text as a file in UTF-8 can hold it: what is no character, as in some file names, was replaced."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _counted(name: str, text: object) -> bytes:
    """A text behind its length, so that no two lists of texts are joined to the same bytes."""
    if not isinstance(text, str):
        raise TypeMistake(f"{name} holds {text!r}, a {type(text).__name__}, expected texts: pass names, not numbers")
    encoded = as_written(text).encode()  # as it comes back from the table and the page
    return b"%d:%b" % (len(encoded), encoded)


def _columns(path: str | os.PathLike[str], header: Sequence[str]) -> dict[str, int]:
    missing = [name for name in COLUMNS if header.count(name) != 1]
    if missing:
        found = ", ".join(map(ascii, header)) or "of an empty file"
        raise ValueMistake(
            f"path={os.fspath(path)!r} has the columns {found:.{_LONG}}, expected "
            f"{', '.join(COLUMNS)}, each once: {', '.join(missing)} is missing or there twice; keep the first row, "
            "and commas between the columns"
        )
    return {name: header.index(name) for name in COLUMNS}


def _decisions(cells: Sequence[Sequence[str]], where: dict[str, int], width: int) -> Decisions:
    rows = [_decision(number, line, where, width) for number, line in enumerate(cells, 2) if any(line)]
    if not rows:
        raise ValueMistake("the file has no row, expected a decision at least: decide on the page")
    _once(rows)
    return Decisions(_data(cells, where), tuple(rows))


def _decision(number: int, line: Sequence[str], where: dict[str, int], width: int) -> Decision:
    if len(line) != width:
        raise ValueMistake(f"row {number}: {len(line)} cells are too few or too many, expected {width}, as in row 1")
    cell = {name: line[position] for name, position in where.items()}
    if not re.fullmatch("[0-9]{1,18}", cell["index"]):
        raise ValueMistake(
            f"row {number}: index={cell['index']!r:.{_LONG}} is no position, expected an integer from 0 on"
        )
    choice(f"row {number}: decision", cell["decision"], CHOICES)
    label = from_cell(cell["label"])
    if (cell["decision"] == "relabel") != bool(label):
        expected = "the name of a class" if cell["decision"] == "relabel" else "an empty cell, which only relabel fills"
        raise ValueMistake(
            f"row {number}: label={label!r:.{_LONG}} does not fit {cell['decision']}, expected {expected}"
        )
    given = from_cell(cell["given_label"])
    if label and label == given:
        raise ValueMistake(
            f"row {number}: label={label!r:.{_LONG}} is the given label, expected another: to leave it, write keep"
        )
    return Decision(number, int(cell["index"]), from_cell(cell["id"]), given, cell["decision"], label)


def _once(rows: Sequence[Decision]) -> None:
    seen: dict[int, int] = {}
    for row in rows:
        if (first := seen.setdefault(row.index, row.row)) != row.row:
            raise ValueMistake(
                f"row {row.row}: index={row.index} is in row {first} too, expected one row a sample: remove one of them"
            )


def _data(cells: Sequence[Sequence[str]], where: dict[str, int]) -> str:
    """The one fingerprint that all rows carry."""
    found = [(number, line[where["data"]]) for number, line in enumerate(cells, 2) if any(line)]
    for number, data in found:
        if not data.startswith(_PREFIX):
            raise ValueMistake(
                f"row {number}: data={data!r:.{_LONG}} is no fingerprint, expected {_PREFIX}...: keep the column as it "
                "was saved"
            )
        if data != found[0][1]:
            raise ValueMistake(
                f"row {number}: data={data!r:.{_LONG}} is another data set than in row {found[0][0]}, expected "
                f"{found[0][1]!r:.{_LONG}}: "
                "keep the decisions on each data set in a file of their own"
            )
    return found[0][1]


def _fit(row: Decision, given_label: str, key: str, names: Sequence[str]) -> None:
    """Refuse a row that is not about the sample at its index, which has this label and id."""
    for name, found, real in (("given_label", row.given_label, given_label), ("id", row.id, key)):
        if found != as_written(real):
            raise ValueMistake(
                f"row {row.row}: {name}={found!r:.{_LONG}} is not that of sample {row.index}, expected {real!r}: was a "
                "column sorted without the others, or a text turned into a number?"
            )
    if row.decision == "relabel" and (count := names.count(row.label)) != 1:
        raise ValueMistake(
            f"row {row.row}: label={row.label!r:.{_LONG}} is the name of {count} classes, expected of one: choose one "
            "of the classes of the data set"
        )

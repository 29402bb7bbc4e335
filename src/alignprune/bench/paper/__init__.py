"""The numbers that the paper prints: tables 1 to 5 and A to I as CSV files, a printed cell a line.

Read off the tables of "AlignPrune: Robust Dynamic Data Pruning through Loss Trajectory Alignment". Accuracies, deltas
and standard deviations are in percent, as printed; ``delta`` is the accuracy minus that of full training in the same
column, and the lines whose noise is "mean_delta" hold the column "Mean Δ". The paper's figures print no numbers.

``status`` says where a number comes from: "as_printed"; "recovered", from a merged row or from the same row in another
table; "missing", printed but not readable, and empty here. ``flag`` says what is special about a line. Two printed
cells contradict the others and stay as printed: the mean of Moderate at 50 % in table B, and the delta of DUAL at 50 %
with the worst human labels in table C.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from alignprune._checks import choice
from alignprune.errors import ValueMistake

TABLES = ("1", "2", "3", "4", "5", "A", "B", "C", "D", "E", "F", "G", "H", "I")

_PLACE = ("dataset", "model", "setting", "group", "hyperparameter", "prune_ratio", "method", "noise")
_MEASURES = ("accuracy", "delta", "std")


@dataclass(frozen=True)
class PaperNumber:
    """A printed cell, in percent; None where the paper prints none or it cannot be read.

    Attributes:
        table: "1", ..., "I".
        dataset: as the caption names them.
        model: as the caption names them.
        prune_ratio: in percent; "0" for full training, "default" or "not_stated" where the paper names none.
        method: as printed.
        noise: "clean", "real", "sym_0.2", ...; "mean_delta" for the mean over the columns.
        accuracy: mean of three runs.
        delta: accuracy minus that of full training.
        std: standard deviation, over runs in table I, over window sizes in table G.
        status: "as_printed", "recovered" or "missing".
        flag: what is special about the cell, "" for nothing.
    """

    table: str
    dataset: str
    model: str
    prune_ratio: str
    method: str
    noise: str
    accuracy: float | None
    delta: float | None
    std: float | None
    status: str
    flag: str


@cache
def rows(table: str) -> tuple[Mapping[str, str], ...]:
    """The lines of a table, in the paper's order, with its own columns; "" where a cell is empty.

    Args:
        table: a name of `TABLES`.

    Raises:
        ValueError: for a table that there is not.
    """
    choice("table", table, TABLES)
    text = files(__name__).joinpath(f"table_{table}.csv").read_text(encoding="utf-8")
    return tuple(MappingProxyType(row) for row in csv.DictReader(text.splitlines()))


@cache
def numbers(table: str) -> tuple[PaperNumber, ...]:
    """The cells of a table of accuracies, in the paper's order.

    Args:
        table: a name of `TABLES`, but "3", "A" and "F", which hold other things: see `rows`.

    Raises:
        ValueError: for another table.
    """
    choice("table", table, [name for name in TABLES if name not in ("3", "A", "F")])
    return tuple(_cell(row) for row in rows(table))


def find(table: str, *, value: str = "accuracy", **where: str) -> float | None:
    """The number of the one line of a table that has these entries.

    Args:
        table: a name of `TABLES`.
        value: column of the number: "accuracy", "delta", "std"; "time_min" in table 3, "avg_pruned_per_epoch_percent"
            in table F.
        where: entries by column, such as ``method="InfoBatch + Ours", prune_ratio="50", noise="real"``.

    Returns:
        the number; None where the table has no such line, or the line no such number.

    Raises:
        ValueError: for a column that the table has not, an entry that occurs nowhere in its column, and entries that
            several lines have.
    """
    lines = rows(table)
    for name in (value, *where):
        choice("column", name, lines[0])
    for name, entry in where.items():
        choice(name, entry, dict.fromkeys(line[name] for line in lines))
    found = [line for line in lines if where.items() <= line.items()]
    if len(found) > 1:
        entries = {name: dict.fromkeys(line[name] for line in found) for name in _PLACE if name in found[0]}
        several = "; ".join(f"{name}: {', '.join(known)}" for name, known in entries.items() if len(known) > 1)
        raise ValueMistake(
            f"where={where} is true of {len(found)} lines of table {table}, expected one: say which ({several})"
        )
    return _number(found[0][value]) if found else None


def _cell(row: Mapping[str, str]) -> PaperNumber:
    texts = {name: entry for name, entry in row.items() if name not in _MEASURES}
    return PaperNumber(**texts, accuracy=_number(row["accuracy"]), delta=_number(row["delta"]), std=_number(row["std"]))


def _number(text: str) -> float | None:
    return float(text) if text else None

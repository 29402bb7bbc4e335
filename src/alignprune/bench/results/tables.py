"""A table of the paper, filled from the store: what the runs measured, and beside it what the paper prints.

A cell shows the mean over its seeds ± half of the 95 % t-interval, below it the paper's number and, in parentheses, the
measured minus the paper's. "mean Δ" is the mean over all columns of the row minus full training in the same column.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from rich.box import HORIZONTALS
from rich.table import Table

from alignprune._checks import choice
from alignprune._ranks import DRAWS
from alignprune.bench import paper
from alignprune.bench.console import console
from alignprune.bench.grid.cells import Cell, Experiment, Protocol
from alignprune.bench.results.comparisons import Comparison, comparison
from alignprune.bench.results.measures import MEASURES, Measure, Statistics, statistics
from alignprune.errors import ValueMistake

if TYPE_CHECKING:
    from alignprune.bench.results.store import Store

Form = Literal["text", "markdown", "csv"]

MEAN_DELTA = "mean Δ"
NO_RUN, NO_VALUE = "-", "n/a"


@dataclass(frozen=True)
class Entry:
    """One measure of one cell.

    Attributes:
        cell: the cell.
        measure: what is shown of it.
        runs: how many of its runs are in the store.
        measured: what they say.
        paper: the paper's number, in the measure's unit.
    """

    cell: Cell
    measure: Measure
    runs: int
    measured: Statistics
    paper: float | None

    @property
    def place(self) -> tuple[str, str, str]:
        return self.cell.block, self.cell.row, self.cell.column

    @property
    def difference(self) -> float | None:
        """The measured minus the paper's."""
        return None if self.measured.value is None or self.paper is None else self.measured.value - self.paper

    @property
    def is_full_training(self) -> bool:
        return self.cell.is_full_training


def entries(
    experiment: Experiment,
    protocol: Protocol,
    store: Store,
    measures: Sequence[str] = (),
    against: str | None = None,
    between: tuple[str, str] | None = None,
) -> list[Entry]:
    """What the store holds of an experiment, in the order of its cells.

    Args:
        experiment: a table or figure.
        protocol: that its runs were made under.
        store: where they are.
        measures: names of `MEASURES`, all of them for every cell; empty = the cell's own.
        against: a row; every other row is shown as its difference to this one, seed by seed, in the same column and
            block, or where the block lacks it, in the first that has it. A column that lacks it is left out.
        between: two rows; every other row is shown as the share of the way from the first to the second, found as
            for ``against``, over the seeds that all three have.

    Raises:
        ValueError: for an unknown measure or row, for a comparison that cannot be made, and where the experiment has no
            cells under the protocol.
    """
    cells = experiment.cells(protocol)
    if not cells:
        raise ValueMistake(
            f"{experiment.name} has no cells under protocol {protocol.name!r}: that protocol leaves its data set out, "
            f"choose another"
        )
    printed = {(cell.block, cell.row, cell.column, cell.measure): cell.paper for cell in cells}
    if measures:  # cells in the same place differ in their measure alone
        cells = tuple({(cell.block, cell.row, cell.column): cell for cell in cells}.values())
    wanted = [(cell, name) for cell in cells for name in (measures or (cell.measure,))]
    names = list(dict.fromkeys(name for _, name in wanted))
    for name in names:
        choice("measure", name, MEASURES)
    rows = list(dict.fromkeys(cell.row for cell in cells))
    compared = comparison(rows, [MEASURES[name] for name in names], against, between)
    found = _found(store, cells, [MEASURES[name] for name in names], protocol)
    made = []
    for cell, name in wanted:
        group = [cell] if compared is None else compared.group(cell, cells)
        if group:
            seeds = _shared([found[other.key, other.ranking, name] for other in group])
            numbers = [printed.get((other.block, other.row, other.column, name)) for other in group]
            made.append(_entry(cell, MEASURES[name], compared, seeds, numbers))
    if compared is not None and not made:
        raise ValueMistake(
            f"no column of {experiment.name} has {' and '.join(compared.rows)} and a further row, expected one at "
            f"least: choose rows that stand in the same columns"
        )
    return made


def _found(
    store: Store, cells: Sequence[Cell], measures: Sequence[Measure], protocol: Protocol
) -> dict[tuple[str, str | None, str], dict[int, float | None]]:
    """By (key, ranking, measure) the value of each seed that ran, None where it has no such value."""
    keys = {cell.key for cell in cells}
    columns = {view: {measure.column for measure in measures if measure.view == view} for view in ("runs", "rankings")}
    runs = store.values(keys, columns["runs"] | {"seed"}, protocol.name)
    ranked = store.rankings(keys, columns["rankings"], protocol.name) if columns["rankings"] else {}
    found = {}
    for cell in cells:
        for measure in measures:
            if measure.view == "runs":
                values = runs[cell.key, measure.column]
            else:
                own = ranked.get((cell.key, cell.ranking or "", measure.column), {})
                values = {seed: own.get(seed) for seed in runs[cell.key, "seed"]}
            found[cell.key, cell.ranking, measure.name] = values
    return found


def _shared(values: Sequence[Mapping[int, float | None]]) -> list[list[float | None]]:
    """By seed, of those that all have, the values of each."""
    seeds = [seed for seed in values[0] if all(seed in others for others in values)]
    return [[of_seed[seed] for of_seed in values] for seed in seeds]


def _entry(
    cell: Cell,
    measure: Measure,
    compared: Comparison | None,
    seeds: Sequence[Sequence[float | None]],
    numbers: Sequence[float | None],
) -> Entry:
    """An entry from the values by seed, and the paper's numbers, of the cell and of those it is compared with."""
    values = [[value * measure.factor for value in known] for of_seed in seeds if (known := _complete(of_seed))]
    if compared is None:
        measured = statistics([own for (own,) in values], spread=measure.spread)
        return Entry(cell, measure, len(seeds), measured, numbers[0])
    known = _complete(numbers)
    number = compared.number(*known) if known else None
    return Entry(cell, compared.measure(measure), len(seeds), compared.over_seeds(values), number)


def _complete(values: Sequence[float | None]) -> list[float]:
    """The values, or nothing where one of them is missing."""
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []


def render(
    experiment: Experiment,
    protocol: Protocol,
    store: Store,
    form: Form = "text",
    measures: Sequence[str] = (),
    against: str | None = None,
    between: tuple[str, str] | None = None,
) -> str:
    """Write a table.

    Args:
        experiment: a table or figure.
        protocol: that its runs were made under.
        store: where they are.
        form: "text" for the terminal, "markdown", or "csv": one line a cell and measure, numbers not rounded.
        measures: names of `MEASURES`, one line each in every row; empty = the cells' own.
        against: a row that every other is compared with, seed by seed; see `entries`.
        between: two rows whose gap every other closes in part, seed by seed; see `entries`.

    Raises:
        ValueError: for an unknown form, and as `entries`.
    """
    choice("form", form, get_args(Form))
    shown = entries(experiment, protocol, store, measures, against, between)
    if form == "csv":
        return _csv(experiment, protocol, shown)
    title = f"{experiment.name}: {experiment.title} (protocol {protocol.name}){_only_block(experiment, shown)}"
    write = _text if form == "text" else _markdown
    notes = _notes(experiment, protocol, shown) + _note_of_draws(store, protocol, shown)
    return write(title, _grid(experiment, shown), notes)


def rows(
    experiment: Experiment,
    protocol: Protocol,
    store: Store,
    measures: Sequence[str] = (),
    against: str | None = None,
    between: tuple[str, str] | None = None,
) -> list[dict[str, Any]]:
    """A table as rows, one a cell and measure, with the columns of the form "csv"; arguments as for `entries`."""
    return _rows(experiment, protocol, entries(experiment, protocol, store, measures, against, between))


def full_training(shown: Sequence[Entry], block: str, measure: Measure) -> dict[str, Entry]:
    """Full training by column: that of the block, or else the first in any block."""
    full = [entry for entry in shown if entry.is_full_training and entry.measure == measure]
    first = {entry.cell.column: entry for entry in reversed(full)}
    return first | {entry.cell.column: entry for entry in full if entry.cell.block == block}


def missing(shown: Sequence[Entry]) -> list[Entry]:
    """The cells without a run, each once."""
    return list({entry.place: entry for entry in shown if not entry.runs}.values())


def protocol_note(protocol: Protocol) -> str:
    """What has to be said beside the paper's numbers where the runs were not made under its protocol."""
    return (
        f"The paper's numbers come from another protocol than {protocol.name!r} ({protocol.summary}): a difference is "
        f"not an error of reproduction."
    )


@dataclass(frozen=True)
class _Grid:
    """Texts as they stand in the table: block, row, measure, the columns, mean Δ, without those that say nothing."""

    header: list[str]
    rows: list[list[str]]
    headings: int  # how many of the texts in a row are its headings
    places: list[tuple[str, str]]  # block and row, by row


def _grid(experiment: Experiment, shown: Sequence[Entry]) -> _Grid:
    lines, usual = _lines(shown), _usual_n(shown)
    columns = list(dict.fromkeys(entry.cell.column for entry in shown))
    several = any(rank for _, _, rank in lines)
    header = [experiment.block_title, experiment.row_title, "measure", *columns, MEAN_DELTA]
    rows = []
    for (block, row, _), line in lines.items():
        heading = next(iter(line.values())).measure.heading if several else ""
        cells = [_cell(line[column], usual) if column in line else "" for column in columns]
        rows.append([block, row, heading, *cells, _mean_delta(experiment, shown, line, columns)])
    said = [any(row[i] for row in rows) for i in range(len(header))]
    said[0] &= len({block for block, _, _ in lines}) > 1
    return _Grid(
        header=list(compress(header, said)),
        rows=[list(compress(row, said)) for row in rows],
        headings=sum(said[:3]),
        places=[(block, row) for block, row, _ in lines],
    )


def _only_block(experiment: Experiment, shown: Sequence[Entry]) -> str:
    """The block where there is but one, for the title: a column would say the same in every row."""
    blocks = {entry.cell.block for entry in shown}
    return f"; {experiment.block_title}: {blocks.pop()}" if len(blocks) == 1 and blocks != {""} else ""


def _lines(shown: Sequence[Entry]) -> dict[tuple[str, str, int], dict[str, Entry]]:
    """By (block, row, rank) the entries by column, blocks together; rank 1 is the second measure in a place."""
    rank: Counter[tuple[str, str, str]] = Counter()
    lines: dict[tuple[str, str, int], dict[str, Entry]] = {}
    blocks = list(dict.fromkeys(entry.cell.block for entry in shown))
    for entry in sorted(shown, key=lambda entry: blocks.index(entry.cell.block)):
        block, row, column = entry.place
        lines.setdefault((block, row, rank[entry.place]), {})[column] = entry
        rank[entry.place] += 1
    return lines


def _usual_n(shown: Sequence[Entry]) -> int:
    """The number of seeds that most entries have, the larger of two equally common ones; 0 without runs."""
    counts = Counter(entry.measured.n for entry in shown if entry.measured.n)
    return max(counts, key=lambda n: (counts[n], n), default=0)


def _cell(entry: Entry, usual: int) -> str:
    """Two lines: the measured; the paper's and the difference."""
    digits = entry.measure.digits - bool(entry.measure.sign)  # the paper's differences have the digits of its numbers
    return _stack(_measured(entry, usual), entry.paper, entry.difference, digits, entry.measure.sign)


def _stack(measured: str, printed: float | None, difference: float | None, digits: int, sign: str = "") -> str:
    if printed is None:
        return measured
    below = _number(printed, digits, sign)
    return f"{measured}\n{below}" if difference is None else f"{measured}\n{below} ({_number(difference, digits, '+')})"


def _measured(entry: Entry, usual: int) -> str:
    if not entry.runs:
        return NO_RUN
    found, digits = entry.measured, entry.measure.digits
    if found.value is None:
        return NO_VALUE
    text = _number(found.value, digits, entry.measure.sign)
    if found.low is not None and found.high is not None:
        both = f" [{_number(found.low, digits)}, {_number(found.high, digits)}]"
        text += both if entry.measure.ratio else f" ± {_number(found.high - found.value, digits)}"
    return text if found.n == usual else f"{text} (n={found.n})"


def _mean_delta(
    experiment: Experiment, shown: Sequence[Entry], line: Mapping[str, Entry], columns: Sequence[str]
) -> str:
    """The text under "mean Δ"; nothing for full training itself and where there is none to compare with."""
    first = next(iter(line.values()))
    full = full_training(shown, first.cell.block, first.measure)
    only_accuracies = all(entry.measure == MEASURES["accuracy"] for entry in line.values())
    if not only_accuracies or first.is_full_training or not full:
        return ""
    own = [column for column in columns if column in line]
    row, base = ([_value(entries.get(column)) for column in own] for entries in (line, full))
    mean = float(np.mean(row)) - float(np.mean(base))
    printed = _printed_mean_delta(experiment.name, first.cell.block, first.cell.row, columns)
    if math.isnan(mean):
        return _stack(NO_RUN, printed, None, 1, "+")
    return _stack(_number(mean, 1, "+"), printed, None if printed is None else mean - printed, 1, "+")


def _value(entry: Entry | None) -> float:
    return math.nan if entry is None or entry.measured.value is None else entry.measured.value


def _printed_mean_delta(name: str, block: str, row: str, columns: Sequence[str]) -> float | None:
    """What the paper prints in the column "Mean Δ" of the table "table-1", ..., if it has one that can be read.

    A part of the columns has another mean, which the paper does not print.
    """
    table = name.removeprefix("table-")
    if table not in paper.TABLES or "noise" not in paper.rows(table)[0]:
        return None
    averaged = {number.noise for number in paper.numbers(table) if not number.noise.endswith("mean_delta")}
    if table != "4" and not averaged <= set(columns):
        return None
    by_ratio, by_noise = (block, "mean_delta"), ("not_stated", f"{block}_mean_delta")  # the latter in table 4
    found = [n for n in paper.numbers(table) if n.method == row and (n.prune_ratio, n.noise) in (by_ratio, by_noise)]
    return found[0].delta if found else None


def _number(value: float, digits: int, sign: str = "") -> str:
    return f"{round(value, digits) + 0.0:{sign},.{digits}f}"  # + 0.0: no minus before zero


def _notes(experiment: Experiment, protocol: Protocol, shown: Sequence[Entry]) -> list[str]:
    notes = [_legend(shown)] if any(entry.measured.n for entry in shown) else []
    if any(entry.runs and entry.measured.value is None for entry in shown):
        no_gap = ", or there is no gap" if shown[0].measure.ratio else ""
        notes.append(f"{NO_VALUE}: these runs measured no such value, or too few of them did{no_gap}.")
    if any(entry.measure.ratio and entry.measured.n > 1 and entry.measured.low is None for entry in shown):
        notes.append(
            "No interval where that of the gap itself contains 0: more seeds, or rows further apart, give one."
        )
    columns = [cell.column for cell in experiment.cells(protocol)]
    left_out = [column for column in dict.fromkeys(columns) if column not in {entry.cell.column for entry in shown}]
    if left_out:
        notes.append(f"Left out, without the rows to compare with: {', '.join(left_out)}.")
    if protocol.name != "paper" and any(entry.paper is not None for entry in shown):
        notes.append(protocol_note(protocol))
    absent, cells = len(missing(shown)), len({entry.place for entry in shown})
    if absent:
        have = "has" if absent == 1 else "have"
        command = f"alignprune sweep {experiment.name} --protocol {protocol.name}"
        notes.append(f"{absent} of {cells} cells {have} no run: {command}")
    return notes


def _note_of_draws(store: Store, protocol: Protocol, shown: Sequence[Entry]) -> list[str]:
    """Say so where runs were made when the same seed drew other samples than today."""
    keys = dict.fromkeys(entry.cell.key for entry in shown)
    drawn = store.values(keys, ["versions.draws"], protocol.name)
    found = [version for by_seed in drawn.values() for version in by_seed.values()]
    older = sum(version != DRAWS for version in found)
    if not older:
        return []
    return [
        f"{older} of {len(found)} runs were made with older draws than today's (version {DRAWS}): the same seed "
        f"selects other samples now. Remove their folders and sweep again to compare them with new runs."
    ]


def _legend(shown: Sequence[Entry]) -> str:
    usual = _usual_n(shown)
    what = "; ".join(dict.fromkeys(entry.measure.heading for entry in shown))
    if all(entry.measure.spread for entry in shown):
        how = f"over {usual} seeds"
    elif usual == 1:
        how = "one seed, which gives no interval"
    else:
        mean = "mean ± half of the 95 % t-interval"
        ratio = "ratio of the mean differences [95 % interval by Fieller's theorem]"
        how = f"{ratio if shown[0].measure.ratio else mean} over {usual} seeds"
        if any(entry.measured.n == 1 for entry in shown):
            how += ", no interval where there is one seed"
    below = (
        "; below it the paper's number (measured minus the paper's)" if any(e.paper is not None for e in shown) else ""
    )
    return f"{what}: {how}{below}."


def _text(title: str, grid: _Grid, notes: Sequence[str]) -> str:
    table = Table(*grid.header, box=HORIZONTALS)
    before: list[str] = []
    place = grid.places[0]
    for row, (block, name) in zip(grid.rows, grid.places, strict=True):
        if block != place[0]:
            table.add_section()
        elif name != place[1]:
            table.add_row()
        table.add_row(
            *("" if row[: i + 1] == before[: i + 1] else row[i] for i in range(grid.headings)), *row[grid.headings :]
        )
        before, place = row[: grid.headings], (block, name)
    file = io.StringIO()
    console(file).print(table)
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    return "\n".join([title, *lines, *notes]) + "\n"


def _markdown(title: str, grid: _Grid, notes: Sequence[str]) -> str:
    def line(texts: Iterable[str]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|").replace("\n", "<br>") for text in texts) + " |"

    table = [line(grid.header), line("---" for _ in grid.header), *map(line, grid.rows)]
    return "\n".join([f"**{title}**", "", *table, *(part for note in notes for part in ("", note))]) + "\n"


_CSV_HEADER = (
    "experiment",
    "protocol",
    "block",
    "row",
    "column",
    "measure",
    "n",
    "mean",
    "low",
    "high",
    "paper",
    "difference",
)


def _csv(experiment: Experiment, protocol: Protocol, shown: Sequence[Entry]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, _CSV_HEADER, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_rows(experiment, protocol, shown))
    return file.getvalue()


def _rows(experiment: Experiment, protocol: Protocol, shown: Sequence[Entry]) -> list[dict[str, Any]]:
    """A row a cell and measure, by the names of `_CSV_HEADER`."""
    rows = []
    for entry in shown:
        found = entry.measured
        numbers = (found.value, found.low, found.high, entry.paper, entry.difference)
        exact = [None if number is None else round(number, 9) for number in numbers]
        values = [experiment.name, protocol.name, *entry.place, entry.measure.name, found.n, *exact]
        rows.append(dict(zip(_CSV_HEADER, values, strict=True)))
    return rows

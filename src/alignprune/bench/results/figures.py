"""What the pictures show: the paper's figures and tables from the store, and what noise does to the losses of runs.

A panel shows a block. Bars and points are means over seeds with their 95 % intervals, hollow diamonds the paper's
numbers; a cell without runs is left out and named below. How all of it is drawn stands in `charts`.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from alignprune._checks import choice
from alignprune._files import read_arrays
from alignprune.bench.grid.cells import Cell, Experiment, Protocol
from alignprune.bench.results import charts, tables
from alignprune.bench.results.charts import LETTERS, Array, Panel, Point
from alignprune.bench.results.measures import Measure
from alignprune.bench.results.store import Store
from alignprune.bench.results.tables import Entry
from alignprune.bench.run import diagnosis
from alignprune.errors import ValueMistake

_INTERVAL = "Mean over the seeds with its 95 % t-interval."
_FIRST_SEED = "The first seed of each cell."
_EPOCHS_SHOWN = 3
_NAMES_SHOWN = 4


def picture(experiment: Experiment, protocol: Protocol, store: Store) -> Figure:
    """A figure, or a table as bars; `charts.save` writes it.

    Args:
        experiment: what to draw; its `draw` says how.
        protocol: that its runs were made under.
        store: where they are.

    Raises:
        ValueError: where no cell has a run to draw, and for "lines" over columns without numbers.
    """
    kind = experiment.draw or "bars"
    choice("draw", kind, _KINDS)
    shown = tables.entries(experiment, protocol, store)
    found = _KINDS[kind](experiment, protocol, store, shown)
    if not found.drawn:
        raise ValueMistake(
            f"experiment={experiment.name!r} has no run to draw under protocol {protocol.name!r}, expected one at "
            f"least: alignprune sweep {experiment.name} --protocol {protocol.name}"
        )
    figure = found.lay_out(f"{experiment.title} ({experiment.name}, protocol {protocol.name})")
    caption = _caption(experiment, protocol, found, shown)
    figure.supxlabel(textwrap.fill(caption, round(16 * figure.get_figwidth())), x=0.01, ha="left", fontsize=8)
    return figure


@dataclass(frozen=True)
class _Picture:
    """What a kind of figure makes of the entries.

    Attributes:
        lay_out: makes the figure under a title.
        drawn: the entries in it.
        caption: what it shows.
    """

    lay_out: Callable[[str], Figure]
    drawn: list[Entry]
    caption: str


def _bars(experiment: Experiment, protocol: Protocol, store: Store, shown: Sequence[Entry]) -> _Picture:
    """A group of bars a column, a bar a row; full training is a line across the groups."""
    drawn = [entry for entry in shown if entry.measured.value is not None]
    as_bars = [entry for entry in drawn if not entry.is_full_training] or drawn
    blocks = _blocks(as_bars)
    most = max(map(len, blocks.values()), default=0)
    abreast = min(len(blocks), 3 if most <= 8 else 2 if most <= 16 else 1)
    panels = []
    for (block, measure), bars in blocks.items():
        full = {} if bars[0].is_full_training else tables.full_training(drawn, block, measure)
        paint = partial(
            charts.paint_bars,
            points=_points(bars),
            full={column: _number(entry.measured.value) for column, entry in full.items()},
            rows=_rows(as_bars),
            heading=measure.heading,
            start=charts.start_of(_points([entry for entry in drawn if entry.measure == measure])),
            room=LETTERS // abreast,
        )
        x_title = experiment.column_title if all(_is_number(entry.cell.column) for entry in bars) else ""
        panels.append(Panel(_block_name(experiment, block), paint, x_title))
    one_measure = len({measure for _, measure in blocks}) == 1
    return _Picture(partial(charts.lay_out, panels, abreast, same_scale=one_measure), drawn, _INTERVAL)


def _lines(experiment: Experiment, protocol: Protocol, store: Store, shown: Sequence[Entry]) -> _Picture:
    """The columns as numbers on the horizontal axis, a line a row."""
    for entry in shown:
        if not _is_number(entry.cell.column):
            raise ValueMistake(
                f"column={entry.cell.column!r} is no number in row {entry.cell.row!r} of {experiment.name}, expected "
                f"one where draw='lines': give numbers, or draw='bars'"
            )
    drawn = [entry for entry in shown if entry.measured.value is not None]
    panels = []
    for (block, measure), own in _blocks(drawn).items():
        paint = partial(charts.paint_lines, points=_points(own), rows=_rows(drawn), heading=measure.heading)
        panels.append(Panel(_block_name(experiment, block), paint, experiment.column_title))
    return _Picture(partial(charts.lay_out, panels, 3), drawn, _INTERVAL)


def _costs(experiment: Experiment, protocol: Protocol, store: Store, shown: Sequence[Entry]) -> _Picture:
    """A panel a block and column: the rows over the forward passes that they take, those of proxies included."""
    spent = _spent(protocol, store, shown)
    drawn = [entry for entry in shown if entry.measured.value is not None]
    blocks = {entry.cell.block for entry in drawn}
    common = blocks.pop() if len(blocks) == 1 else ""
    panels = []
    for block, column, measure in dict.fromkeys((e.cell.block, e.cell.column, e.measure) for e in drawn):
        own = [
            entry for entry in drawn if (entry.cell.block, entry.cell.column, entry.measure) == (block, column, measure)
        ]
        points = [
            replace(point, column=str(spent[entry.cell.key])) for entry, point in zip(own, _points(own), strict=True)
        ]
        paint = partial(charts.paint_costs, points=points, rows=_rows(drawn), heading=measure.heading)
        labels = _labels_of(own[0].cell)
        title = labels if block == common else f"{block}\n{labels}"
        panels.append(Panel(title, paint, "forward passes [% of full training]"))

    def lay_out(title: str) -> Figure:
        return charts.lay_out(panels, 2, f"{title}\n{common}".rstrip(), scale=0.75)

    return _Picture(lay_out, drawn, _INTERVAL)


def _spent(protocol: Protocol, store: Store, shown: Sequence[Entry]) -> dict[str, float]:
    """By key the mean of the forward passes, those of proxies included, in percent of full training."""
    found: dict[str, list[float]] = {}
    for run in store.runs({entry.cell.key for entry in shown}, protocol.name):
        whole = run["forward_passes"] / run["forward_fraction"]
        found.setdefault(run["key"], []).append(100 * (run["forward_passes"] + run["proxy_forward_passes"]) / whole)
    return {key: float(np.mean(shares)) for key, shares in found.items()}


def _labels_of(cell: Cell) -> str:
    """The labels that a cell trains on, in words."""
    noise, rate = cell.settings.get("noise"), cell.settings.get("noise_rate")
    if rate is None:
        return {"clean": "clean labels", "real": "people's labels"}.get(str(noise), cell.column)
    return f"{100 * rate:g} % wrong" if noise == "symmetric" else f"{noise} {100 * rate:g} %"


def _losses(experiment: Experiment, protocol: Protocol, store: Store, shown: Sequence[Entry]) -> _Picture:
    """A line of panels a cell: how the losses of its first seed are distributed, early, midway and late."""
    panels: list[Panel] = []
    drawn, abreast = [], 1
    folders = _first_seeds(protocol, store, shown)
    for entry in _cells(shown):
        file = folders[entry.cell.key] / diagnosis.FILE if entry.cell.key in folders else None
        if file is None or not file.exists():
            continue
        stored = read_arrays(file, diagnosis.KIND, needed=("epochs", "losses", "is_noisy"))
        epochs, losses, wrong = stored["epochs"], stored["losses"].astype(np.float32), stored["is_noisy"]
        chosen = _spread(np.flatnonzero(~np.isnan(losses).all(axis=1)), _EPOCHS_SHOWN)
        if not chosen:
            continue
        limit = max(charts.usual_maximum(losses[k]) for k in chosen)
        for k in chosen:
            paint = partial(charts.paint_losses, losses=losses[k], wrong=wrong, limit=limit)
            panels.append(Panel(f"{_name(experiment, entry)}\nepoch {epochs[k]}", paint, "training loss"))
        drawn.append(entry)
        abreast = max(abreast, len(chosen))
    return _Picture(partial(charts.lay_out, panels, abreast), drawn, _FIRST_SEED)


def _trajectories(experiment: Experiment, protocol: Protocol, store: Store, shown: Sequence[Entry]) -> _Picture:
    """A panel a cell: the mean loss of right and of wrong labels and of the reference, by epoch."""
    epochs: dict[str, list[dict[str, Any]]] = {}
    for row in store.epochs({entry.cell.key for entry in shown}, protocol.name):
        epochs.setdefault(row["key"], []).append(row)
    drawn = [entry for entry in _cells(shown) if entry.cell.key in epochs]
    panels = []
    for entry in drawn:
        rows = epochs[entry.cell.key]
        paint = partial(
            charts.paint_trajectories,
            right=_over_seeds(rows, "clean_loss"),
            wrong=_over_seeds(rows, "noisy_loss"),
            reference=_over_seeds(rows, "reference_loss"),
        )
        panels.append(Panel(_name(experiment, entry), paint, "epoch"))
    return _Picture(partial(charts.lay_out, panels, 3), drawn, "Mean over the seeds.")


def _over_seeds(rows: Sequence[Mapping[str, Any]], column: str) -> dict[int, float]:
    """By epoch the mean of a column over the seeds; nothing where none has a value."""
    found: dict[int, list[float]] = {}
    for row in rows:
        if row[column] is not None:
            found.setdefault(row["epoch"], []).append(row[column])
    return {epoch: float(np.mean(values)) for epoch, values in found.items()}


def _first_seeds(protocol: Protocol, store: Store, shown: Sequence[Entry]) -> dict[str, Path]:
    """By key the folder of the run with the lowest seed, of the cells that have one; an exported run has none."""
    folders: dict[str, Path] = {}
    for run in store.runs({entry.cell.key for entry in shown}, protocol.name):
        if run["folder"] is not None:
            folders.setdefault(run["key"], Path(run["folder"]))
    return folders


_KINDS: dict[str, Callable[[Experiment, Protocol, Store, Sequence[Entry]], _Picture]] = {
    "bars": _bars,
    "lines": _lines,
    "costs": _costs,
    "losses": _losses,
    "trajectories": _trajectories,
}


def _caption(experiment: Experiment, protocol: Protocol, picture: _Picture, shown: Sequence[Entry]) -> str:
    parts = [picture.caption]
    if protocol.name != "paper" and picture.caption == _INTERVAL and any(e.paper is not None for e in picture.drawn):
        parts.append(tables.protocol_note(protocol))
    places = {entry.place for entry in picture.drawn}
    absent = [_name(experiment, entry) for entry in _cells(shown) if entry.place not in places]
    if absent:
        more = [f"{len(absent) - _NAMES_SHOWN} more"] if len(absent) > _NAMES_SHOWN else []
        parts.append(f"Left out, without runs or without such a value: {'; '.join(absent[:_NAMES_SHOWN] + more)}.")
    return " ".join(parts)


def _blocks(entries: Sequence[Entry]) -> dict[tuple[str, Measure], list[Entry]]:
    """What stands in one panel: a block, and one measure of it."""
    blocks: dict[tuple[str, Measure], list[Entry]] = {}
    for entry in entries:
        blocks.setdefault((entry.cell.block, entry.measure), []).append(entry)
    return blocks


def _cells(entries: Sequence[Entry]) -> list[Entry]:
    """An entry of every cell."""
    return list({entry.place: entry for entry in entries}.values())


def _rows(entries: Sequence[Entry]) -> list[str]:
    return list(dict.fromkeys(entry.cell.row for entry in entries))


def _points(entries: Sequence[Entry]) -> list[Point]:
    return [
        Point(entry.cell.row, entry.cell.column, *map(_number, (found.value, found.low, found.high, entry.paper)))
        for entry in entries
        for found in (entry.measured,)
    ]


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _block_name(experiment: Experiment, block: str) -> str:
    return f"{experiment.block_title} {block}" if block else ""


def _name(experiment: Experiment, entry: Entry) -> str:
    name = ", ".join(text for text in (entry.cell.row, entry.cell.column) if text)
    return f"{name} ({_block_name(experiment, entry.cell.block)})" if entry.cell.block else name


def _spread(items: Array, count: int) -> list[int]:
    """At most so many of the items, evenly spaced, the first and the last among them."""
    return [int(items[i]) for i in sorted(set(np.linspace(0, len(items) - 1, count).round().astype(int).tolist()))]


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False

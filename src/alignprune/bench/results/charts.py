"""How pictures are drawn: bars, lines, marks, histograms, trajectories. Needs matplotlib alone.

A picture is a grid of panels. What they show is given as numbers; no picture changes matplotlib's settings.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from alignprune._checks import choice
from alignprune.bench.files import save_bytes

SUFFIXES = (".png", ".svg", ".pdf")
"""Of the files that a picture can be written to."""

LETTERS = 130
"""How many letters fit into the width of a picture."""

_CLEAN, _NOISY, _REFERENCE = "#2b6cb0", "#c05621", "#1a202c"

# Okabe and Ito's colours, which colour-blind readers can separate; the rows past their end are hatched.
_PALETTE = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#f0e442", "#999999")
_HATCHES = ("", "////", "....")
_MARKERS = "os^vDXP"
_STROKES = ("-", "--")

_FULL, _PAPER = "full training", "paper"
_LAST_IN_LEGEND = ("", _FULL, _PAPER)
_WIDTH, _HEIGHT = 10, 2.9  # of a picture, and of a line of its panels, in inches

Array = NDArray[Any]


@dataclass(frozen=True)
class Panel:
    """One plot of a picture.

    Attributes:
        title: above it.
        paint: draws it.
        x_title: of the horizontal axis.
    """

    title: str
    paint: Callable[[Axes], None]
    x_title: str


@dataclass(frozen=True)
class Point:
    """A mean over seeds; NaN where there is no such number.

    Attributes:
        row, column: where it stands.
        value: the mean.
        low, high: ends of its interval.
        paper: the paper's number.
    """

    row: str
    column: str
    value: float
    low: float
    high: float
    paper: float


# -- pictures of one run -----------------------------------------------------------------------------------


def loss_distribution(losses: Tensor, is_noisy: Tensor, epoch: int, path: Path) -> None:
    """Draw the distribution of one epoch's losses, right and wrong labels apart, and their common mean.

    The mean is InfoBatch's threshold: what lies left of it is pruned.

    Args:
        losses: float [N], NaN where a sample was not seen.
        is_noisy: bool [N].
        epoch: for the title, counted from 1.
        path: the picture to write.

    Source: paper, figure B.
    """
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    paint_losses(axes, losses.numpy(), is_noisy.numpy(), usual_maximum(losses.numpy()))
    axes.set(xlabel="training loss", title=f"Loss of right and wrong labels, epoch {epoch}")
    save(figure, path)


def trajectories(losses: Tensor, reference: Tensor, is_noisy: Tensor, path: Path) -> None:
    """Draw the mean loss trajectory of right and of wrong labels, with the quartiles, and the reference.

    Args:
        losses: float [E, N], NaN where a sample was not seen.
        reference: float [E], the reference loss after every epoch.
        is_noisy: bool [N].
        path: the picture to write.

    Source: paper, figure C.
    """
    epochs = np.arange(1, len(losses) + 1)
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, mask, colour in (("right label", ~is_noisy, _CLEAN), ("wrong label", is_noisy, _NOISY)):
        part = losses[:, mask].numpy()
        low, high = np.nanquantile(part, [0.25, 0.75], axis=1)
        axes.plot(epochs, np.nanmean(part, axis=1), color=colour, label=f"{name}: mean, quartiles")
        axes.fill_between(epochs, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.plot(epochs, reference.numpy(), color=_REFERENCE, linestyle="--", label="clean reference")
    axes.set(xlabel="epoch", ylabel="loss", title="Loss trajectories")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    save(figure, path)


# -- panels ------------------------------------------------------------------------------------------------


def paint_bars(
    axes: Axes,
    points: Sequence[Point],
    full: Mapping[str, float],
    rows: Sequence[str],
    heading: str,
    start: int,
    room: int,
) -> None:
    """A group of bars a column, a bar a row.

    Args:
        axes: to draw into.
        points: the bars.
        full: full training by column, a line across the group.
        rows: of the whole picture, which say how each is drawn.
        heading: of the vertical axis.
        start: where the vertical axis starts.
        room: letters that fit below the panel.
    """
    columns = list(dict.fromkeys(point.column for point in points))
    here = list(dict.fromkeys(point.row for point in points))
    width = min(0.84 / len(here), 0.28)
    for i, row in enumerate(here):
        own = [point for point in points if point.row == row]
        x = [columns.index(point.column) + (i - (len(here) - 1) / 2) * width for point in own]
        _paint_row(axes, x, own, width, rows.index(row))
    for i, column in enumerate(columns):
        if column in full:
            level = [full[column]] * 2
            axes.plot([i - 0.46, i + 0.46], level, "--", color=_REFERENCE, linewidth=1.1, label=_FULL)
    letters = max(6, room // len(columns) - 2)
    names = [textwrap.fill(column, letters, break_long_words=False) for column in columns]
    axes.set_xticks(range(len(columns)), names, fontsize=9)
    axes.set_xlim(-0.6, len(columns) - 0.4)
    axes.tick_params(axis="x", length=0)
    axes.set_ylim(bottom=start)
    axes.set_ylabel(textwrap.fill(f"{heading}, axis from {start}" if start else heading, 30))


def _paint_row(axes: Axes, x: Sequence[float], own: Sequence[Point], width: float, place: int) -> None:
    """The bars of one row, in the colour and the hatch of its place, and the paper's numbers."""
    shade, style = place % len(_PALETTE), place // len(_PALETTE) % len(_HATCHES)
    axes.bar(
        x,
        _numbers(own, "value"),
        width,
        yerr=_numbers(own, "high") - _numbers(own, "value"),
        label=own[0].row,
        color=_PALETTE[shade],
        hatch=_HATCHES[style],
        edgecolor="white",
        linewidth=0.4,
        error_kw={"ecolor": _REFERENCE, "elinewidth": 0.9, "capsize": min(3, 15 * width)},
    )
    paper = _numbers(own, "paper")
    if not np.isnan(paper).all():
        size = min(4.0, 40 * width)
        axes.plot(x, paper, "D", color=_REFERENCE, fillstyle="none", markersize=size, label=_PAPER)


def start_of(points: Sequence[Point]) -> int:
    """Where a vertical axis starts: at 0, or, where that would hide the differences, below the lowest value."""
    values = np.concatenate([_numbers(points, "value"), _numbers(points, "paper")])
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    return max(0, math.floor(low - 0.4 * (high - low) - 0.02 * high)) if low < high < 1.5 * low else 0


def paint_lines(axes: Axes, points: Sequence[Point], rows: Sequence[str], heading: str) -> None:
    """The columns as numbers on the horizontal axis, a line a row, its interval shaded.

    Args:
        axes: to draw into.
        points: the points of the lines.
        rows: of the whole picture, which say how each is drawn.
        heading: of the vertical axis.
    """
    for row in dict.fromkeys(point.row for point in points):
        own = sorted((point for point in points if point.row == row), key=lambda point: float(point.column))
        x = [float(point.column) for point in own]
        shade, marker = _PALETTE[rows.index(row) % len(_PALETTE)], _MARKERS[rows.index(row) % len(_MARKERS)]
        axes.fill_between(x, _numbers(own, "low"), _numbers(own, "high"), color=shade, alpha=0.2, linewidth=0)
        axes.plot(x, _numbers(own, "value"), color=shade, marker=marker, markersize=5, label=row)
        axes.plot(x, _numbers(own, "paper"), "D--", color=shade, fillstyle="none", markersize=4, linewidth=1)
    if not np.isnan(_numbers(points, "paper")).all():
        axes.plot([], [], "D--", color=_REFERENCE, fillstyle="none", markersize=4, linewidth=1, label=_PAPER)
    columns = sorted({float(point.column) for point in points})
    if columns[0] > 0 and columns[-1] >= 100 * columns[0]:
        axes.set_xscale("log")
        axes.set_xticks(columns, [f"{number:g}" for number in columns])
        axes.minorticks_off()
    axes.set_ylabel(heading)


def paint_costs(axes: Axes, points: Sequence[Point], rows: Sequence[str], heading: str) -> None:
    """The columns as numbers on the horizontal axis, a mark a row with its interval; nothing joins what differs.

    Args:
        axes: to draw into.
        points: a point a row; its column is what it costs.
        rows: of the whole picture, which say how each is drawn.
        heading: of the vertical axis.
    """
    for point in points:
        place = rows.index(point.row)
        axes.errorbar(
            [float(point.column)],
            [point.value],
            yerr=[[point.value - point.low], [point.high - point.value]],
            color=_PALETTE[place % len(_PALETTE)],
            marker=_MARKERS[place % len(_MARKERS)],
            markersize=7,
            linestyle="none",
            capsize=3,
            label=point.row,
        )
    axes.set_xlim(0, max(105.0, *(1.05 * float(point.column) for point in points)))
    axes.grid(axis="y", alpha=0.3)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.set_ylabel(heading)


def paint_losses(axes: Axes, losses: Array, wrong: Array, limit: float) -> None:
    """Histograms of losses, float [N], up to a limit, right and wrong labels apart; wrong: bool [N]."""
    seen = ~np.isnan(losses)
    bins = np.linspace(0, limit, 60).tolist()
    for name, mask, colour in (("right label", seen & ~wrong, _CLEAN), ("wrong label", seen & wrong, _NOISY)):
        axes.hist(losses[mask], bins, alpha=0.6, color=colour, label=_counted(name, losses[mask], limit))
    axes.axvline(losses[seen].mean(), color=_REFERENCE, linestyle="--", label="mean loss")
    axes.set_ylabel("samples")
    axes.legend(frameon=False, fontsize=8)


def paint_series(axes: Axes, series: Mapping[str, Mapping[int, float]], heading: str) -> None:
    """Lines over the epochs, at most as many as there are colours, with a legend of their own.

    Args:
        axes: to draw into.
        series: by name the value of each epoch that has one.
        heading: of the vertical axis.
    """
    for (name, values), shade in zip(series.items(), _PALETTE, strict=False):
        x = sorted(values)
        axes.plot(x, [values[epoch] for epoch in x], color=shade, marker=".", markersize=4, linewidth=1.4, label=name)
    axes.set_ylabel(heading)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if series:
        axes.legend(frameon=False, fontsize=8)


def paint_courses(
    axes: Axes, courses: Mapping[str, Mapping[float, float]], heading: str, *, from_zero: bool = False
) -> None:
    """A line a run over what it has cost so far, in the colour of its place; a run without values keeps its colour.

    Args:
        axes: to draw into.
        courses: by run, at most as many as there are colours, the value at each cost.
        heading: of the vertical axis.
        from_zero: whether the vertical axis starts at 0.
    """
    for (name, values), shade in zip(courses.items(), _PALETTE, strict=False):
        if values:
            x = sorted(values)
            y = [values[cost] for cost in x]
            axes.plot(x, y, color=shade, marker=".", markersize=4, linewidth=1.4, label=name)
    axes.set_ylabel(heading)
    axes.set_xlim(left=0)
    if from_zero:
        axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3)


def paint_distributions(axes: Axes, groups: Sequence[Mapping[str, Array]]) -> None:
    """Outlines of histograms, up to the usual maximum.

    Args:
        axes: to draw into.
        groups: values by name, float [n]; a group has a colour, and its members the strokes.
    """
    every = np.concatenate([values for group in groups for values in group.values()])
    limit = usual_maximum(every)
    edges = np.linspace(0, limit, 40)
    for group, shade in zip(groups, _PALETTE, strict=False):
        for (name, values), stroke in zip(group.items(), _STROKES, strict=False):
            counts, _ = np.histogram(values, edges)
            label = _counted(name, values, limit)
            axes.stairs(counts, edges, color=shade, linestyle=stroke, linewidth=1.2, label=label)
    # A few wrong labels far from a thousand right ones would not be seen otherwise.
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.8)
    axes.set_ylabel("samples")
    axes.legend(frameon=False, fontsize=8)


def _counted(name: str, values: Array, limit: float) -> str:
    """A name of the legend, with the number of its values, and of those that lie outside of [0, limit]."""
    beyond = int(((values < 0) | (values > limit)).sum())
    return f"{name} ({len(values):,}; {beyond:,} beyond)" if beyond else f"{name} ({len(values):,})"


def usual_maximum(losses: Array) -> float:
    """What 99.5 % of the losses lie below."""
    return float(np.nanquantile(losses, 0.995))


def paint_trajectories(
    axes: Axes, right: Mapping[int, float], wrong: Mapping[int, float], reference: Mapping[int, float]
) -> None:
    """The mean loss by epoch of right labels, of wrong labels and of the reference; nothing for an empty one."""
    for name, losses, colour, style in (
        ("right label", right, _CLEAN, "-"),
        ("wrong label", wrong, _NOISY, "-"),
        ("clean reference", reference, _REFERENCE, "--"),
    ):
        if losses:
            x = sorted(losses)
            axes.plot(x, [losses[epoch] for epoch in x], style, color=colour, label=name)
    axes.set_ylabel("loss")
    axes.set_ylim(bottom=0)


# -- pictures ----------------------------------------------------------------------------------------------


def lay_out(
    panels: Sequence[Panel], abreast: int, title: str, *, same_scale: bool = False, scale: float = 1.0
) -> Figure:
    """Lay out panels, so many side by side, and paint them; those without an own legend share one, below the title.

    Args:
        panels: in reading order.
        abreast: how many stand side by side, at most.
        title: of the picture.
        same_scale: whether they share the vertical axis.
        scale: of the picture, whose letters keep their size.
    """
    title = title.replace("$", r"\$")  # a text, which may hold the name of a file: nothing in it is mathematics
    abreast = min(abreast, len(panels))
    lines = math.ceil(len(panels) / abreast)
    figure = Figure(figsize=(scale * _WIDTH, 1.4 + scale * _HEIGHT * lines), layout="constrained")
    grid = figure.subplots(lines, abreast, squeeze=False, sharey=same_scale).ravel()
    for axes, panel in zip(grid, panels, strict=False):
        panel.paint(axes)
        axes.set_title(panel.title, fontsize=10)
        axes.set_xlabel(panel.x_title)
    for axes in grid[len(panels) :]:
        axes.remove()
    found = _handles(axes for axes in figure.axes if axes.get_legend() is None)
    names = sorted(found, key=lambda name: _LAST_IN_LEGEND.index(name) if name in _LAST_IN_LEGEND else 0)
    if not names:
        figure.suptitle(title, fontsize=12)
        return figure
    _legend(figure, {name: found[name] for name in names}, title, _abreast(names, scale * LETTERS))
    return figure


def _abreast(names: Sequence[str], letters: float) -> int:
    """How many columns a legend has: the most that fit into so many letters, marks and gaps included."""
    for columns in range(len(names), 1, -1):
        widest = [max(map(len, column)) for column in np.array_split(names, columns)]
        if sum(widest) + 8 * columns <= letters:
            return columns
    return 1


def _legend(figure: Figure, handles: Mapping[str, Any], title: str, columns: int) -> None:
    legend = figure.legend(
        handles.values(),
        handles,
        title=title,
        title_fontsize=12,
        loc="outside upper center",
        ncols=columns,
        frameon=False,
        fontsize=9,
    )
    legend.get_title().set_multialignment("center")


def _handles(every: Iterable[Axes]) -> dict[str, Any]:
    """What a legend of all these axes shows, by name, each once."""
    return {name: handle for axes in every for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}


def _numbers(points: Sequence[Point], what: str) -> NDArray[np.float64]:
    """A field of every point."""
    return np.array([getattr(point, what) for point in points], dtype=np.float64)


def save(figure: Figure, path: Path) -> None:
    """Write a picture, whole or not at all; its suffix says the format: .png, .svg or .pdf."""
    choice("suffix", path.suffix, SUFFIXES)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=150, format=path.suffix.removeprefix("."))
    save_bytes(path, picture.getvalue())

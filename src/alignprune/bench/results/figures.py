"""Pictures: the paper's figures and tables from the store, and what noise does to the losses of single runs.

A panel shows a block. Bars and points are means over seeds with their 95 % intervals, hollow diamonds the paper's
numbers; a cell without runs is left out and named below. No picture changes matplotlib's settings.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from alignprune._checks import choice
from alignprune.bench.grid.cells import Experiment, Protocol
from alignprune.bench.results import tables
from alignprune.bench.results.measures import Measure
from alignprune.bench.results.store import Store
from alignprune.bench.results.suspicion import STATISTICS, History, auroc_by_epoch, load
from alignprune.bench.results.tables import Entry
from alignprune.bench.run import trace
from alignprune.bench.run.diagnosis import mean_losses
from alignprune.errors import ValueMistake

_CLEAN, _NOISY, _REFERENCE = "#2b6cb0", "#c05621", "#1a202c"

# Okabe and Ito's colours, which colour-blind readers tell apart; the rows past their end are hatched.
_PALETTE = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#f0e442", "#999999")
_HATCHES = ("", "////", "....")
_MARKERS = "os^vDXP"
_SHADES, _STROKES = 6, ("-", "--")  # of thin lines: yellow is too pale and grey stands for nothing

_FULL, _PAPER = "full training", "paper"
_LAST_IN_LEGEND = ("", _FULL, _PAPER)
_INTERVAL = "Mean over the seeds with its 95 % t-interval."
_FIRST_SEED = "The first seed of each cell."
_WIDTH, _LETTERS = 10, 130  # of a picture, in inches, and how many letters fit into it
_EPOCHS_SHOWN = 3
_NAMES_SHOWN = 4

_Array = NDArray[Any]


def loss_distribution(losses: Tensor, is_noisy: Tensor, epoch: int, path: Path) -> None:
    """Draw the distribution of one epoch's losses, right and wrong labels apart, and their common mean.

    The mean is InfoBatch's threshold: what lies left of it is pruned.

    Args:
        losses: float [num_samples], NaN where a sample was not seen.
        is_noisy: bool [num_samples].
        epoch: for the title, counted from 1.
        path: the picture to write.

    Source: paper, figure B.
    """
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    _distribution(axes, losses.numpy(), is_noisy.numpy(), _usual_maximum(losses.numpy()))
    axes.set(xlabel="training loss", title=f"Loss of right and wrong labels, epoch {epoch}")
    axes.legend(frameon=False)
    _save(figure, path)


def trajectories(losses: Tensor, reference: Tensor, is_noisy: Tensor, path: Path) -> None:
    """Draw the mean loss trajectory of right and of wrong labels, with the quartiles, and the reference.

    Args:
        losses: float [epochs, num_samples], NaN where a sample was not seen.
        reference: float [epochs], the reference loss after every epoch.
        is_noisy: bool [num_samples].
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
    _save(figure, path)


def suspicion(panels: Mapping[str, Path | History], path: Path) -> None:
    """Draw how well statistics of the losses find wrong labels, epoch by epoch, above the losses of both kinds.

    Where the mean loss of the wrong labels falls to that of the right ones, the network has memorised them.

    Args:
        panels: by title the history of a run, or the trace.npz that it stored.
        path: the picture to write: .png, .svg or .pdf.

    Raises:
        ValueError: without panels, and as `alignprune.bench.results.suspicion.load`.
        FileNotFoundError: where a trace is not there.
    """
    if not panels:
        raise ValueMistake("panels is empty, expected a run at least: give its trace.npz by its title")
    _save(_suspicion_figure(panels), path)


def _suspicion_figure(panels: Mapping[str, Path | History], heading: str = "") -> Figure:
    """A line of plots above a line of plots: the areas under the curves, and the mean losses."""
    histories = {title: load(run) if isinstance(run, Path) else run for title, run in panels.items()}
    abreast = min(len(histories), 3)
    lines = math.ceil(len(histories) / abreast)
    figure = Figure(figsize=(_WIDTH, 1.3 + 4.2 * lines), layout="constrained")
    grid = figure.subplots(2 * lines, abreast, squeeze=False, sharey="row", height_ratios=(3, 1) * lines)
    for place, (title, history) in enumerate(histories.items()):
        line, column = divmod(place, abreast)
        above, below = grid[2 * line : 2 * line + 2, column]
        _paint_auroc(above, auroc_by_epoch(history))
        _paint_mean_losses(below, history)
        above.set_title(textwrap.fill(title, _LETTERS // abreast - 3), fontsize=10)
        above.sharex(below)
        above.tick_params(labelbottom=False)
        if column == 0:
            above.set_ylabel("AUROC for wrong labels")
            below.set_ylabel("mean loss")
    for line in range(lines):
        grid[2 * line + 1, 0].set_ylim(bottom=0)  # only now: it ends the scaling to all panels abreast
    for axes in grid[-2:, (len(histories) - 1) % abreast + 1 :].ravel():
        axes.remove()
    labels = _handles(figure.axes)
    figure.legend(
        labels.values(),
        labels,
        title=heading,
        title_fontsize=12,
        loc="outside upper center",
        ncols=3,
        frameon=False,
        fontsize=9,
    )
    return figure


def _paint_auroc(axes: Axes, found: Mapping[str, _Array]) -> None:
    """A line a statistic, in the colour and the stroke that it has in every picture."""
    axes.axhline(0.5, color=_REFERENCE, linewidth=0.8, linestyle=":", label="chance")
    for place, name in enumerate(STATISTICS):
        if name in found:
            stroke, shade = divmod(place, _SHADES)
            epochs = range(1, len(found[name]) + 1)
            axes.plot(epochs, found[name], _STROKES[stroke], color=_PALETTE[shade], linewidth=1.4, label=name)


def _paint_mean_losses(axes: Axes, history: History) -> None:
    truth = torch.from_numpy(history.is_noisy)
    means = [mean_losses(torch.from_numpy(row), truth) for row in history.losses]
    epochs = range(1, len(means) + 1)
    for name, stroke, losses in zip(("right", "wrong"), ("-", "--"), zip(*means, strict=True), strict=True):
        axes.plot(epochs, losses, stroke, color=_REFERENCE, linewidth=1.2, label=f"mean loss of {name} labels")
    axes.set_xlabel("epoch")


def draw(experiment: Experiment, protocol: Protocol, store: Store, path: Path) -> list[Path]:
    """Draw a figure, or a table as bars.

    Args:
        experiment: what to draw; its `draw` says how.
        protocol: that its runs were made under.
        store: where they are.
        path: the picture to write: .png, .svg or .pdf.

    Returns:
        the pictures written.

    Raises:
        ValueError: for another suffix, where no cell has a run to draw, and for "lines" over columns without numbers.
        FileNotFoundError: for "suspicion" of a run without a trace.
    """
    choice("suffix of path", path.suffix, (".png", ".svg", ".pdf"))
    kind = experiment.draw or "bars"
    choice(f"draw of {experiment.name}", kind, _KINDS)
    shown = tables.entries(experiment, protocol, store)
    picture = _KINDS[kind](experiment, protocol, store, shown)
    if not picture.drawn:
        raise ValueMistake(
            f"{experiment.name} has no run to draw under protocol {protocol.name!r}: "
            f"alignprune sweep {experiment.name} --protocol {protocol.name}"
        )
    figure = picture.lay_out(f"{experiment.title} ({experiment.name}, protocol {protocol.name})")
    caption = _caption(experiment, protocol, picture, shown)
    figure.supxlabel(textwrap.fill(caption, 160), x=0.01, ha="left", fontsize=8)
    _save(figure, path)
    return [path]


@dataclass(frozen=True)
class _Panel:
    title: str
    paint: Callable[[Axes], None]
    label: str  # of the horizontal axis


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
        start = _start([entry for entry in drawn if entry.measure == measure])
        paint = partial(_paint_bars, bars=bars, full=full, rows=_rows(as_bars), start=start, room=_LETTERS // abreast)
        label = experiment.column_title if all(_is_number(entry.cell.column) for entry in bars) else ""
        panels.append(_Panel(_block_title(experiment, block), paint, label))
    one_measure = len({measure for _, measure in blocks}) == 1
    return _Picture(partial(_figure, panels, abreast, same_scale=one_measure), drawn, _INTERVAL)


def _paint_bars(
    axes: Axes, bars: Sequence[Entry], full: Mapping[str, Entry], rows: Sequence[str], start: int, room: int
) -> None:
    columns = list(dict.fromkeys(entry.cell.column for entry in bars))
    here = _rows(bars)
    width = min(0.84 / len(here), 0.28)
    for i, row in enumerate(here):
        own = [entry for entry in bars if entry.cell.row == row]
        x = [columns.index(entry.cell.column) + (i - (len(here) - 1) / 2) * width for entry in own]
        shade, style = rows.index(row) % len(_PALETTE), rows.index(row) // len(_PALETTE) % len(_HATCHES)
        axes.bar(
            x,
            _values(own),
            width,
            yerr=_values(own, "high") - _values(own),
            label=row,
            color=_PALETTE[shade],
            hatch=_HATCHES[style],
            edgecolor="white",
            linewidth=0.4,
            error_kw={"ecolor": _REFERENCE, "elinewidth": 0.9, "capsize": min(3, 15 * width)},
        )
        if any(entry.paper is not None for entry in own):
            axes.plot(
                x, _printed(own), "D", color=_REFERENCE, fillstyle="none", markersize=min(4.0, 40 * width), label=_PAPER
            )
    for i, column in enumerate(columns):
        if column in full:
            level = _values([full[column]] * 2)
            axes.plot([i - 0.46, i + 0.46], level, "--", color=_REFERENCE, linewidth=1.1, label=_FULL)
    letters = max(6, room // len(columns) - 2)
    names = [textwrap.fill(column, letters, break_long_words=False) for column in columns]
    axes.set_xticks(range(len(columns)), names, fontsize=9)
    axes.set_xlim(-0.6, len(columns) - 0.4)
    axes.tick_params(axis="x", length=0)
    axes.set_ylim(bottom=start)
    label = bars[0].measure.label
    axes.set_ylabel(textwrap.fill(f"{label}, axis from {start}" if start else label, 30))


def _start(entries: Sequence[Entry]) -> int:
    """Where the vertical axis starts: at 0, or, where that would hide the differences, below the lowest value."""
    known = np.concatenate([_values(entries), _printed(entries)])
    low, high = float(np.nanmin(known)), float(np.nanmax(known))
    return max(0, math.floor(low - 0.4 * (high - low) - 0.02 * high)) if low < high < 1.5 * low else 0


def _lines(experiment: Experiment, protocol: Protocol, store: Store, shown: Sequence[Entry]) -> _Picture:
    """The columns as numbers on the horizontal axis, a line a row, its interval shaded."""
    for entry in shown:
        if not _is_number(entry.cell.column):
            raise ValueMistake(
                f"{experiment.name}: column {entry.cell.column!r} of row {entry.cell.row!r} is not a number, expected "
                f"one where draw='lines': give numbers, or draw='bars'"
            )
    drawn = [entry for entry in shown if entry.measured.value is not None]
    panels = []
    for (block, _), points in _blocks(drawn).items():
        paint = partial(_paint_lines, points=points, rows=_rows(drawn))
        panels.append(_Panel(_block_title(experiment, block), paint, experiment.column_title))
    return _Picture(partial(_figure, panels, 3), drawn, _INTERVAL)


def _paint_lines(axes: Axes, points: Sequence[Entry], rows: Sequence[str]) -> None:
    for row in _rows(points):
        own = sorted((e for e in points if e.cell.row == row), key=lambda e: float(e.cell.column))
        x = [float(entry.cell.column) for entry in own]
        shade, marker = _PALETTE[rows.index(row) % len(_PALETTE)], _MARKERS[rows.index(row) % len(_MARKERS)]
        axes.fill_between(x, _values(own, "low"), _values(own, "high"), color=shade, alpha=0.2, linewidth=0)
        axes.plot(x, _values(own), color=shade, marker=marker, markersize=5, label=row)
        axes.plot(x, _printed(own), "D--", color=shade, fillstyle="none", markersize=4, linewidth=1)
    if any(entry.paper is not None for entry in points):
        axes.plot([], [], "D--", color=_REFERENCE, fillstyle="none", markersize=4, linewidth=1, label=_PAPER)
    numbers = sorted({float(entry.cell.column) for entry in points})
    if numbers[0] > 0 and numbers[-1] >= 100 * numbers[0]:
        axes.set_xscale("log")
        axes.set_xticks(numbers, [f"{number:g}" for number in numbers])
        axes.minorticks_off()
    axes.set_ylabel(points[0].measure.label)


def _losses(experiment: Experiment, protocol: Protocol, store: Store, shown: Sequence[Entry]) -> _Picture:
    """A line of panels a cell: how the losses of its first seed are distributed, early, midway and late."""
    panels: list[_Panel] = []
    drawn, abreast = [], 1
    folders = _first_seeds(protocol, store, shown)
    for entry in _cells(shown):
        file = folders[entry.cell.key] / "losses.npz" if entry.cell.key in folders else None
        if file is None or not file.exists():
            continue
        with np.load(file) as stored:
            epochs, losses, wrong = stored["epochs"], stored["losses"].astype(np.float32), stored["is_noisy"]
        chosen = _spread(np.flatnonzero(~np.isnan(losses).all(axis=1)), _EPOCHS_SHOWN)
        if not chosen:
            continue
        limit = max(_usual_maximum(losses[k]) for k in chosen)
        for k in chosen:
            paint = partial(_paint_losses, losses=losses[k], wrong=wrong, limit=limit)
            panels.append(_Panel(f"{_name(experiment, entry)}\nepoch {epochs[k]}", paint, "training loss"))
        drawn.append(entry)
        abreast = max(abreast, len(chosen))
    return _Picture(partial(_figure, panels, abreast), drawn, _FIRST_SEED)


def _paint_losses(axes: Axes, losses: _Array, wrong: _Array, limit: float) -> None:
    _distribution(axes, losses, wrong, limit)
    axes.legend(frameon=False, fontsize=8)


def _trajectories(experiment: Experiment, protocol: Protocol, store: Store, shown: Sequence[Entry]) -> _Picture:
    """A panel a cell: the mean loss of right and of wrong labels and of the reference, by epoch."""
    epochs: dict[str, list[dict[str, Any]]] = {}
    for row in store.epochs({entry.cell.key for entry in shown}, protocol.name):
        epochs.setdefault(row["key"], []).append(row)
    drawn = [entry for entry in _cells(shown) if entry.cell.key in epochs]
    panels = []
    for entry in drawn:
        paint = partial(_paint_trajectories, epochs=epochs[entry.cell.key])
        panels.append(_Panel(_name(experiment, entry), paint, "epoch"))
    return _Picture(partial(_figure, panels, 3), drawn, "Mean over the seeds.")


def _paint_trajectories(axes: Axes, epochs: Sequence[Mapping[str, Any]]) -> None:
    for column, label, colour, style in (
        ("clean_loss", "right label", _CLEAN, "-"),
        ("noisy_loss", "wrong label", _NOISY, "-"),
        ("reference_loss", "clean reference", _REFERENCE, "--"),
    ):
        losses: dict[int, list[float]] = {}
        for row in epochs:
            if row[column] is not None:
                losses.setdefault(row["epoch"], []).append(row[column])
        if losses:
            x = sorted(losses)
            axes.plot(x, [float(np.mean(losses[epoch])) for epoch in x], style, color=colour, label=label)
    axes.set_ylabel("loss")
    axes.set_ylim(bottom=0)


def _suspicions(experiment: Experiment, protocol: Protocol, store: Store, shown: Sequence[Entry]) -> _Picture:
    """A panel a cell: how well statistics of the losses of its first seed find wrong labels."""
    folders = _first_seeds(protocol, store, shown)
    drawn = [entry for entry in _cells(shown) if entry.cell.key in folders]
    panels = {_name(experiment, entry): folders[entry.cell.key] / trace.FILE for entry in drawn}
    return _Picture(partial(_suspicion_figure, panels), drawn, _FIRST_SEED)


def _first_seeds(protocol: Protocol, store: Store, shown: Sequence[Entry]) -> dict[str, Path]:
    """By key the folder of the run with the lowest seed, of the cells that have one."""
    folders: dict[str, Path] = {}
    for run in store.runs({entry.cell.key for entry in shown}, protocol.name):
        folders.setdefault(run["key"], Path(run["folder"]))
    return folders


_KINDS: dict[str, Callable[[Experiment, Protocol, Store, Sequence[Entry]], _Picture]] = {
    "bars": _bars,
    "lines": _lines,
    "losses": _losses,
    "trajectories": _trajectories,
    "suspicion": _suspicions,
}


def _figure(panels: Sequence[_Panel], abreast: int, title: str, *, same_scale: bool = False) -> Figure:
    """Lay out panels, so many side by side, and paint them; those without an own legend share one, below the title."""
    abreast = min(abreast, len(panels))
    lines = math.ceil(len(panels) / abreast)
    figure = Figure(figsize=(_WIDTH, 1.4 + 2.9 * lines), layout="constrained")
    grid = figure.subplots(lines, abreast, squeeze=False, sharey=same_scale).ravel()
    for axes, panel in zip(grid, panels, strict=False):
        panel.paint(axes)
        axes.set_title(panel.title, fontsize=10)
        axes.set_xlabel(panel.label)
    for axes in grid[len(panels) :]:
        axes.remove()
    shared = [axes for axes in figure.axes if axes.get_legend() is None]
    labels = _handles(shared)
    names = sorted(labels, key=lambda name: _LAST_IN_LEGEND.index(name) if name in _LAST_IN_LEGEND else 0)
    if not names:
        figure.suptitle(title, fontsize=12)
        return figure
    columns = _LETTERS // (max(map(len, names)) + 8)
    figure.legend(
        [labels[name] for name in names],
        names,
        title=title,
        title_fontsize=12,
        loc="outside upper center",
        ncols=max(1, min(columns, len(names))),
        frameon=False,
        fontsize=9,
    )
    return figure


def _handles(every: Iterable[Axes]) -> dict[str, Any]:
    """What a legend of all these axes shows, by label, each once."""
    return {label: handle for axes in every for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}


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


def _distribution(axes: Axes, losses: _Array, wrong: _Array, limit: float) -> None:
    """Histograms up to a limit; the losses beyond it are counted in the last bin."""
    seen = ~np.isnan(losses)
    bins = np.linspace(0, limit, 60)
    for name, mask, colour in (("right label", seen & ~wrong, _CLEAN), ("wrong label", seen & wrong, _NOISY)):
        values = np.clip(losses[mask], 0, bins[-1])
        axes.hist(values, bins.tolist(), alpha=0.6, color=colour, label=f"{name} ({mask.sum():,})")
    axes.axvline(losses[seen].mean(), color=_REFERENCE, linestyle="--", label="mean loss")
    axes.set_ylabel("samples")


def _usual_maximum(losses: _Array) -> float:
    """What 99.5 % of the losses lie below."""
    return float(np.nanquantile(losses, 0.995))


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


def _block_title(experiment: Experiment, block: str) -> str:
    return f"{experiment.block_title} {block}" if block else ""


def _name(experiment: Experiment, entry: Entry) -> str:
    name = ", ".join(text for text in (entry.cell.row, entry.cell.column) if text)
    return f"{name} ({_block_title(experiment, entry.cell.block)})" if entry.cell.block else name


def _values(entries: Sequence[Entry], what: str = "value") -> _Array:
    """The measured values, or an end of their intervals; NaN where there is none."""
    return np.array([getattr(entry.measured, what) for entry in entries], dtype=np.float64)


def _printed(entries: Sequence[Entry]) -> _Array:
    """The paper's numbers, NaN where there are none."""
    return np.array([entry.paper for entry in entries], dtype=np.float64)


def _spread(items: _Array, count: int) -> list[int]:
    """At most so many of the items, evenly spaced, the first and the last among them."""
    return [int(items[i]) for i in sorted(set(np.linspace(0, len(items) - 1, count).round().astype(int).tolist()))]


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _save(figure: Figure, path: Path) -> None:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)

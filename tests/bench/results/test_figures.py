"""Pictures show what the runs say: heights, intervals, axes and captions, read off the figure before it is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import scipy.stats
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from alignprune.bench.files import save_arrays
from alignprune.bench.grid.cells import Cell, Experiment, Protocol
from alignprune.bench.grid.experiments import EXPERIMENTS, PROTOCOLS, cells_of
from alignprune.bench.results import charts, figures
from alignprune.bench.results.store import Store, archive
from alignprune.bench.run import diagnosis
from runs import complete_run

CPU = Protocol("cpu", "a small network", {})
PAPER = Protocol("paper", "the paper's own", {})
NOISES = ("clean", "real")
METHODS = ("Full-training", "InfoBatch", "SeTa")


def grid(
    blocks: Sequence[str] = ("30", "50"), rows: Sequence[str] = METHODS, columns: Sequence[str] = NOISES
) -> list[Cell]:
    return [
        Cell(block, row, column, {"method": "full" if row == METHODS[0] else row, "at": f"{block} {column}"}, 60.0)
        for block in blocks
        for row in rows
        for column in columns
    ]


def experiment(cells: Sequence[Cell], draw: str | None = None) -> Experiment:
    return Experiment("figure-9", "Made up", lambda protocol: tuple(cells), draw, column_title="window")


def write_run(
    root: Path,
    cell: Cell,
    seed: int,
    epochs: Sequence[dict[str, Any]] = (),
    losses: dict[str, Any] | None = None,
    protocol: Protocol = CPU,
    **result: Any,
) -> None:
    folder = root / protocol.name / f"made-{cell.key}" / f"seed{seed}"
    place = {"key": cell.key, "protocol": protocol.name, "cell": folder.parent.name, "seed": seed}
    job = place | {"settings": dict(cell.settings)}
    complete_run(folder, job, {}, result, epochs)
    if losses is not None:
        save_arrays(folder / "losses.npz", diagnosis.KIND, **losses)
    archive(folder)


@pytest.fixture
def draw(tmp_path: Path) -> Callable[..., Figure]:
    """Draw from the runs under tmp_path."""

    def drawn(cells: Sequence[Cell], kind: str | None = None, protocol: Protocol = CPU) -> Figure:
        return figures.picture(experiment(cells, kind), protocol, Store(tmp_path))

    return drawn


def bars(axes: Axes) -> dict[str, BarContainer]:
    return {str(bar.get_label()): bar for bar in axes.containers if isinstance(bar, BarContainer)}


def heights(bar: BarContainer) -> list[float]:
    return [patch.get_height() for patch in bar.patches]


def lines(axes: Axes) -> dict[str, list[tuple[list[float], list[float]]]]:
    found: dict[str, list[tuple[list[float], list[float]]]] = {}
    for line in axes.lines:
        x, y = (np.asarray(data, dtype=float).tolist() for data in line.get_data())
        found.setdefault(str(line.get_label()), []).append((x, y))
    return found


def caption(figure: Figure) -> str:
    return " ".join(figure.get_supxlabel().split())


def test_bars_are_means_with_t_intervals_and_the_papers_numbers(tmp_path: Path, draw: Callable[..., Figure]) -> None:
    cells = grid()
    values = {cell.key: np.random.default_rng(i).uniform(0.1, 0.8, 3) for i, cell in enumerate(cells)}
    for cell in cells:
        for seed, accuracy in enumerate(values[cell.key]):
            write_run(tmp_path, cell, seed, accuracy=accuracy)
    figure = draw(cells)
    assert [axes.get_title() for axes in figure.axes] == ["prune ratio 30", "prune ratio 50"]
    for axes, block in zip(figure.axes, ("30", "50"), strict=True):
        drawn = bars(axes)
        assert list(drawn) == ["InfoBatch", "SeTa"]
        for row, bar in drawn.items():
            own = [100 * values[cell.key] for cell in cells if (cell.block, cell.row) == (block, row)]
            assert heights(bar) == pytest.approx([float(np.mean(v)) for v in own])
            ends = [scipy.stats.ttest_1samp(v, 0).confidence_interval(0.95) for v in own]
            (segments,) = (np.array(part.get_segments()) for part in bar.errorbar.lines[2])  # type: ignore[union-attr]
            assert segments[:, :, 1] == pytest.approx(np.array([(end.low, end.high) for end in ends]))
        full = [100 * values[cell.key].mean() for cell in cells if (cell.block, cell.row) == (block, METHODS[0])]
        assert np.array([y for _, y in lines(axes)["full training"]]) == pytest.approx(np.array([full, full]).T)
        assert all(y == [60.0, 60.0] for _, y in lines(axes)["paper"])
        assert axes.get_ylim()[0] == 0


def test_a_block_of_full_training_alone_is_the_line_in_the_others(tmp_path: Path, draw: Callable[..., Figure]) -> None:
    cells = [*grid(("0",), METHODS[:1]), *grid(("30",), METHODS[1:])]
    for cell in cells:
        write_run(tmp_path, cell, 0, accuracy=0.9 if cell.block == "0" else 0.2)
    (axes,) = draw(cells).axes
    assert list(bars(axes)) == ["InfoBatch", "SeTa"]
    assert [y for _, y in lines(axes)["full training"]] == [[90.0, 90.0]] * 2


def test_full_training_alone_is_drawn_as_bars(tmp_path: Path, draw: Callable[..., Figure]) -> None:
    cells = grid(("",), METHODS[:1])
    for cell in cells:
        write_run(tmp_path, cell, 0, accuracy=0.2)
    (axes,) = draw(cells).axes
    assert heights(bars(axes)["Full-training"]) == [20.0, 20.0]


def test_missing_cells_are_left_out_and_named(tmp_path: Path, draw: Callable[..., Figure]) -> None:
    cells = grid(("30",))
    for cell in cells:
        if (cell.row, cell.column) != ("SeTa", "real"):
            write_run(tmp_path, cell, 0, accuracy=0.5)
    figure = draw(cells)
    assert len(heights(bars(figure.axes[0])["SeTa"])) == 1
    assert "Left out, without runs or without such a value: SeTa, real (prune ratio 30)." in caption(figure)


def test_another_protocol_than_the_papers_is_said(tmp_path: Path, draw: Callable[..., Figure]) -> None:
    (cell,) = grid(("30",), ("SeTa",), ("real",))
    for protocol in (CPU, PAPER):
        write_run(tmp_path, cell, 0, protocol=protocol, accuracy=0.5)
    assert "another protocol than 'cpu' (a small network)" in caption(draw([cell]))
    assert "another protocol" not in caption(draw([cell], protocol=PAPER))


def test_costs_are_the_share_of_forward_passes_that_the_runs_and_their_proxies_took(
    tmp_path: Path, draw: Callable[..., Figure]
) -> None:
    cells = [replace(cell, settings={**cell.settings, "noise": cell.column}) for cell in grid(("",))]
    passes = {"Full-training": (1_000, 0), "InfoBatch": (700, 0), "SeTa": (400, 1_000)}  # own, of the proxy
    for cell in cells:
        own, proxy = passes[cell.row]
        for seed, accuracy in enumerate((0.2, 0.4)):
            made = {"forward_passes": own, "forward_fraction": own / 1_000, "proxy_forward_passes": proxy}
            write_run(tmp_path, cell, seed, accuracy=accuracy, **made)
    figure = draw(cells, "costs")
    assert [axes.get_title() for axes in figure.axes] == ["clean labels", "people's labels"]
    half = 100 * float(scipy.stats.sem([0.2, 0.4]) * scipy.stats.t.ppf(0.975, 1))
    for axes in figure.axes:
        for mark, (own, proxy) in zip(axes.containers, passes.values(), strict=True):
            point, _, (bar,) = mark.lines  # type: ignore[attr-defined]
            assert [float(value[0]) for value in point.get_data()] == pytest.approx([(own + proxy) / 10, 30.0])
            assert bar.get_segments()[0][:, 1] == pytest.approx([30 - half, 30 + half])
        assert axes.get_xlim()[1] > 140


def write_costs(root: Path, cells: Sequence[Cell], protocol: Protocol = CPU) -> None:
    """A run a cell, which says what it took."""
    for cell in cells:
        taken = {"forward_passes": 500, "forward_fraction": 0.5, "proxy_forward_passes": 0}
        write_run(root, cell, 0, protocol=protocol, accuracy=0.5, **taken)


def test_a_panel_of_costs_says_its_labels_in_words_and_its_block_where_there_are_several(
    tmp_path: Path, draw: Callable[..., Figure]
) -> None:
    noises = {
        "clean labels": {"noise": "clean"},
        "5 % wrong": {"noise": "symmetric", "noise_rate": 0.05},
        "pairflip 20 %": {"noise": "pairflip", "noise_rate": 0.2},
        "people's labels": {"noise": "real"},
        "worse": {"noise": "worse"},
    }
    names = [name if name == "worse" else f"column {i}" for i, name in enumerate(noises)]
    first, second = (
        [
            Cell(block, "SeTa", column, {"method": "seta", "at": block, **noise})
            for column, noise in zip(names, noises.values(), strict=True)
        ]
        for block in ("photos", "texts")
    )
    write_costs(tmp_path, first + second)
    alone, both = draw(first, "costs"), draw(first + second, "costs")
    assert [axes.get_title() for axes in alone.axes] == list(noises)
    assert [axes.get_title() for axes in both.axes] == [
        f"{block}\n{name}" for block in ("photos", "texts") for name in noises
    ]
    titles = [figure.legends[0].get_title().get_text() for figure in (alone, both)]
    assert titles == ["Made up (figure-9, protocol cpu)\nphotos", "Made up (figure-9, protocol cpu)"]


def test_the_legend_of_the_evidence_takes_two_lines_inside_the_picture(tmp_path: Path) -> None:
    shown, protocol = EXPERIMENTS["evidence-costs"], PROTOCOLS["pretrained"]
    cells = [cell for cell in cells_of(shown, protocol) if cell.column == "real"]
    write_costs(tmp_path, cells, protocol)
    figure = figures.picture(shown, protocol, Store(tmp_path))
    figure.draw_without_rendering()
    (legend,) = figure.legends
    texts = legend.get_texts()
    assert len(texts) == len(cells) == 6
    assert len({round(text.get_transform().transform((0, 0))[1]) for text in texts}) == 2
    assert legend.get_window_extent().width < figure.bbox.width


def test_a_picture_without_any_run_is_refused_with_the_command(draw: Callable[..., Figure]) -> None:
    with pytest.raises(ValueError, match="no run to draw .*alignprune sweep figure-9 --protocol cpu"):
        draw(grid())


def test_an_axis_that_does_not_start_at_zero_says_so(tmp_path: Path, draw: Callable[..., Figure]) -> None:
    cells = grid()
    for cell in cells:
        write_run(tmp_path, cell, 0, accuracy=0.58 if cell.row == "SeTa" else 0.60)
    figure = draw(cells)
    for axes in figure.axes:
        start = axes.get_ylim()[0]
        assert 50 < start < 58
        assert " ".join(axes.get_ylabel().split()) == f"accuracy [%], axis from {start:g}"


def test_many_rows_are_all_told_apart(tmp_path: Path, draw: Callable[..., Figure]) -> None:
    cells = grid(("30",), [f"method {i}" for i in range(17)])
    for cell in cells:
        write_run(tmp_path, cell, 0, accuracy=0.5)
    (axes,) = draw(cells).axes
    looks = {(bar.patches[0].get_facecolor(), bar.patches[0].get_hatch()) for bar in bars(axes).values()}
    assert len(looks) == 17


def test_measures_of_one_table_get_their_own_panels(tmp_path: Path, draw: Callable[..., Figure]) -> None:
    same = {"method": "SeTa"}
    cells = [Cell("", "SeTa", "accuracy", same), Cell("", "SeTa", "time", same, 25.8, "minutes")]
    write_run(tmp_path, cells[0], 0, accuracy=0.2, train_seconds=1200.0)
    first, second = draw(cells).axes
    assert heights(bars(first)["SeTa"]) == pytest.approx([20.0])
    assert heights(bars(second)["SeTa"]) == pytest.approx([20.0])
    assert first.get_ylabel() == "accuracy [%]"
    assert second.get_ylabel().startswith("training time [min]")


def test_lines_run_over_the_columns_as_numbers(tmp_path: Path, draw: Callable[..., Figure]) -> None:
    cells = grid(("",), ("real",), ("25", "5", "10"))
    values = {"5": (0.5, 0.52), "10": (0.6, 0.61), "25": (0.7,)}
    for cell in cells:
        for seed, accuracy in enumerate(values[cell.column]):
            write_run(tmp_path, cell, seed, accuracy=accuracy)
    (axes,) = draw(cells, "lines").axes
    ((x, y),) = lines(axes)["real"]
    assert x == [5, 10, 25]
    assert y == pytest.approx([51, 60.5, 70])
    assert axes.get_xscale() == "linear"
    assert axes.get_xlabel() == "window"
    band = axes.collections[0].get_paths()[0].vertices
    interval = scipy.stats.ttest_1samp([50, 52], 0).confidence_interval(0.95)
    at_five = band[band[:, 0] == 5][:, 1]
    assert (at_five.min(), at_five.max()) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert 25 not in band[:, 0]  # one seed gives no interval


def test_lines_over_two_decades_get_a_logarithmic_axis(tmp_path: Path, draw: Callable[..., Figure]) -> None:
    cells = grid(("",), ("real",), ("10", "100", "10000"))
    for cell in cells:
        write_run(tmp_path, cell, 0, accuracy=0.5)
    (axes,) = draw(cells, "lines").axes
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["10", "100", "10000"]


def test_lines_over_words_are_refused(draw: Callable[..., Figure]) -> None:
    with pytest.raises(ValueError, match="column='clean' is no number in row 'Full-training'"):
        draw(grid(), "lines")


def test_losses_are_those_of_the_first_seed_right_and_wrong_apart(tmp_path: Path, draw: Callable[..., Figure]) -> None:
    cells = grid(("",), ("Full-training",), ("real", "clean"))
    generator = np.random.default_rng(0)
    for seed, wrong in ((4, 30), (2, 40)):
        losses = generator.uniform(0, 3, (5, 100)).astype(np.float16)
        losses[2] = np.nan
        losses[4, :10] = np.nan  # right labels that were pruned
        is_noisy = np.arange(100) >= 100 - wrong
        truth = {"epochs": np.array([1, 2, 3, 4, 9]), "losses": losses, "is_noisy": is_noisy}
        write_run(tmp_path, cells[0], seed, losses=truth)
    write_run(tmp_path, cells[1], 0)
    figure = draw(cells, "losses")
    assert [axes.get_title().splitlines()[-1] for axes in figure.axes] == ["epoch 1", "epoch 4", "epoch 9"]
    chosen = losses[[0, 3, 4]].astype(np.float32)
    limit = max(np.nanquantile(row, 0.995) for row in chosen)
    for axes, row in zip(figure.axes, chosen, strict=True):
        expected = {}
        for kind, mask in (("right", ~is_noisy), ("wrong", is_noisy)):
            values = row[mask & ~np.isnan(row)]
            beyond = (values > limit).sum()
            more = f"; {beyond} beyond" if beyond else ""
            expected[f"{kind} label ({len(values)}{more})"] = len(values) - beyond
        assert axes.get_legend_handles_labels()[1] == [*expected, "mean loss"]
        assert [sum(heights(bar)) for bar in axes.containers] == list(expected.values())
    assert "Full-training, clean." in caption(figure)


def test_trajectories_are_means_over_the_seeds(tmp_path: Path, draw: Callable[..., Figure]) -> None:
    cells = grid(("",), ("Full-training", "SeTa"), ("real",))
    for seed in range(2):
        rows = [
            {"epoch": epoch, "clean_loss": 3.0 / epoch + seed, "noisy_loss": 4.0, "reference_loss": None}
            for epoch in (1, 2, 3)
        ]
        write_run(tmp_path, cells[0], seed, epochs=rows)
    figure = draw(cells, "trajectories")
    (axes,) = figure.axes
    drawn = lines(axes)
    assert drawn["right label"] == [([1, 2, 3], pytest.approx([3.5, 2.0, 1.5]))]
    assert drawn["wrong label"] == [([1, 2, 3], [4.0, 4.0, 4.0])]
    assert "clean reference" not in drawn
    assert "SeTa, real." in caption(figure)


@pytest.mark.parametrize("suffix, start", [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_the_suffix_says_the_format(tmp_path: Path, suffix: str, start: bytes) -> None:
    (cell,) = grid(("",), ("SeTa",), ("real",))
    write_run(tmp_path, cell, 0, accuracy=0.5)
    settings = dict(matplotlib.rcParams)
    path = tmp_path / "new folder" / f"picture{suffix}"
    charts.save(figures.picture(experiment([cell]), CPU, Store(tmp_path)), path)
    assert path.read_bytes().startswith(start)
    assert dict(matplotlib.rcParams) == settings
    if suffix == ".png":
        assert int.from_bytes(path.read_bytes()[16:20], "big") >= 1200  # pixels wide


def test_other_formats_and_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="suffix='.gif' is unknown"):
        charts.save(Figure(), tmp_path / "picture.gif")
    with pytest.raises(ValueError, match="draw='pie' is unknown, expected one of bars, lines"):
        figures.picture(experiment(grid(), "pie"), CPU, Store(tmp_path))


def test_full_training_is_the_line_and_its_stopped_run_and_the_oracle_are_bars(
    tmp_path: Path, draw: Callable[..., Figure]
) -> None:
    half = {"method": "full", "prune_ratio": 0.5, "budget": "equal"}
    cells = [
        Cell("", "Full-training", "real", {"method": "full"}),
        Cell("", "Full-training, stopped", "real", half),
        Cell("", "Oracle", "real", {**half, "oracle": True}),
    ]
    for cell, accuracy in zip(cells, (0.5, 0.4, 0.7), strict=True):
        write_run(tmp_path, cell, 0, accuracy=accuracy)
    (axes,) = draw(cells).axes
    assert {row: heights(bar) for row, bar in bars(axes).items()} == {
        "Full-training, stopped": [40.0],
        "Oracle": [70.0],
    }
    assert [y for _, y in lines(axes)["full training"]] == [[50.0, 50.0]]

"""Tables say what the runs say: against scipy, against arithmetic by hand, and beside the paper's numbers."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from alignprune._ranks import DRAWS
from alignprune.bench import paper
from alignprune.bench.grid import experiments
from alignprune.bench.grid.cells import Cell, Experiment, Protocol
from alignprune.bench.results import tables
from alignprune.bench.results.measures import MEASURES, Statistics, statistics
from alignprune.bench.results.store import Store, archive
from alignprune.bench.results.tables import entries, render
from runs import complete_run

CPU = Protocol("cpu", "a small network", {})
PAPER = Protocol("paper", "the paper's own", {})
NOISES = ("clean", "real")


def settings(row: str, column: str, block: str = "") -> dict[str, str]:
    return {"method": "full" if row.startswith("Full") else row, "noise": column, "block": block}


def experiment(cells: Sequence[Cell], name: str = "table-1") -> Experiment:
    return Experiment(name, "CIFAR-100N", lambda protocol: tuple(cells))


def write_run(root: Path, protocol: Protocol, cell: Cell, seed: int, **result: Any) -> None:
    folder = root / protocol.name / f"made-{cell.key}" / f"seed{seed}"
    place = {"key": cell.key, "protocol": protocol.name, "cell": folder.parent.name, "seed": seed}
    job = place | {"settings": dict(cell.settings)}
    result = {"versions": {"draws": DRAWS}, **result}
    archive(complete_run(folder, job, {}, result))


def table_1(columns: Sequence[str] = NOISES) -> list[Cell]:
    """Some of the paper's table 1."""
    rows = [("0", "Full-training"), ("30", "InfoBatch"), ("30", "InfoBatch + Ours")]
    return [
        Cell(
            block, row, noise, settings(row, noise, block), paper.find("1", prune_ratio=block, method=row, noise=noise)
        )
        for block, row in rows
        for noise in columns
    ]


@pytest.fixture
def filled(tmp_path: Path) -> Callable[..., Store]:
    """Make a store in which every cell has runs of these accuracies."""

    def fill(accuracies: dict[tuple[str, str], Sequence[float]], cells: Sequence[Cell], **result: Any) -> Store:
        for cell in cells:
            for seed, accuracy in enumerate(accuracies.get((cell.row, cell.column), ())):
                write_run(tmp_path, CPU, cell, seed, accuracy=accuracy, **result)
        return Store(tmp_path)

    return fill


def lines_of(text: str, word: str) -> list[str]:
    return [line for line in text.splitlines() if word in line]


@pytest.mark.parametrize("n", [2, 3, 10])
def test_statistics_are_scipys_mean_and_t_interval(n: int) -> None:
    values = np.random.default_rng(n).normal(70, 2, n)
    interval = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = statistics(values.tolist())
    assert (found.n, found.value) == (n, pytest.approx(scipy.stats.tmean(values)))
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_one_seed_has_a_mean_and_no_interval_and_no_seed_nothing() -> None:
    assert statistics([71.5]) == Statistics(1, 71.5, None, None)
    assert statistics([]) == Statistics(0, None, None, None)


def test_statistics_are_shown_with_half_of_the_interval_where_there_is_one() -> None:
    assert f"{Statistics(3, 89.25, 86.5, 92.0):.1f}" == "89.2 ± 2.8"
    assert [f"{statistics(values):.0f}" for values in ([71.5], [])] == ["72", "-"]


def test_the_spread_is_the_sample_standard_deviation() -> None:
    values = [70.0, 71.0, 74.0]
    assert statistics(values, spread=True).value == pytest.approx(scipy.stats.tstd(values))
    assert statistics([70.0], spread=True).value is None


def test_a_cell_shows_mean_interval_paper_and_difference(filled: Callable[..., Store]) -> None:
    cells = table_1()
    store = filled({("InfoBatch + Ours", "real"): (0.60, 0.62, 0.64)}, cells)
    half = scipy.stats.t.ppf(0.975, 2) * 2 / math.sqrt(3)
    (row,) = lines_of(render(experiment(cells), CPU, store, "markdown"), "InfoBatch + Ours")
    assert f"| 62.0 ± {half:.1f}<br>59.4 (+2.6) |" in row  # the paper prints 59.4
    text = render(experiment(cells), CPU, store)
    (first,) = lines_of(text, "InfoBatch + Ours")
    assert f"62.0 ± {half:.1f}" in first
    assert "59.4 (+2.6)" in text.splitlines()[text.splitlines().index(first) + 1]


@pytest.mark.parametrize("versions", [{"draws": 1}, {"torch": "2.6.0"}], ids=["older", "before they were counted"])
def test_runs_of_older_draws_are_marked(filled: Callable[..., Store], versions: dict[str, Any]) -> None:
    cells = table_1()
    store = filled({("InfoBatch", "real"): (0.60, 0.62)}, cells, versions=versions)
    write_run(store.root, CPU, next(c for c in cells if (c.row, c.column) == ("InfoBatch", "clean")), 0, accuracy=0.7)
    assert f"2 of 3 runs were made with older draws than today's (version {DRAWS})" in " ".join(
        render(experiment(cells), CPU, store).split()
    )


def test_runs_of_todays_draws_need_no_mark(filled: Callable[..., Store]) -> None:
    cells = table_1()
    assert "draws" not in render(experiment(cells), CPU, filled({("InfoBatch", "real"): (0.60,)}, cells))


def test_mean_delta_is_the_mean_difference_to_full_training_beside_the_papers(filled: Callable[..., Store]) -> None:
    cells = table_1(tuple(experiments.NOISES["cifar100n"]))
    accuracies = {("Full-training", cell.column): (0.50, 0.52) for cell in cells}
    accuracies |= {("InfoBatch", cell.column): (0.51, 0.51) for cell in cells}
    accuracies |= {("InfoBatch", "clean"): (0.70, 0.74), ("InfoBatch + Ours", "clean"): (0.75, 0.75)}
    store = filled(accuracies, cells)
    text = render(experiment(cells), CPU, store, "markdown")
    (header,), (full,) = lines_of(text, "mean Δ"), lines_of(text, "Full-training")
    assert header.endswith("| asym_0.4 | mean Δ |")
    assert full.endswith("|  |")
    (plain,) = lines_of(text, "| InfoBatch |")
    assert plain.endswith("| +3.0<br>+0.6 (+2.4) |")  # (72 - 51) / 7 columns; the paper prints +0.6
    (ours,) = lines_of(text, "| InfoBatch + Ours |")
    assert ours.endswith("| -<br>+2.7 |")  # columns are missing: no mean, the paper's stays
    part = [cell for cell in cells if cell.column in ("clean", "real")]
    (plain,) = lines_of(render(experiment(part), CPU, store, "markdown"), "| InfoBatch |")
    assert plain.endswith("| +10.5 |")  # of two columns, which the paper has no mean of


def test_differences_to_a_row_are_taken_seed_by_seed(tmp_path: Path) -> None:
    cells = table_1()
    accuracy = {
        "Full-training": {0: 0.50, 1: 0.60, 2: 0.70},
        "InfoBatch": {0: 0.51, 1: 0.62, 2: 0.73, 3: 0.10},  # the last seed has nothing to be compared with
        "InfoBatch + Ours": {1: 0.55},
    }
    for cell in cells:
        for seed, value in accuracy[cell.row].items():
            write_run(tmp_path, CPU, cell, seed, accuracy=value)
    shown = entries(experiment(cells), CPU, Store(tmp_path), against="Full-training")
    assert {entry.cell.row for entry in shown} == {"InfoBatch", "InfoBatch + Ours"}
    found = {(entry.cell.row, entry.cell.column): entry for entry in shown}
    plain = found["InfoBatch", "clean"]
    interval = scipy.stats.ttest_rel([51, 62, 73], [50, 60, 70]).confidence_interval(0.95)
    assert plain.measured.n == 3
    assert plain.measured.value == pytest.approx(2.0)
    assert (plain.measured.low, plain.measured.high) == pytest.approx((interval.low, interval.high))
    assert plain.paper == pytest.approx(79.0 - 78.2)
    single = found["InfoBatch + Ours", "real"].measured
    assert (single.n, single.value, single.high) == (1, pytest.approx(-5.0), None)
    text = render(experiment(cells), CPU, Store(tmp_path), "markdown", against="Full-training")
    assert "+2.00 ± 2.48" in text
    assert "accuracy minus that of Full-training [points]" in text


def test_a_row_to_compare_with_that_is_not_there_is_refused(filled: Callable[..., Store]) -> None:
    cells = table_1()
    with pytest.raises(ValueError, match="did you mean 'InfoBatch'"):
        entries(experiment(cells), CPU, filled({}, cells), against="InfoBach")
    with pytest.raises(ValueError, match="no value for a single seed"):
        entries(experiment(cells), CPU, filled({}, cells), ["accuracy_std"], against="InfoBatch")


ORACLE = "Oracle"


def table_with_an_oracle() -> list[Cell]:
    """Full training in a block of its own; the oracle lacks the column "real"."""
    places = [("0", "Full-training", noise) for noise in NOISES]
    places += [("30", row, noise) for row in ("InfoBatch", "SeTa") for noise in NOISES]
    places += [("30", ORACLE, "clean")]
    return [Cell(block, row, noise, settings(row, noise, block)) for block, row, noise in places]


def fill_by_seed(root: Path, cells: Sequence[Cell], accuracy: dict[str, dict[int, float | None]]) -> Store:
    for cell in cells:
        for seed, value in accuracy.get(cell.row, {}).items():
            write_run(root, CPU, cell, seed, accuracy=value)
    return Store(root)


def fiellers_ends(own: Sequence[float], low: Sequence[float], high: Sequence[float]) -> list[float]:
    """The ratios at which scipy's paired test of x - a = ratio (b - a) just reaches 5 %, searched for."""

    def excess(ratio: float) -> float:
        line = [a + ratio * (b - a) for a, b in zip(low, high, strict=True)]
        return float(scipy.stats.ttest_rel(own, line).pvalue) - 0.05

    ratio = (np.mean(own) - np.mean(low)) / (np.mean(high) - np.mean(low))
    return [100 * float(scipy.optimize.brentq(excess, ratio, ratio + side)) for side in (-20, 20)]


def test_the_gap_closed_is_the_ratio_of_mean_differences_with_fiellers_interval(tmp_path: Path) -> None:
    cells = table_with_an_oracle()
    low, own, high = [0.50, 0.53, 0.49, 0.51], [0.57, 0.58, 0.55, 0.60], [0.61, 0.63, 0.58, 0.62]
    accuracy: dict[str, dict[int, float | None]] = {
        "Full-training": {**dict(enumerate(low)), 7: 0.9, 9: 0.9},
        "InfoBatch": {**dict(enumerate(own)), 7: 0.1, 8: 0.1, 9: 0.1},
        ORACLE: {**dict(enumerate(high)), 8: 0.9, 9: None},
    }
    store = fill_by_seed(tmp_path, cells, accuracy)
    shown = entries(experiment(cells), CPU, store, between=("Full-training", ORACLE))
    assert [entry.place for entry in shown] == [("30", "InfoBatch", "clean"), ("30", "SeTa", "clean")]
    found = shown[0].measured
    assert found.n == 4  # the seeds that all three have
    assert found.value == pytest.approx(100 * (sum(own) - sum(low)) / (sum(high) - sum(low)))
    assert [found.low, found.high] == pytest.approx(fiellers_ends(own, low, high))
    backwards = entries(experiment(cells), CPU, store, between=(ORACLE, "Full-training"))[0].measured
    assert found.low is not None
    assert found.high is not None
    assert (backwards.low, backwards.high) == pytest.approx((100 - found.high, 100 - found.low))


def test_the_gap_closed_is_shown_with_both_ends_and_says_what_is_left_out(tmp_path: Path) -> None:
    cells = table_with_an_oracle()
    accuracy: dict[str, dict[int, float | None]] = {
        "Full-training": {0: 0.50, 1: 0.50, 2: 0.50},
        "InfoBatch": {0: 0.53, 1: 0.55, 2: 0.57},
        "SeTa": {0: 0.60, 1: 0.60, 2: 0.60},
        ORACLE: {0: 0.60, 1: 0.60, 2: 0.60},
    }
    store = fill_by_seed(tmp_path, cells, accuracy)
    text = render(experiment(cells), CPU, store, "markdown", between=("Full-training", ORACLE))
    half = 10 * scipy.stats.t.ppf(0.975, 2) * 2 / math.sqrt(3)  # a gap of exactly 10 points: the t-interval
    assert f"| 50.0 [{50 - half:.1f}, {50 + half:.1f}] |" in text
    assert "| 100.0 [100.0, 100.0] |" in text
    assert "accuracy, gap closed from Full-training to Oracle [%]: ratio of the mean differences" in text
    assert "Left out, without the rows to compare with: real." in text
    assert "±" not in text
    beside_full = render(experiment(cells), CPU, store, between=("InfoBatch", ORACLE))
    assert all("mean Δ" not in shown for shown in (text, beside_full))  # shares of gaps are no accuracies


def test_a_comparison_takes_the_rows_of_the_same_block_where_it_has_them(tmp_path: Path) -> None:
    accuracies = {"30": {"InfoBatch": 0.6, "SeTa": 0.7}, "50": {"InfoBatch": 0.5, "SeTa": 0.8}, "70": {"SeTa": 0.9}}
    cells = [Cell(b, row, "real", settings(row, "real", b)) for b, rows in accuracies.items() for row in rows]
    for cell in cells:
        write_run(tmp_path, CPU, cell, 0, accuracy=accuracies[cell.block][cell.row])
    shown = entries(experiment(cells), CPU, Store(tmp_path), against="InfoBatch")
    assert [entry.measured.value for entry in shown] == pytest.approx([10, 30, 30])  # 70 has none: the first block's


def test_a_gap_that_may_be_none_gives_no_interval_and_says_why(tmp_path: Path) -> None:
    cells = table_with_an_oracle()
    accuracy: dict[str, dict[int, float | None]] = {
        "Full-training": {0: 0.50, 1: 0.50},
        "InfoBatch": {0: 0.51, 1: 0.52},
        "SeTa": {0: 0.52},
        ORACLE: {0: 0.49, 1: 0.55},
    }
    store = fill_by_seed(tmp_path, cells, accuracy)
    between = ("Full-training", ORACLE)
    found, single = (entry.measured for entry in entries(experiment(cells), CPU, store, between=between))
    assert (found.n, found.value, found.low, found.high) == (2, pytest.approx(75.0), None, None)
    assert (single.n, single.value, single.low) == (1, pytest.approx(-200.0), None)
    text = render(experiment(cells), CPU, store, between=between)
    assert "No interval where that of the gap itself contains 0" in text
    assert "-200.0 (n=1)" in text


def test_rows_that_do_not_differ_have_no_gap_to_close(tmp_path: Path) -> None:
    cells = table_with_an_oracle()
    same: dict[int, float | None] = {0: 0.5, 1: 0.6}
    store = fill_by_seed(tmp_path, cells, dict.fromkeys(("Full-training", "InfoBatch", "SeTa", ORACLE), same))
    text = render(experiment(cells), CPU, store, "markdown", between=("Full-training", ORACLE))
    assert "| InfoBatch | n/a |" in text
    assert "or there is no gap" in text


def test_comparisons_that_cannot_be_made_are_refused(filled: Callable[..., Store]) -> None:
    cells = table_with_an_oracle()
    store = filled({}, cells)

    def compare(measures: Sequence[str] = (), cells: Sequence[Cell] = cells, **options: Any) -> list[tables.Entry]:
        return entries(experiment(cells), CPU, store, measures, **options)

    with pytest.raises(ValueError, match="against='SeTa' and between=.* are both given"):
        compare(against="SeTa", between=("Full-training", ORACLE))
    with pytest.raises(ValueError, match="between='Orakle' is unknown, .* did you mean 'Oracle'"):
        compare(between=("Full-training", "Orakle"))
    with pytest.raises(ValueError, match="names one row twice"):
        compare(between=(ORACLE, ORACLE))
    with pytest.raises(ValueError, match="accuracy_std, which has no value for a single seed"):
        compare(["accuracy_std"], between=("Full-training", ORACLE))
    apart = [Cell("", row, column, settings(row, column)) for row, column in (("InfoBatch", "real"), (ORACLE, "clean"))]
    with pytest.raises(ValueError, match="no column of table-1 has Oracle and a further row"):
        compare(cells=apart, against=ORACLE)


def test_blocks_with_their_own_full_training_are_compared_with_it(filled: Callable[..., Store]) -> None:
    cells = [
        Cell(noise, row, model, settings(row, model, noise))
        for noise in NOISES
        for row in ("Full-training", "InfoBatch")
        for model in ("ConvNeXt-Tiny", "Swin-Base")
    ]
    accuracies = {"clean": {"Full-training": 0.7, "InfoBatch": 0.6}, "real": {"Full-training": 0.3, "InfoBatch": 0.5}}
    root = filled({}, cells).root
    for cell in cells:
        write_run(root, CPU, cell, 0, accuracy=accuracies[cell.block][cell.row])
    text = render(experiment(cells, "table-9"), CPU, Store(root), "markdown")
    assert [line.split("|")[-2].strip() for line in lines_of(text, "| InfoBatch |")] == ["-10.0", "+20.0"]


def beyond() -> list[Cell]:
    """Full training, the same stopped, and the oracle: all of method full, and only the first the baseline."""
    full = {"method": "full", "noise": "real"}
    half = {"prune_ratio": 0.5, "budget": "equal"}
    return [
        Cell("", "Full-training", "real", full),
        Cell("", "Full-training, stopped", "real", {**full, **half}),
        Cell("", "InfoBatch", "real", {**full, **half, "method": "infobatch"}),
        Cell("", ORACLE, "real", {**full, **half, "oracle": True}),
        Cell("", "Oracle, whole", "real", {**full, "oracle": True}),
        Cell("", "GCE", "real", {**full, "loss": "gce"}),
    ]


def test_neither_a_stopped_full_training_nor_the_oracle_is_the_baseline(filled: Callable[..., Store]) -> None:
    cells = beyond()
    assert [e.is_full_training for e in entries(experiment(cells), CPU, filled({}, cells))] == [True] + 5 * [False]
    values = (0.50, 0.45, 0.55, 0.70, 0.75, 0.50)
    store = filled({(cell.row, cell.column): (value,) for cell, value in zip(cells, values, strict=True)}, cells)
    lines = lines_of(render(experiment(cells, "beyond"), CPU, store, "markdown"), " | ")[2:]
    assert [line.split("|")[-2].strip() for line in lines] == ["", "-5.0", "+5.0", "+20.0", "+25.0", "+0.0"]


def test_the_estimated_noise_rate_is_shown_in_percent_where_there_is_one(tmp_path: Path) -> None:
    cells = beyond()[:3]
    for cell, rates in zip(cells, ((None, None), (None, None), (0.41, 0.43)), strict=True):
        for seed, rate in enumerate(rates):
            write_run(tmp_path, CPU, cell, seed, accuracy=0.5, estimated_noise_rate=rate)
    text = render(experiment(cells), CPU, Store(tmp_path), "markdown", measures=("estimated_noise_rate",))
    half = scipy.stats.t.ppf(0.975, 1) * 1  # of 41 % and 43 %
    assert lines_of(text, "| InfoBatch |") == [f"| InfoBatch | 42.0 ± {half:.1f} |"]
    assert lines_of(text, "| Full-training |") == ["| Full-training | n/a |"]
    assert "wrong labels as estimated [%]" in text


def test_tables_without_full_training_have_no_mean_delta(filled: Callable[..., Store]) -> None:
    cells = table_1()[2:]
    store = filled({("InfoBatch", "clean"): (0.7,)}, cells)
    assert "mean Δ" not in render(experiment(cells), CPU, store)


def test_cells_without_runs_are_marked_and_counted(filled: Callable[..., Store]) -> None:
    cells = table_1()
    store = filled({("InfoBatch", "clean"): (0.7, 0.7)}, cells)
    text = render(experiment(cells), CPU, store)
    assert text.splitlines()[-1] == "5 of 6 cells have no run: alignprune sweep table-1 --protocol cpu"
    (row,) = lines_of(render(experiment(cells), CPU, store, "markdown"), "| InfoBatch |")
    assert "| 70.0 ± 0.0<br>79.0 (-9.0) | -<br>56.1 |" in row


def test_complete_tables_count_nothing(filled: Callable[..., Store]) -> None:
    cells = table_1()
    store = filled({(cell.row, cell.column): (0.7,) for cell in cells}, cells)
    assert "no run" not in render(experiment(cells), CPU, store)


def test_one_seed_is_said_once_and_other_numbers_of_seeds_beside_the_cell(filled: Callable[..., Store]) -> None:
    cells = table_1()
    every: dict[tuple[str, str], Sequence[float]] = {(cell.row, cell.column): (0.7,) for cell in cells}
    text = render(experiment(cells), CPU, filled(every, cells), "markdown")
    assert text.count("one seed, which gives no interval") == 1
    assert "±" not in text
    assert "(n=" not in text


def test_other_numbers_of_seeds_stand_beside_the_cell(filled: Callable[..., Store]) -> None:
    cells = table_1()
    every: dict[tuple[str, str], Sequence[float]] = {(cell.row, cell.column): (0.7, 0.7, 0.7) for cell in cells}
    every |= {("InfoBatch", "clean"): (0.7,), ("InfoBatch", "real"): (0.5, 0.5)}
    text = render(experiment(cells), CPU, filled(every, cells), "markdown")
    (row,) = lines_of(text, "| InfoBatch |")
    assert "| 70.0 (n=1)<br>79.0 (-9.0) | 50.0 ± 0.0 (n=2)<br>56.1 (-6.1) |" in row
    assert text.count("(n=") == 2
    assert "over 3 seeds, no interval where there is one seed" in text


def test_another_protocol_than_the_papers_is_said(filled: Callable[..., Store]) -> None:
    cells = table_1()
    store = filled({}, cells)
    for cell in cells:
        write_run(store.root, PAPER, cell, 0, accuracy=0.7)
        write_run(store.root, CPU, cell, 0, accuracy=0.6)
    assert "another protocol than 'cpu' (a small network)" in render(experiment(cells), CPU, store)
    text = render(experiment(cells), PAPER, store)
    assert "another protocol" not in text
    assert "70.0" in text  # each protocol has its own runs
    assert "60.0" not in text


def test_measures_have_units_and_are_compared_in_them(filled: Callable[..., Store]) -> None:
    cells = [
        Cell("", "InfoBatch", "minutes", settings("InfoBatch", "real"), 23.9, "minutes"),
        Cell("", "InfoBatch", "pruned", settings("InfoBatch", "real"), 28.77, "pruned_share"),
    ]
    store = filled({}, cells)
    write_run(store.root, CPU, cells[0], 0, train_seconds=1500.0, pruned_share=0.2977)
    text = render(experiment(cells, "table-3"), CPU, store, "markdown")
    assert "| InfoBatch | 25.0<br>23.9 (+1.1) | 29.77<br>28.77 (+1.00) |" in text
    assert "training time [min]; pruned samples [% of the data set]" in text


def test_a_standard_deviation_is_shown_beside_the_papers(filled: Callable[..., Store]) -> None:
    number = paper.find("I", value="std", method="SeTa", noise="asym_0.2")
    cells = [Cell("30", "SeTa", "asym_0.2", settings("SeTa", "asym_0.2"), number, "accuracy_std")]
    store = filled({("SeTa", "asym_0.2"): (0.70, 0.71, 0.74)}, cells)
    deviation = scipy.stats.tstd([70, 71, 74])
    text = render(experiment(cells, "table-I"), CPU, store, "markdown")
    assert f"| {deviation:.2f}<br>0.20 (+{deviation - 0.2:.2f}) |" in text


def test_a_block_that_all_rows_share_stands_in_the_title(filled: Callable[..., Store]) -> None:
    cells = [Cell(block, "SeTa", "real", settings("SeTa", "real")) for block in ("30%", "50%")]
    store = filled({("SeTa", "real"): (0.5, 0.6)}, cells[:1])  # the cells share a run
    title, _, header, *_ = render(experiment(cells), CPU, store, "markdown").splitlines()
    assert "30%" not in title
    assert header.startswith("| prune ratio | method |")
    title, _, header, *_ = render(experiment(cells[:1]), CPU, store, "markdown").splitlines()
    assert title.endswith("; prune ratio: 30%**")
    assert header.startswith("| method |")


def test_every_measure_asked_for_has_its_line(filled: Callable[..., Store]) -> None:
    cells = table_1()
    every: dict[tuple[str, str], Sequence[float]] = {(cell.row, cell.column): (0.7, 0.8) for cell in cells}
    store = filled(every, cells, forward_fraction=0.683, kept_noise=None)
    text = render(experiment(cells), CPU, store, "markdown", measures=("accuracy", "forward_fraction", "kept_noise"))
    accuracy, forward, kept = lines_of(text, "| InfoBatch + Ours |")
    assert "| accuracy [%] | 75.0 ± " in accuracy
    assert "<br>79.3 (-4.3)" in accuracy
    assert "| forward passes [% of full training] | 68.3 ± 0.0 | 68.3 ± 0.0 |" in forward  # and no number of the paper
    assert "| wrong labels among the kept [%] | n/a | n/a |" in kept
    assert "n/a: these runs measured no such value" in text
    assert "no run" not in text


def test_cells_in_one_place_with_two_measures_are_two_lines(filled: Callable[..., Store]) -> None:
    cells = [
        Cell("", "SeTa", "real", settings("SeTa", "real"), 55.6, "accuracy"),
        Cell("", "SeTa", "real", settings("SeTa", "real"), 0.2, "accuracy_std"),
    ]
    store = filled({}, cells)
    for seed, accuracy in enumerate((0.5, 0.6)):
        write_run(store.root, CPU, cells[0], seed, accuracy=accuracy)
    first, second = lines_of(render(experiment(cells), CPU, store, "markdown"), "| SeTa |")
    assert "55.0 ± " in first
    assert "<br>55.6 (-0.6)" in first
    assert "7.07<br>0.20 (+6.87)" in second


def test_csv_has_a_line_a_cell_with_numbers_not_rounded(filled: Callable[..., Store]) -> None:
    cells = table_1()
    values = (0.60, 0.62, 0.65)
    store = filled({("InfoBatch + Ours", "real"): values}, cells)
    rows = list(csv.DictReader(io.StringIO(render(experiment(cells), CPU, store, "csv"))))
    assert [(row["block"], row["row"], row["column"]) for row in rows] == [(c.block, c.row, c.column) for c in cells]
    (row,) = (row for row in rows if row["n"] != "0")
    interval = scipy.stats.ttest_1samp(100 * np.array(values), 0).confidence_interval()
    assert (row["experiment"], row["protocol"], row["measure"]) == ("table-1", "cpu", "accuracy")
    numbers = [float(row[name]) for name in ("n", "mean", "low", "high", "paper", "difference")]
    mean = 100 * sum(values) / 3
    assert numbers == pytest.approx([3, mean, interval.low, interval.high, 59.4, mean - 59.4], abs=1e-8)
    assert rows[0] | {"mean": "", "low": "", "high": "", "difference": ""} == rows[0]


def test_labels_that_look_like_markup_stay_whole(filled: Callable[..., Store]) -> None:
    name = "InfoBatch [SOP+] | [red]a[/red] :smile:"
    cells = [Cell("30", name, "x" * 300, settings(name, "real"))]
    text = render(experiment(cells), CPU, filled({}, cells))
    assert name in text
    assert "x" * 300 in text
    assert name.replace("|", "\\|") in render(experiment(cells), CPU, filled({}, cells), "markdown")


def test_entries_keep_the_order_of_the_cells(filled: Callable[..., Store]) -> None:
    cells = table_1()
    assert [entry.cell for entry in entries(experiment(cells), CPU, filled({}, cells))] == cells


def test_what_does_not_exist_is_refused(filled: Callable[..., Store]) -> None:
    cells = table_1()
    store = filled({}, cells)
    with pytest.raises(ValueError, match="measure='acuracy' is unknown.*did you mean 'accuracy'"):
        render(experiment(cells), CPU, store, measures=("acuracy",))
    with pytest.raises(ValueError, match="form='html' is unknown"):
        render(experiment(cells), CPU, store, "html")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="table-1 has no cells under protocol 'cpu'"):
        render(experiment([]), CPU, store)


def test_every_measure_of_a_run_reads_a_column_that_every_run_has(tmp_path: Path) -> None:
    columns = {measure.column for measure in MEASURES.values() if measure.view == "runs"}
    assert len(Store(tmp_path).values(["aaa"], columns, "cpu")) == len(columns)

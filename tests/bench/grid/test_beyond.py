"""The comparison beyond the paper: equal budgets, runs that its experiments share, and the whole way on small data."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from alignprune.bench import commands
from alignprune.bench.grid import beyond, plan
from alignprune.bench.grid.cells import Cell, Experiment, Protocol, title_of
from alignprune.bench.grid.experiments import EXPERIMENTS, PROTOCOLS, cells_of
from alignprune.bench.results.store import Store
from alignprune.bench.run.config import configure
from alignprune.cli import main

NAMES = [name for name in EXPERIMENTS if name.startswith("beyond")]
FULL, STOPPED, ROBUST = beyond.FULL.title, beyond.STOPPED.title, beyond.ROBUST.title
ORACLE, KNOWN = beyond.ORACLE.title, beyond.KNOWN_RATE.title
OURS = title_of("infobatch+das")


@pytest.fixture(params=["cpu", "short", "paper"])
def protocol(request: pytest.FixtureRequest) -> Protocol:
    return PROTOCOLS[request.param]


def by_place(name: str, protocol: Protocol) -> dict[tuple[str, str, str], Cell]:
    return {(cell.block, cell.row, cell.column): cell for cell in cells_of(EXPERIMENTS[name], protocol)}


# -- the cells ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_place_has_one_cell_and_every_cell_can_be_configured(name: str, protocol: Protocol) -> None:
    cells = cells_of(EXPERIMENTS[name], protocol)
    assert len(by_place(name, protocol)) == len(cells) > 0
    for cell in cells:
        assert configure({**cell.settings, "seed": 0}).pruning.method == cell.settings["method"]


def test_all_but_full_training_have_half_of_its_samples(protocol: Protocol) -> None:
    first: dict[tuple[str, str], Cell] = {}
    for cell in cells_of(EXPERIMENTS["beyond"], protocol):
        first.setdefault((cell.block, cell.column), cell)
        config = configure(cell.settings)
        whole = cell.row == FULL
        assert config.pruning.prune_ratio == (None if whole else 0.5)
        assert config.pruning.budget == ("calibrated" if whole else "equal")
        assert config.recipe == configure(first[cell.block, cell.column].settings).recipe
        assert config.pruning.oracle == (cell.row == ORACLE)


@pytest.mark.parametrize("name", ["beyond", "beyond-ablation", "beyond-causes"])
def test_full_training_comes_first_and_an_oracle_last_where_labels_are_wrong(name: str, protocol: Protocol) -> None:
    columns: dict[tuple[str, str], list[str]] = {}
    for cell in cells_of(EXPERIMENTS[name], protocol):
        columns.setdefault((cell.block, cell.column), []).append(cell.row)
    for (_, column), rows in columns.items():
        assert rows[:2] == [FULL, STOPPED]
        assert (ORACLE in rows) == (rows[-1] == ORACLE) == (column != "clean")
    assert {block for block, column in columns if column == "clean"} == {block for block, _ in columns}


def test_what_the_experiments_have_in_common_runs_once(protocol: Protocol) -> None:
    compared = by_place("beyond", protocol)
    for name, rows in (
        ("beyond-ablation", {FULL, STOPPED, ORACLE, ROBUST}),
        ("beyond-causes", {FULL, STOPPED, ORACLE}),
    ):
        shared = {place: cell for place, cell in by_place(name, protocol).items() if place[1] in rows}
        assert {row for _, row, _ in shared} == rows
        assert all(cell.key == compared[place].key for place, cell in shared.items())
    traced = {cell.key for cell in cells_of(EXPERIMENTS["beyond-traces"], protocol) if cell.row != "digits"}
    assert traced
    assert traced <= {cell.key for (_, row, _), cell in compared.items() if row == FULL}


def test_the_papers_method_takes_its_epochs_from_its_run_without_changes(protocol: Protocol, tmp_path: Path) -> None:
    unchanged = by_place("beyond-causes", protocol)
    for place, cell in by_place("beyond", protocol).items():
        if place[1] == OURS:
            base, run = plan.jobs([cell], protocol, [0], tmp_path)
            assert run.needs == (base.folder,)
            assert base.key == unchanged[place].key


@pytest.mark.parametrize(
    "name, usual", [("beyond-ablation", ROBUST), ("beyond-choice", ROBUST), ("beyond-causes", OURS)]
)
def test_every_change_changes_the_run(name: str, usual: str, protocol: Protocol) -> None:
    places = by_place(name, protocol)
    for block, row, column in places:
        if row != usual:
            assert configure(places[block, row, column].settings) != configure(places[block, usual, column].settings)


def test_the_rate_that_is_known_is_that_of_the_data(protocol: Protocol) -> None:
    rates = {"clean": 0.0, "real": 0.402}  # CIFAR-100N's, by its authors
    for (_, row, column), cell in by_place("beyond-ablation", protocol).items():
        if row == KNOWN:
            assert cell.settings["policy.noise_rate"] == cell.settings.get("noise_rate", rates.get(column))


def test_settings_are_chosen_without_the_test_set(protocol: Protocol) -> None:
    cells = cells_of(EXPERIMENTS["beyond-choice"], protocol)
    assert {cell.settings.get("holdout") for cell in cells} == {0.2}
    assert not {cell.key for cell in cells} & {cell.key for cell in cells_of(EXPERIMENTS["beyond"], protocol)}


def test_the_unseen_settings_are_none_of_those_that_were_chosen_on(protocol: Protocol) -> None:
    unseen = cells_of(EXPERIMENTS["beyond-unseen"], protocol)
    assert {cell.row for cell in unseen} >= {STOPPED, ROBUST, ORACLE}
    assert not {cell.key for cell in unseen} & {
        cell.key for name in NAMES if name != "beyond-unseen" for cell in cells_of(EXPERIMENTS[name], protocol)
    }
    for cell in unseen:
        pruning = configure(cell.settings).pruning
        assert (pruning.prune_ratio, pruning.budget, pruning.oracle) == (0.5, "equal", cell.row == ORACLE)


def test_traces_have_wrong_labels_and_the_reference_of_the_papers_score(protocol: Protocol) -> None:
    for cell in cells_of(EXPERIMENTS["beyond-traces"], protocol):
        config = configure(cell.settings)
        assert config.outputs.trace
        assert config.pruning.reference == "clean"
        assert config.data.noise != "clean"


# -- commands ----------------------------------------------------------------------------------------------


def told(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(words) == 0
    return capsys.readouterr().out


def test_a_table_without_runs_says_which_are_missing_and_how_to_make_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["table", "beyond", "--protocol", "cpu", "--runs", str(tmp_path)]
    cells = cells_of(EXPERIMENTS["beyond"], PROTOCOLS["cpu"])
    shown = told(words, capsys)
    assert f"{len(cells)} of {len(cells)} cells have no run: alignprune sweep beyond --protocol cpu" in shown
    assert all(cell.block in shown and cell.row in shown for cell in cells)
    block = "CIFAR-100N, features"
    shown, own = told([*words, "--blocks", block], capsys), [cell for cell in cells if cell.block == block]
    assert f"{len(own)} of {len(own)} cells have no run" in shown
    assert all((other in shown) == (other == block) for other in {cell.block for cell in cells})


def test_a_protocol_without_any_of_the_data_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("sweep", "table", "figure"):
        assert main([command, "beyond", "--protocol", "document", "--runs", str(tmp_path)]) == 2
        assert "beyond has no cells under protocol 'document'" in capsys.readouterr().err


# -- the whole way -----------------------------------------------------------------------------------------

SAMPLES, EPOCHS = 400, 12  # long enough to memorise, so that suspects are left out


def small(name: str, rows: tuple[str, ...]) -> list[Cell]:
    """The experiment's cells on word vectors with half of the labels wrong, on 400 digits in their place."""
    smaller = {"dataset": "digits", "limit": SAMPLES, "recipe.epochs": EPOCHS, "recipe.batch_size": 8}
    return [
        replace(cell, block="", settings={**cell.settings, **smaller, "recipe.lr": 1e-2, "evaluate_every": EPOCHS})
        for (block, row, column), cell in by_place(name, PROTOCOLS["cpu"]).items()
        if block == "NEWS, 20 groups, word vectors" and column == "sym_0.5" and row in rows
    ]


CELLS = small("beyond", (FULL, STOPPED, OURS, ROBUST, ORACLE)) + small("beyond-ablation", (KNOWN,))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The runs of the small comparison; it and its traces are in the registries meanwhile."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROTOCOLS, "tiny", Protocol("tiny", "seconds", {}, seeds=1))
        compared = Experiment("small", "a comparison", lambda _: tuple(CELLS))
        traces = Experiment("small-traces", "traces", lambda _: tuple(CELLS[:1]), "suspicion")
        for experiment in (compared, traces):
            patch.setitem(EXPERIMENTS, experiment.name, experiment)
        for job in plan.jobs(CELLS, PROTOCOLS["tiny"], [0], root):
            commands.work(job)
        yield root


def stored(runs: Path, column: str) -> dict[str, float | None]:
    """A column of the runs by row of the table."""
    found = Store(runs).values([cell.key for cell in CELLS], [column], "tiny")
    return {cell.row: found[cell.key, column][0] for cell in CELLS}


def test_all_train_on_exactly_as_many_samples_but_full_training(runs: Path) -> None:
    samples = {row: share * EPOCHS * SAMPLES for row, share in stored(runs, "trained_fraction").items() if share}
    half = dict.fromkeys((STOPPED, OURS, ROBUST, ORACLE, KNOWN), EPOCHS * SAMPLES / 2)
    assert samples == pytest.approx({FULL: EPOCHS * SAMPLES} | half)


def test_the_oracle_alone_sees_no_wrong_label(runs: Path) -> None:
    wrong = stored(runs, "kept_noise")
    assert wrong[ORACLE] == 0
    assert wrong[FULL] == pytest.approx(stored(runs, "noise_rate")[FULL])
    assert wrong[STOPPED] == pytest.approx(wrong[FULL])
    assert all(share for row, share in wrong.items() if row != ORACLE)


def rows_of(text: str) -> dict[str, dict[str, str]]:
    return {row["row"]: row for row in csv.DictReader(io.StringIO(text))}


def test_the_table_shows_the_gap_that_the_methods_close(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["table", "small", "--protocol", "tiny", "--runs", str(runs), "--form", "csv"]
    accuracy = {row: float(line["mean"]) for row, line in rows_of(told(words, capsys)).items()}
    low, high = accuracy[STOPPED], accuracy[ORACLE]
    assert high > low
    closed = {
        row: float(line["mean"]) for row, line in rows_of(told([*words, "--between", STOPPED, ORACLE], capsys)).items()
    }
    assert closed == pytest.approx(
        {row: 100 * (accuracy[row] - low) / (high - low) for row in (FULL, OURS, ROBUST, KNOWN)}, abs=1e-6
    )


def test_the_table_shows_the_noise_rate_as_estimated(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["table", "small", "--protocol", "tiny", "--runs", str(runs), "--measures", "estimated_noise_rate"]
    assert "wrong labels as estimated [%]" in told(words, capsys)
    lines = rows_of(told([*words, "--form", "csv"], capsys))
    assert lines[KNOWN]["mean"] == "50.0"
    assert all(lines[row]["mean"] == "" for row in (FULL, STOPPED, OURS, ORACLE))  # these do not estimate it


def test_the_traced_full_training_is_drawn(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told(["figure", "small-traces", "--protocol", "tiny", "--runs", str(runs), "--out", str(tmp_path)], capsys)
    assert (tmp_path / "small-traces-tiny.png").read_bytes().startswith(b"\x89PNG")

"""What is compared at half of the forward passes: its cells, and the whole way on a part of the digits."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from alignprune.bench import commands
from alignprune.bench.grid import beyond, plan
from alignprune.bench.grid.beyond import FULL, ORACLE, ROBUST, STOPPED
from alignprune.bench.grid.cells import Cell, Experiment, Protocol, Settings, title_of
from alignprune.bench.grid.experiments import EXPERIMENTS, PROTOCOLS, cells_of
from alignprune.bench.results.store import Store
from alignprune.bench.run.config import configure
from alignprune.cli import main

OURS, KNOWN = title_of("infobatch+das"), "the rate is known"
HALF: Settings = {"prune_ratio": 0.5, "budget": "equal"}
SHORT, CPU = PROTOCOLS["short"], PROTOCOLS["cpu"]


# -- the cells ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["beyond", "beyond-unseen"])
def test_all_but_full_training_have_half_of_its_samples(name: str) -> None:
    cells = cells_of(EXPERIMENTS[name], SHORT)
    assert len({(cell.block, cell.row, cell.column) for cell in cells}) == len(cells)
    assert {cell.row for cell in cells} >= {STOPPED, ROBUST, ORACLE}
    for cell in cells:
        config, whole = configure(cell.settings), cell.row == FULL
        assert config.pruning.prune_ratio == (None if whole else 0.5)
        assert config.pruning.budget == ("calibrated" if whole else "equal")
        assert config.recipe == configure(cells[0].settings).recipe
        assert config.pruning.oracle == (cell.row == ORACLE)


def test_full_training_comes_first_and_an_oracle_last_where_labels_are_wrong() -> None:
    columns: dict[str, list[str]] = {}
    for cell in cells_of(EXPERIMENTS["beyond"], SHORT):
        columns.setdefault(cell.column, []).append(cell.row)
    assert set(columns) == {"clean", "real"}
    for column, rows in columns.items():
        assert rows[:2] == [FULL, STOPPED]
        assert (ORACLE in rows) == (rows[-1] == ORACLE) == (column != "clean")


def test_the_papers_method_takes_its_epochs_from_its_run_without_a_budget(tmp_path: Path) -> None:
    (cell,) = (c for c in cells_of(EXPERIMENTS["beyond"], SHORT) if (c.row, c.column) == (OURS, "real"))
    base, run = plan.jobs([cell], SHORT, [0], tmp_path)
    assert run.needs == (base.folder,)
    whole = {name: value for name, value in cell.settings.items() if name not in HALF}
    assert configure(base.settings).pruning == configure(whole).pruning


def test_the_other_noise_is_none_of_that_which_was_chosen_on() -> None:
    compared, unseen = (
        {(cell.column, cell.key) for cell in cells_of(EXPERIMENTS[name], SHORT)} for name in ("beyond", "beyond-unseen")
    )
    assert not {column for column, _ in compared} & {column for column, _ in unseen}
    assert not {key for _, key in compared} & {key for _, key in unseen}


def test_a_method_by_batch_losses_stands_below_itself_by_a_samples_losses() -> None:
    rows = list(dict.fromkeys(cell.row for cell in cells_of(EXPERIMENTS["beyond-batch-losses"], CPU)))
    assert rows == [FULL, *map(title_of, ("infobatch", "infobatch+bls", "seta", "seta+bls"))]


@pytest.mark.parametrize("cells", [beyond.comparison, beyond.unseen, beyond.batch_losses])
def test_other_protocols_have_none_of_the_data(cells: Callable[[Protocol], tuple[Cell, ...]]) -> None:
    assert cells(PROTOCOLS["pretrained"]) == ()


# -- commands ----------------------------------------------------------------------------------------------


def told(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(words) == 0
    return capsys.readouterr().out


def test_a_table_without_runs_says_which_are_missing_and_how_to_make_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "beyond-batch-losses"
    words, cells = ["table", name, "--protocol", "cpu", "--runs", str(tmp_path)], cells_of(EXPERIMENTS[name], CPU)
    shown = told(words, capsys)
    assert f"{len(cells)} of {len(cells)} cells have no run: alignprune sweep {name} --protocol cpu" in shown
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

DIGITS: Settings = {
    "dataset": "digits",
    "noise": "symmetric",
    "noise_rate": 0.5,
    "model": "mlp",
    "recipe": "features",
    "recipe.epochs": EPOCHS,
    "recipe.batch_size": 8,
    "recipe.lr": 1e-2,
    "limit": SAMPLES,
    "evaluate_every": EPOCHS,
    "device": "cpu",
}
ROWS: dict[str, Settings] = {
    FULL: {"method": "full"},
    STOPPED: {"method": "full", **HALF},
    OURS: {"method": "infobatch+das", **HALF},
    ROBUST: {"method": "robust", **HALF},
    ORACLE: {"method": "full", "oracle": True, **HALF},
    KNOWN: {"method": "robust", "policy.noise_rate": 0.5, **HALF},
}
CELLS = [Cell("", row, "sym_0.5", {**DIGITS, **settings}) for row, settings in ROWS.items()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The runs of the small comparison, which is in the registries meanwhile."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROTOCOLS, "tiny", Protocol("tiny", "seconds", {}, seeds=1))
        patch.setitem(EXPERIMENTS, "small", Experiment("small", "a comparison", lambda _: tuple(CELLS)))
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

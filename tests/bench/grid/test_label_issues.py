"""The comparison of ways to rank labels: its cells, and the whole way on a part of the digits."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from alignprune.bench import commands
from alignprune.bench.files import save_arrays, write_record
from alignprune.bench.grid import plan
from alignprune.bench.grid.cells import Cell, Experiment, Protocol
from alignprune.bench.grid.experiments import EXPERIMENTS, PROTOCOLS, cells_of
from alignprune.bench.results import rankings, store
from alignprune.bench.results.detection import Ranking, average_precision
from alignprune.bench.results.rankings import RANKERS, FinishedRun, Ranker, judged
from alignprune.bench.results.store import Store
from alignprune.bench.run.config import configure
from alignprune.bench.run.folder import CONFIGURATION_KIND, read_checkpoint
from alignprune.bench.run.trace import KIND
from alignprune.bench.run.training import train
from alignprune.cli import main

SAMPLES, EPOCHS = 300, 12  # long enough to memorise, so that suspects are left out


@pytest.fixture(params=["cpu", "short", "paper"])
def protocol(request: pytest.FixtureRequest) -> Protocol:
    return PROTOCOLS[request.param]


# -- the cells ---------------------------------------------------------------------------------------------


def test_every_place_has_one_cell_whose_ranking_there_is(protocol: Protocol) -> None:
    cells = cells_of(EXPERIMENTS["label-issues"], protocol)
    assert len({(cell.block, cell.row, cell.column) for cell in cells}) == len(cells) > 0
    for cell in cells:
        assert cell.ranking in RANKERS
        assert cell.row.endswith(f": {cell.ranking}")
        assert not cell.is_full_training  # so that a choice of rows leaves it out


def test_every_run_has_what_its_rankings_read(protocol: Protocol) -> None:
    for cell in cells_of(EXPERIMENTS["label-issues"], protocol):
        config, reads = configure({**cell.settings, "seed": 0}), RANKERS[str(cell.ranking)].reads
        assert config.data.noise != "clean"
        assert config.outputs.trace == (reads != "probabilities")
        assert reads != "plain losses" or config.recorded_smoothing == 0
        assert (config.pruning.folds == 5) == (reads == "probabilities")


def test_all_are_runs_of_the_same_network_and_recipe_on_the_same_labels(protocol: Protocol) -> None:
    places: dict[tuple[str, str], set[str]] = {}
    for cell in cells_of(EXPERIMENTS["label-issues"], protocol):
        config = configure(cell.settings)
        same = f"{config.recipe} {config.network} {config.data}"
        places.setdefault((cell.block, cell.column), set()).add(same)
    assert {len(kinds) for kinds in places.values()} == {1}


def test_the_rankings_of_a_run_share_it(tmp_path: Path) -> None:
    cells = cells_of(EXPERIMENTS["label-issues"], PROTOCOLS["cpu"])
    some = [cell for cell in cells if cell.block == "digits" and cell.column == "sym_0.2"]
    jobs = plan.jobs(some, PROTOCOLS["cpu"], [0, 1], tmp_path)
    assert len({cell.key for cell in some}) == 5
    assert len(jobs) == 2 * 5 + 1  # the base that the paper's method is calibrated by runs once
    assert sum("5folds" in str(job.folder) for job in jobs) == 2


# -- the whole way -----------------------------------------------------------------------------------------


def small() -> list[Cell]:
    smaller = {
        "recipe": "features",
        "limit": SAMPLES,
        "recipe.epochs": EPOCHS,
        "recipe.batch_size": 16,
        "recipe.lr": 1e-2,
    }
    return [
        replace(cell, settings={**cell.settings, **smaller, "evaluate_every": EPOCHS})
        for cell in cells_of(EXPERIMENTS["label-issues"], PROTOCOLS["cpu"])
        if cell.block == "digits" and cell.column == "sym_0.4"
    ]


CELLS = small()
CONFIDENT = ("self-confidence", "self-confidence, last epoch")


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


def folder_of(runs: Path, row: str) -> Path:
    cell = next(cell for cell in CELLS if cell.row.startswith(row))
    return plan.folder_of(cell.settings, 0, PROTOCOLS["tiny"], runs)


def told(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(words) == 0
    return capsys.readouterr().out


def shown(runs: Path, measure: str, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, str]:
    """A measure by row of the table."""
    words = ["table", "small", "--protocol", "tiny", "--runs", str(runs), "--form", "csv", "--measures", measure, *more]
    return {row["row"]: row["mean"] for row in csv.DictReader(io.StringIO(told(words, capsys)))}


def test_every_ranking_finds_wrong_labels_better_than_chance(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {row: float(mean) for row, mean in shown(runs, "auroc", capsys).items()}
    assert set(found) == {cell.row for cell in CELLS}
    assert {row: area for row, area in found.items() if area < 0.5 and "window 5" not in row} == {}
    assert found["cleanlab, five folds: self-confidence"] > 0.9
    assert found["Robust: score of the run"] > 0.9


def test_the_cost_stands_beside_what_it_buys(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cost = {row.split(":")[0]: float(mean) for row, mean in shown(runs, "forward_fraction", capsys).items()}
    assert cost["Full-training"] == 100
    assert cost["Robust"] == pytest.approx(50, abs=0.1)
    assert cost["cleanlab, five folds"] == pytest.approx(100 * (4 + 1 / EPOCHS))


def test_only_probabilities_are_judged_as_such_and_only_who_flags_by_what_is_flagged(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calibrated = {row.split(": ")[1] for row, mean in shown(runs, "calibration_error", capsys).items() if mean}
    assert calibrated == {"mean error probability", "share of other predictions", "label report", *CONFIDENT}
    flagged = {row for row, mean in shown(runs, "flagged_recall", capsys).items() if mean}
    cleanlabs = {f"cleanlab, five folds: {name}" for name in CONFIDENT}
    # A full training holds nobody out: its label report ranks, and flags nobody.
    assert flagged == {"Robust: score of the run", "Robust: label report", "Robust, ELR: label report"} | cleanlabs
    assert {row for row, mean in shown(runs, "estimated_rate_error", capsys).items() if mean} == flagged


def test_rows_are_compared_seed_by_seed(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rival = "cleanlab, five folds: self-confidence"
    plain, against = (shown(runs, "average_precision", capsys, *more) for more in ((), ("--against", rival)))
    row = "Robust: mean loss since the start"
    assert float(against[row]) == pytest.approx(float(plain[row]) - float(plain[rival]), abs=1e-6)
    assert rival not in against


def test_a_choice_of_rows_shows_these_alone(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = "Robust: held-out loss"
    assert set(shown(runs, "average_precision", capsys, "--rows", row)) == {row}


def test_what_a_run_of_no_ranking_is_asked_about_rankings_has_no_value(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = replace(CELLS[0], row="bare", ranking=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EXPERIMENTS, "small", Experiment("small", "one run", lambda _: (bare,)))
        assert shown(runs, "auroc", capsys) == {"bare": ""}
        assert float(shown(runs, "accuracy", capsys)["bare"]) > 50


# -- the rankings against the folder -----------------------------------------------------------------------


def suspicion(folder: Path, name: str) -> np.ndarray:
    return RANKERS[name].rank(FinishedRun(folder)).suspicion


def test_no_probability_is_read_off_a_smoothed_loss(runs: Path, tmp_path: Path) -> None:
    plain = folder_of(runs, "Full-training")
    smoothed = configure({**json.loads((plain / "job.json").read_text())["settings"], "out": str(tmp_path / "run")})
    smoothed = smoothed.with_settings(recipe=replace(smoothed.recipe, label_smoothing=0.1, epochs=2))
    train(smoothed)
    here, there = ({record.ranking for record in judged(folder)} for folder in (plain, smoothed.folder))
    assert here - there == {"share of wrong events", "mean error probability"}
    assert there < here


def test_forgetting_is_counted_from_one_look_at_a_sample_to_the_next(runs: Path) -> None:
    folder = folder_of(runs, "Robust")
    with np.load(folder / "trace.npz") as stored:
        margins = stored["margins"]
    for sample, found in enumerate(suspicion(folder, "forgetting events").tolist()):
        right = [margin > 0 for margin in margins[:, sample].tolist() if margin == margin]
        events = sum(before and not after for before, after in pairwise(right))
        assert found == (events if any(right) else np.inf)


def test_the_journal_and_the_score_are_those_of_the_last_checkpoint(runs: Path) -> None:
    folder = folder_of(runs, "Robust")
    state = read_checkpoint(folder)
    assert state is not None
    (journal,) = (memory for memory in state["pruner"]["memories"] if "agreeing" in memory)
    np.testing.assert_array_equal(suspicion(folder, "held-out loss"), journal["held_out_loss"].numpy())
    expected = 1 - journal["agreeing"].numpy() / journal["predictions"].numpy()
    np.testing.assert_allclose(suspicion(folder, "share of other predictions"), expected, atol=1e-12)
    ranking = RANKERS["score of the run"].rank(FinishedRun(folder))
    np.testing.assert_array_equal(ranking.suspicion, state["pruner"]["scores"].numpy())
    assert ranking.flagged is not None
    assert np.flatnonzero(ranking.flagged).tolist() == state["pruner"]["selection"]["suspects"].tolist()
    assert ranking.noise_rate == state["pruner"]["selection"]["noise_rate"]
    aligned = folder_of(runs, "InfoBatch")
    assert (suspicion(aligned, "score of the run") == -read_checkpoint(aligned)["pruner"]["scores"].numpy()).all()


def test_cleanlabs_rules_rank_by_the_probability_of_the_given_label(runs: Path) -> None:
    folder = folder_of(runs, "cleanlab")
    with np.load(folder / "probabilities.npz") as stored:
        p, last, labels = stored["probabilities"], stored["last"], stored["labels"]
    rows = np.arange(len(labels))
    others = np.where(np.arange(p.shape[1]) == labels[:, None], -1, p).max(1)
    np.testing.assert_allclose(suspicion(folder, "self-confidence"), 1 - p[rows, labels], atol=1e-6)
    np.testing.assert_allclose(suspicion(folder, "self-confidence, last epoch"), 1 - last[rows, labels], atol=1e-6)
    np.testing.assert_allclose(
        suspicion(folder, "normalized margin"), 1 - (p[rows, labels] - others + 1) / 2, atol=1e-6
    )


# -- the store ---------------------------------------------------------------------------------------------


def test_a_new_ranker_stands_in_the_store_of_old_runs_after_the_next_sweep(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(runs, "Robust")
    assert store.is_archived(folder)
    new = Ranker("by the index", lambda run: Ranking(np.arange(float(SAMPLES))))
    cell = replace(CELLS[0], row="new", ranking=new.name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RANKERS, new.name, new)
        patch.setitem(EXPERIMENTS, "small", Experiment("small", "one run", lambda _: (cell,)))
        assert not store.is_archived(folder)
        assert shown(runs, "average_precision", capsys) == {"new": ""}
        told(["sweep", "small", "--protocol", "tiny", "--runs", str(runs), "--seeds", "1"], capsys)
        assert store.is_archived(folder)
        truth = FinishedRun(folder).is_noisy
        assert truth is not None
        expected = average_precision(np.arange(float(SAMPLES)), truth)
        assert float(shown(runs, "average_precision", capsys)["new"]) == pytest.approx(expected)


def test_the_store_has_a_row_a_run_and_ranking(runs: Path) -> None:
    rows = Store(runs).query("SELECT ranking, auroc FROM rankings WHERE key = ?", [CELLS[0].key])
    reads = {"trace", "journal", "scores"}
    known = {name for name, ranker in RANKERS.items() if ranker.reads in reads}
    assert known <= {row["ranking"] for row in rows}
    assert not {"self-confidence", "alignment since the start"} & {row["ranking"] for row in rows}


def test_a_run_whose_labels_are_all_right_has_no_rankings(tmp_path: Path) -> None:
    losses = np.ones((2, 3), dtype=np.float16)
    truth = np.zeros(3, dtype=bool)
    save_arrays(tmp_path / "trace.npz", KIND, losses=losses, margins=losses, reference=np.ones(2), is_noisy=truth)
    assert rankings.judged(tmp_path) == []
    save_arrays(tmp_path / "trace.npz", KIND, losses=losses, margins=losses, reference=np.ones(2))
    assert rankings.judged(tmp_path) == []


def test_a_run_from_before_the_journal_is_ranked_by_the_rest(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    losses = rng.random((4, 30)).astype(np.float16)
    save_arrays(
        tmp_path / "trace.npz",
        KIND,
        losses=losses,
        margins=-losses,
        reference=np.full(4, np.nan),
        is_noisy=np.arange(30) < 9,
    )
    config = {"dataset": "digits", "method": "full", "loss": None, "recipe": {"label_smoothing": 0.0}}
    write_record(tmp_path / "config.json", CONFIGURATION_KIND, config)
    assert {record.ranking for record in rankings.judged(tmp_path)} == {
        name for name, ranker in RANKERS.items() if ranker.reads in ("trace", "plain losses")
    }


def test_without_cleanlab_its_rankings_say_what_to_install(runs: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("cleanlab", "cleanlab.count", "cleanlab.filter", "cleanlab.rank"):
            patch.setitem(sys.modules, name, None)
        with pytest.raises(ImportError, match=r"pip install 'alignprune\[rivals\]'"):
            rankings.judged(folder_of(runs, "cleanlab"))

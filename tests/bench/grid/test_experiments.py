"""The grid of the paper: every table and figure, its cells, their numbers, the jobs that they take."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignprune.bench import paper
from alignprune.bench.grid import experiments, plan
from alignprune.bench.grid.cells import Cell
from alignprune.bench.grid.experiments import EXPERIMENTS, PROTOCOLS, cells_of
from alignprune.bench.run.config import configure
from alignprune.coresets import Extent

PAPER, CPU = PROTOCOLS["paper"], PROTOCOLS["cpu"]
TABLES = ("1", "2", "3", "4", "5", "B", "C", "D", "E", "F", "G", "H", "I")
FIGURES = ("1", "2a", "2b", "2c", "3", "A", "B", "C")


def test_every_table_and_figure_of_the_paper_is_there() -> None:
    papers = {name for name in EXPERIMENTS if not name.startswith(("beyond", "claims", "evidence", "label-issues"))}
    assert papers == {f"table-{name}" for name in TABLES} | {f"figure-{name}" for name in FIGURES}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_cell_is_a_run_that_can_be_configured(name: str) -> None:
    found = 0
    for protocol in PROTOCOLS.values():
        try:
            cells = cells_of(EXPERIMENTS[name], protocol)
        except ValueError:  # it is not in this protocol
            continue
        for cell in cells:
            config = configure({**cell.settings, "seed": 0})
            assert config.pruning.method == cell.settings["method"]
        found += len(cells)
    assert found
    if not name.startswith(("beyond", "claims")):
        assert cells_of(EXPERIMENTS[name], PAPER)


@pytest.mark.parametrize("protocol", ["pretrained", "scratch", "scratch-40", "finetune", "short"])
def test_what_is_compared_with_robust_costs_half_of_a_full_training_or_is_named_by_its_own_cost(protocol: str) -> None:
    cells = cells_of(EXPERIMENTS["evidence"], PROTOCOLS[protocol])
    whole = {"Full-training", "ELR", "stopped by a noisy hold-out"}
    for cell in cells:
        assert (cell.settings.get("prune_ratio") == 0.5) == (cell.row not in whole)
        assert cell.settings.get("budget") == (None if cell.row in whole else "equal")
    assert len({(cell.block, cell.row, cell.column) for cell in cells}) == len(cells)
    assert {cell.row for cell in cells if cell.column == "clean"} == {cell.row for cell in cells} - {"Oracle"}


@pytest.mark.parametrize("table", ["1", "2", "4", "B", "C", "D", "E", "H"])
def test_every_accuracy_that_the_paper_prints_stands_in_one_cell(table: str) -> None:
    """Counted from the paper's side: each of its numbers but the means is some cell's, with its own value."""
    printed = [
        number
        for number in paper.numbers(table)
        if number.accuracy is not None and not number.noise.endswith("mean_delta")
    ]
    cells = [cell for cell in cells_of(EXPERIMENTS[f"table-{table}"], PAPER) if cell.paper is not None]
    assert sorted(cell.paper for cell in cells) == sorted(number.accuracy for number in printed)


def test_a_cell_has_the_number_of_its_own_method_noise_and_ratio() -> None:
    cells = {(c.block, c.row, c.column): c for c in cells_of(EXPERIMENTS["table-1"], PAPER)}
    assert cells["50", "InfoBatch + Ours", "real"].paper == 60.7
    assert cells["0", "Full-training", "real"].paper == 56.1
    settings = cells["50", "InfoBatch + Ours", "sym_0.5"].settings
    assert (settings["noise"], settings["noise_rate"], settings["prune_ratio"]) == ("symmetric", 0.5, 0.5)
    assert settings["method"] == "infobatch+das"


def test_tables_share_the_runs_they_have_in_common() -> None:
    first = {cell.key for cell in cells_of(EXPERIMENTS["table-1"], PAPER)}
    every = {cell.key for cell in cells_of(EXPERIMENTS["table-B"], PAPER)}
    spreads = {cell.key for cell in cells_of(EXPERIMENTS["table-I"], PAPER)}
    assert first < every
    assert spreads < first


def test_a_protocol_without_the_data_set_says_so() -> None:
    with pytest.raises(ValueError, match="table-4 needs the data set 'imagenet'.*'cpu'"):
        cells_of(EXPERIMENTS["table-4"], CPU)


def test_a_figure_of_several_parts_is_asked_for_as_one() -> None:
    assert [part.name for part in experiments.get("figure-2")] == ["figure-2a", "figure-2b", "figure-2c"]
    assert [part.name for part in experiments.get("figure-2b")] == ["figure-2b"]
    assert [part.name for part in experiments.get("table-B")] == ["table-B"]
    assert [part.name for part in experiments.get("beyond")] == ["beyond"]
    assert len(experiments.get("all")) == len(EXPERIMENTS)


def test_unknown_names_tell_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'table-1'"):
        experiments.get("table1")
    with pytest.raises(ValueError, match="did you mean 'cpu'"):
        experiments.protocol("cpus")


def cells_by_method(name: str) -> dict[str, Cell]:
    return {
        str(cell.settings["method"]): cell
        for cell in cells_of(EXPERIMENTS[name], CPU)
        if cell.column == "real" and cell.block in ("0", "50")
    }


def test_a_calibrated_method_waits_for_one_base_run_and_a_coreset_for_its_own_proxy(tmp_path: Path) -> None:
    by_method = cells_by_method("table-B")
    found = plan.jobs([by_method["infobatch+das"], by_method["dual"]], CPU, [3, 4], tmp_path)
    names = {job.folder: job for job in found}
    ours = [job for job in found if job.settings["method"] == "infobatch+das"]
    assert [job.seed for job in ours] == [3, 4]
    bases = {need for job in ours for need in job.needs}
    assert len(bases) == 1  # measured once, on the first seed
    base = names[bases.pop()]
    assert (base.settings["method"], base.seed, base.settings.get("prune_ratio")) == ("infobatch", 3, None)
    duals = [job for job in found if job.settings["method"] == "dual"]
    for job in duals:
        (need,) = job.needs
        assert names[need].settings["collect"]
        assert names[need].seed == job.seed
        assert job.settings["proxy"] == str(need)


def test_the_full_training_of_the_table_is_the_proxy_of_its_coresets(tmp_path: Path) -> None:
    by_method = cells_by_method("table-B")
    alone = plan.jobs([by_method["full"]], CPU, [0], tmp_path)
    both = plan.jobs([by_method["full"], by_method["moderate"], by_method["ssp"]], CPU, [0], tmp_path)
    assert len(alone) == 1
    assert len(both) == 3


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_coreset_of_the_tables_can_be_chosen_by_the_proxy_run_of_its_protocol(protocol: str) -> None:
    for experiment in EXPERIMENTS.values():
        try:
            cells = cells_of(experiment, PROTOCOLS[protocol])
        except ValueError:  # it is not in this protocol
            continue
        for cell in cells:
            config = configure(cell.settings)
            if config.pruning.coreset is not None:
                views = frozenset({"strong_features", "strong_logits", "self_supervised"})
                config.pruning.coreset.check(Extent(4_000, 100, config.recipe.epochs, views))


def test_random_choice_needs_nothing_first(tmp_path: Path) -> None:
    (job,) = plan.jobs([cells_by_method("table-B")["static-random"]], CPU, [0], tmp_path)
    assert job.needs == ()


def test_pseudo_clean_references_are_chosen_by_a_proxy(tmp_path: Path) -> None:
    cells = [
        cell
        for cell in cells_of(EXPERIMENTS["table-5"], CPU)
        if cell.row.startswith("Pseudo") and cell.column == "100% real"
    ]
    jobs = plan.jobs(cells, CPU, [0], tmp_path)
    assert sum("proxy" in job.settings for job in jobs) == len(cells) == 4
    assert sum(bool(job.settings.get("collect")) for job in jobs) == 1


def test_machine_settings_change_no_key(tmp_path: Path) -> None:
    cell = cells_by_method("table-B")["infobatch"]
    here = plan.jobs([cell], CPU, [0], tmp_path)
    there = plan.jobs([cell], CPU, [0], tmp_path, {"data_root": "elsewhere", "device": "cuda"})
    assert [job.key for job in here] == [job.key for job in there]
    assert there[0].settings["data_root"] == "elsewhere"

"""The benchmark's commands on a tiny protocol: sweep, kill, go on, table and figure."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from alignprune.bench import commands
from alignprune.bench.commands import FigureConfig, SweepConfig, TableConfig
from alignprune.bench.files import write_record
from alignprune.bench.grid import experiments, plan
from alignprune.bench.grid.cells import Cell, Experiment, Protocol
from alignprune.bench.grid.sweep import Report
from alignprune.bench.results.store import Store
from alignprune.bench.run.config import configure
from alignprune.bench.run.folder import RESULT, RESULT_KIND
from alignprune.cli import main

TINY = Protocol("tiny", "seconds", {}, seeds=2)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 90)
    x = (rng.normal(size=(90, 6)) + 2 * np.eye(3, 6)[y]).astype(np.float32)
    path = tmp_path_factory.mktemp("data") / "blobs.npz"
    np.savez(path, x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    return str(path)


def cells(dataset: str) -> tuple[Cell, ...]:
    shared = {"dataset": dataset, "noise": "symmetric", "noise_rate": 0.3, "recipe.epochs": 4, "device": "cpu"}
    full = {**shared, "method": "full"}
    half = {**shared, "method": "infobatch", "prune_ratio": 0.5}
    return (
        Cell("0", "Full-training", "sym_0.3", full, 60.0),
        Cell("50", "InfoBatch", "sym_0.3", half, 55.0),
        Cell("50", "Dynamic Random", "sym_0.3", {**half, "method": "dynamic-random"}),
    )


@pytest.fixture(scope="module")
def tiny(dataset: str) -> Iterator[None]:
    """An experiment and a protocol that take seconds, in the registries for the time of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(experiments.PROTOCOLS, "tiny", TINY)
        experiment = Experiment("table-tiny", "a test", lambda _: cells(dataset))
        patch.setitem(experiments.EXPERIMENTS, "table-tiny", experiment)
        yield


@pytest.fixture(scope="module")
def tiny_runs(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of the tiny experiment's first two rows, one seed, complete and archived."""
    runs = tmp_path_factory.mktemp("runs")
    jobs = plan.jobs(cells(dataset)[:2], TINY, [0], runs)
    for job in jobs:
        commands.work(job)
    return runs


@pytest.fixture(scope="module")
def swept(tiny: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of the tiny experiment, as a sweep leaves them."""
    runs = tmp_path_factory.mktemp("swept")
    assert sweep(runs) == 0
    return runs


@pytest.fixture
def own(swept: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(swept, tmp_path / "runs"))


def sweep(runs: Path, **changes: object) -> int:
    config = SweepConfig(names=("table-tiny",), protocol="tiny", runs=runs, threads=1)
    return commands.run_sweep(replace(config, **changes), Report())  # type: ignore[arg-type]


def table(runs: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    commands.show_tables(TableConfig(names=("table-tiny",), protocol="tiny", runs=runs, form="csv"))
    return capsys.readouterr().out


def test_a_sweep_that_lost_runs_fills_them_in_and_gives_the_same_table(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = table(own, capsys)
    assert first.count("table-tiny,tiny") == 3
    assert ",2," in first.splitlines()[1]  # two seeds
    runs = sorted(own.glob("tiny/*/seed*"))
    assert len(runs) == 7  # three cells of two seeds, and one base run
    # stopped in the middle of an epoch, before it began, and between the result and the archive
    (runs[0] / "result.json").unlink()
    (runs[0] / "run.parquet").unlink()
    shutil.rmtree(runs[1])
    (runs[2] / "run.parquet").unlink()
    untouched = {run: (run / "result.json").stat().st_mtime_ns for run in runs[3:]}
    assert sweep(own) == 0
    assert table(own, capsys) == first
    assert untouched == {run: (run / "result.json").stat().st_mtime_ns for run in runs[3:]}


def test_a_sweep_goes_on_from_an_export_and_runs_only_what_is_missing(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = table(own, capsys)
    published = tmp_path / "published"
    assert main(["export", "--runs", str(own), "--out", str(published)]) == 0
    epochs = len(Store(own).query("SELECT epoch FROM epochs"))
    assert capsys.readouterr().out == f"7 runs with {epochs} epochs, 0.0 MB; written to {published}\n"
    assert table(published, capsys) == first
    assert sweep(published) == 0
    assert not list(published.glob("tiny"))
    found = commands.listed(SweepConfig(names=("table-tiny",), protocol="tiny", runs=published))
    assert (found["runs"], found["complete"]) == (7, 7)

    assert sweep(published, seeds=3) == 0  # a run of the base calibrates those of InfoBatch: it is needed again
    made = sorted(folder.parent.name.rpartition("-")[0] + f" {folder.name}" for folder in published.glob("tiny/*/*"))
    assert made == [
        "blobs-symmetric30-dynamic-random-P50 seed2",
        "blobs-symmetric30-full seed2",
        "blobs-symmetric30-infobatch seed0",
        "blobs-symmetric30-infobatch-P50 seed2",
    ]
    assert len(Store(published).query("SELECT * FROM runs")) == 10
    assert main(["export", "--runs", str(published), "--out", str(published)]) == 0
    shutil.rmtree(published / "tiny")
    assert ",3," in table(published, capsys).splitlines()[1]  # three seeds


def test_a_run_without_its_proxy_has_it_trained_first_beside_its_folder(dataset: str, tmp_path: Path) -> None:
    settings = {"dataset": dataset, "noise": "symmetric", "noise_rate": 0.3, "recipe.epochs": 4, "device": "cpu"}
    static = {**settings, "method": "small-loss", "prune_ratio": 0.5}
    first = commands.train(configure({**static, "out": str(tmp_path / "run")}))
    assert json.loads((tmp_path / "run-proxy/result.json").read_text())["method"] == "full"
    assert first["proxy_forward_passes"] == 4 * 60 + 60  # its training, and a look at every sample
    given = commands.train(configure({**static, "out": str(tmp_path / "b"), "proxy": str(tmp_path / "run-proxy")}))
    assert (given["accuracy"], given["test_loss"]) == (first["accuracy"], first["test_loss"])
    assert not (tmp_path / "b-proxy").exists()


def test_what_is_wrong_with_a_run_is_found_before_its_proxy_is_trained(dataset: str, tmp_path: Path) -> None:
    settings = {"dataset": dataset, "method": "small-loss", "prune_ratio": 0.5, "device": "cpu"}
    with pytest.raises(ValueError, match="holdout=0.001 holds out 0"):
        commands.train(configure({**settings, "holdout": 0.001, "out": str(tmp_path / "run")}))
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="proxy=None is missing on 2 devices"):
        commands.train(configure({**settings, "devices": 2, "out": str(tmp_path / "run")}))


IN_VAIN = [
    (
        {"method": "dual"},
        "method='dual' cannot choose .*: epochs=30 is out of range, expected at most 4, the epochs of",
    ),
    ({"method": "dual", "coreset.epochs": 5, "coreset.window": 2}, "epochs=5 is out of range, expected at most 4"),
    ({"method": "dyn-unc"}, "method='dyn-unc' .*: window=10 is out of range, expected at most 4, the epochs of"),
    ({"method": "dyn-unc", "coreset.epochs": 5, "coreset.window": 2}, "epochs=5 is out of range, expected at most 4"),
    ({"method": "forgetting", "coreset.epochs": 5}, "epochs=5 is out of range, expected at most 4"),
    ({"method": "forgetting", "recipe.epochs": 1}, "the proxy run has 1 epoch, expected at least 2"),
    ({"method": "prune4rel"}, "Prune4ReL reads augmented views of images, and .*blobs.npz has none"),
    ({"method": "ssp"}, "SSP reads augmented views of images, and .* has none.* --self-supervised FILE, or choose"),
    ({"method": "ssp", "self_supervised": "nowhere.pt"}, "self_supervised='nowhere.pt' is not there"),
    ({"method": "ssp", "coreset.features": "supervised", "coreset.clusters": 61}, "clusters=61 .* at most 60"),
    ({"method": "infobatch+das", "reference": "dual"}, "reference='dual' cannot choose .*: epochs=30 is out of range"),
    ({"method": "infobatch+das", "reference": "ssp"}, "SSP reads augmented views of images, and .* has none"),
    ({"method": "infobatch+das", "reference": "small-loss", "delta": 2.0}, "delta=2.0 is out of range"),
    ({"method": "small-loss", "delta": 2.0}, "delta=2.0 is out of range"),
    (
        {"method": "small-loss", "reference": "clean"},
        "reference='clean' is given with .*blobs.npz, which brings no clean",
    ),
    ({"method": "small-loss", "reference": "nowhere.npy"}, "reference='nowhere.npy' is not there"),
]


@pytest.mark.parametrize("settings, match", IN_VAIN, ids=lambda value: str(value) if isinstance(value, dict) else "")
def test_what_the_proxy_run_could_not_serve_is_found_before_it_is_trained(
    settings: dict[str, object], match: str, dataset: str, tmp_path: Path
) -> None:
    ratio = {"prune_ratio": 0.5} if settings["method"] != "infobatch+das" else {}
    shared = {"dataset": dataset, "recipe.epochs": 4, "device": "cpu", "out": str(tmp_path / "run")}
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        commands.train(configure(shared | ratio | settings))
    assert not list(tmp_path.iterdir())


NO_FEATURES = [
    torch.zeros(59, 4),
    torch.zeros(60),
    torch.zeros(60, 4, dtype=torch.float64),
    torch.full((60, 4), torch.inf),
    {"features": torch.zeros(60, 4)},
    None,
]


@pytest.mark.parametrize("content", NO_FEATURES)
def test_a_file_that_holds_no_features_of_the_samples_is_refused_before_the_proxy_is_trained(
    content: object, dataset: str, tmp_path: Path
) -> None:
    file = tmp_path / "features.pt"
    torch.save(content, file)
    if content is None:
        file.write_bytes(file.read_bytes()[:50])
    settings = {"dataset": dataset, "method": "ssp", "prune_ratio": 0.5, "self_supervised": str(file), "device": "cpu"}
    with pytest.raises(ValueError, match="self_supervised='.*features.pt' (holds|cannot be read)"):
        commands.train(configure({**settings, "out": str(tmp_path / "run")}))
    assert list(tmp_path.iterdir()) == [file]


def test_a_reference_that_is_asked_for_is_chosen_by_a_proxy_whatever_the_method_reads(
    dataset: str, tmp_path: Path
) -> None:
    torch.save(torch.randn(60, 3, generator=torch.Generator().manual_seed(0)), tmp_path / "features.pt")
    shared = {"dataset": dataset, "recipe.epochs": 2, "device": "cpu", "reference_size": 12}
    for method, reference in (("full", "small-loss"), ("infobatch+das", "ssp")):
        out, given = tmp_path / reference, {"self_supervised": str(tmp_path / "features.pt")}
        made = configure({**shared, **given, "method": method, "reference": reference, "out": str(out)})
        assert commands.train(made)["reference_forward_passes"] == 2 * 12
        assert (tmp_path / f"{reference}-proxy/result.json").exists()


def test_the_base_run_calibrates_and_the_stored_rows_say_what_ran(swept: Path) -> None:
    rows = Store(swept).query("SELECT method, prune_ratio, epochs, pruned_share, seed FROM runs")
    base = next(row for row in rows if row["method"] == "infobatch" and row["prune_ratio"] is None)
    half = next(row for row in rows if row["method"] == "infobatch" and row["prune_ratio"] == 0.5)
    assert base["epochs"] == 4
    assert half["epochs"] == round(4 * 0.5 / (1 - base["pruned_share"]))


def test_pictures_and_lists_are_made_from_what_is_there(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in own.glob("tiny/*/seed*/result.json"):
        result = json.loads(file.read_text())
        if (result["method"], result["prune_ratio"]) in {("full", None), ("infobatch", 0.5)}:
            shutil.rmtree(file.parent)
    capsys.readouterr()
    commands.run_sweep(SweepConfig(names=("table-tiny",), protocol="tiny", runs=own, list=True, seeds=1), Report())
    listed = capsys.readouterr().out
    assert "table-tiny" in listed
    assert " 4 │        2 " in listed  # of four runs two are there
    commands.draw_figures(FigureConfig(names=("table-tiny",), protocol="tiny", runs=own, out=tmp_path / "out"))
    assert [file.suffix for file in (tmp_path / "out").iterdir()] == [".png"]


@pytest.mark.usefixtures("tiny")
def test_rows_columns_and_blocks_choose_cells_and_misspelt_ones_are_told(tmp_path: Path, dataset: str) -> None:
    which = SweepConfig(names=("table-tiny",), protocol="tiny")
    protocol = experiments.PROTOCOLS["tiny"]
    ((_, chosen),) = commands.chosen_cells(replace(which, rows=("infobatch",)), protocol)
    assert [cell.row for cell in chosen] == ["Full-training", "InfoBatch"]
    with pytest.raises(ValueError, match="did you mean 'InfoBatch'"):
        commands.chosen_cells(replace(which, rows=("InfoBath",)), protocol)
    with pytest.raises(ValueError, match="columns='sym_0.5' is unknown"):
        commands.chosen_cells(replace(which, columns=("sym_0.5",)), protocol)


def test_a_block_is_shown_alone_but_for_a_block_of_full_training() -> None:
    for name, block, shown in (
        ("table-1", "50", {"0", "50"}),
        ("beyond-batch-losses", "CIFAR-100N, features", {"CIFAR-100N, features"}),
    ):
        which = SweepConfig(names=(name,), protocol="cpu", blocks=(block,))
        ((experiment, chosen),) = commands.chosen_cells(which, experiments.PROTOCOLS["cpu"])
        every = experiments.cells_of(experiment, experiments.PROTOCOLS["cpu"])
        assert {cell.block for cell in chosen} == shown
        assert list(chosen) == [cell for cell in every if cell.block in shown]


def test_the_equal_budget_gives_every_method_as_many_samples_and_runs_of_its_own(own: Path) -> None:
    sweep(own, seeds=1, budget="equal")
    rows = Store(own).query("SELECT method, trained_fraction FROM runs WHERE \"config.budget\" = 'equal'")
    assert {row["method"] for row in rows} == {"infobatch", "dynamic-random"}
    assert {row["trained_fraction"] for row in rows} == {0.5}
    assert len(Store(own).query("SELECT 1 FROM runs WHERE prune_ratio = 0.5 AND seed = 0")) == 4


@pytest.mark.usefixtures("tiny")
def test_settings_that_no_run_can_have_are_refused_with_their_cell(tmp_path: Path) -> None:
    wrong = Cell("50", "InfoBatch", "real", {"dataset": "x.npz", "method": "infobach", "prune_ratio": 0.5})
    with pytest.raises(ValueError, match="50 InfoBatch real: .*infobatch"):
        plan.jobs([wrong], experiments.PROTOCOLS["tiny"], [0], tmp_path)


# -- refused before any job starts --------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The only line that a sweep says, which has been refused."""
    assert main(["sweep", *words]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


def test_data_sets_that_are_missing_are_told_at_once_and_no_job_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["table-1", "table-H", "--protocol", "cpu", "--data-root", str(tmp_path), "--runs", str(tmp_path / "runs")]
    said = refused(capsys, *words)
    assert "without cifar100n (cifar-100-python/: not there, CIFAR-100_human.pt: not there; source: images: the" in said
    assert "news (20news-bydate_py3.pkz: not there; source: scikit-learn" in said
    assert "CIFAR-100_human.pt" not in refused(capsys, *words, "--columns", "clean")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("tiny")
def test_complete_runs_need_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cell,) = (replace(cell, settings={**cell.settings, "dataset": "cifar100n"}) for cell in cells("x.npz")[:1])
    monkeypatch.setitem(experiments.EXPERIMENTS, "table-tiny", Experiment("table-tiny", "a test", lambda _: (cell,)))
    monkeypatch.setattr("alignprune.bench.results.store.is_archived", lambda folder: True)
    with pytest.raises(FileNotFoundError, match="is without cifar100n"):
        sweep(tmp_path, data_root=tmp_path, seeds=1)
    (job,) = plan.jobs([cell], experiments.PROTOCOLS["tiny"], [0], tmp_path)
    job.folder.mkdir(parents=True)
    write_record(job.folder / RESULT, RESULT_KIND, {})
    assert sweep(tmp_path, data_root=tmp_path, seeds=1) == 0


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("file", ["result.json", "job.json", "metrics.jsonl"])
def test_a_complete_run_with_a_damaged_file_fails_and_the_others_are_archived(
    file: str, tiny_runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(tiny_runs, runs)
    for archive in runs.rglob("*.parquet"):
        archive.unlink()
    damaged, *others = sorted(runs.glob("tiny/*/seed0"))
    (damaged / file).write_bytes((damaged / file).read_bytes()[:-9])
    assert sweep(runs, seeds=1, rows=("InfoBatch",)) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith(f"{len(others)} were complete before")
    assert said[1].startswith("failed: ")
    assert f"DamagedFile: path='{damaged / file}' is damaged" in said[1]
    assert len(said) == 3
    assert [(run / "run.parquet").exists() for run in (damaged, *others)] == [False] + [True] * len(others)


@pytest.mark.usefixtures("tiny")
def test_a_library_and_a_device_that_are_missing_are_told_before_any_job_starts(
    tmp_path: Path, dataset: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["table-tiny", "--protocol", "tiny", "--runs", str(tmp_path)]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "device='cuda' is given, but torch sees no GPU" in refused(capsys, *words, "--device", "cuda")
    folds = Cell("0", "five folds", "given", {"dataset": dataset, "method": "full", "folds": 5, "device": "cpu"})
    monkeypatch.setitem(experiments.EXPERIMENTS, "table-tiny", Experiment("table-tiny", "a test", lambda _: (folds,)))
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    assert "pip install 'alignprune[rivals]'" in refused(capsys, *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("tiny")
def test_a_comparison_between_two_rows_is_asked_for_with_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["table", "table-tiny", "--protocol", "tiny", "--runs", str(tmp_path), "--between", "Full-training"]
    assert main([*words, "Dynamic Random"]) == 0
    told = capsys.readouterr().out
    assert "InfoBatch" in told
    assert "Dynamic Random" not in told  # compared with, so no row of its own
    assert main([*words, "Oracle"]) == 2
    assert "between='Oracle' is unknown" in capsys.readouterr().err


def test_the_command_line_lists_every_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--list", "--protocol", "cpu"]) == 0
    listed = capsys.readouterr().out
    assert all(experiment.name in listed for experiment in experiments.get("all"))


@pytest.mark.parametrize(
    "words, told",
    [
        (["sweep", "tabel-1"], "did you mean 'table-1'"),
        (["table", "table-4", "--protocol", "cpu"], "needs the data set 'imagenet'"),
        (["figure", "figure-9"], "experiment='figure-9' is unknown"),
        (["table"], "NAME is missing"),
    ],
)
def test_what_cannot_be_is_told_without_a_traceback(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert told in capsys.readouterr().err


def test_data_check_tells_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "--data-root", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "cifar100n: absent" in said
    assert "missing  cifar-100-python/" in said
    assert "University of Toronto" in said


def test_a_sweep_trains_the_seeds_of_a_head_together_and_finds_what_it_finds_one_by_one(
    swept: Path, tiny: None, tmp_path: Path
) -> None:
    assert sweep(tmp_path, together=False) == 0

    logs = {runs: "".join(file.read_text() for file in runs.glob("tiny/*/seed*/log.txt")) for runs in (swept, tmp_path)}
    assert "seed 1: epoch 4" in logs[swept]
    assert "seed 1: epoch 4" not in logs[tmp_path]
    for result in tmp_path.glob("tiny/*/seed*/result.json"):
        alone = json.loads(result.read_text())
        beside = json.loads((swept / result.relative_to(tmp_path)).read_text())
        assert beside["accuracy"] == pytest.approx(alone["accuracy"], abs=0.04)
        assert beside["test_loss"] == pytest.approx(alone["test_loss"], rel=1e-3)


def test_seeds_are_divided_where_workers_would_wait(dataset: str, tmp_path: Path) -> None:
    jobs = plan.jobs(cells(dataset)[:1], TINY, range(5), tmp_path)

    sizes = {workers: [len(job.alongside) for job in plan.together(jobs, workers)] for workers in (1, 2, 9)}

    assert sizes == {1: [4] * 5, 2: [2, 1, 2, 1, 2], 9: [0] * 5}

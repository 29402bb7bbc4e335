"""An export says what the runs' folders say, and is refused where it is not whole."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignprune.bench.results.exports import export
from alignprune.bench.results.store import Store
from runs import archived

VIEWS = ("runs", "epochs", "rankings")


def rows(root: Path, view: str) -> list[dict[str, Any]]:
    order = {"runs": "", "epochs": ", epoch", "rankings": ", ranking"}[view]
    found = Store(root).query(f"SELECT * EXCLUDE (folder) FROM {view} ORDER BY protocol, cell, seed{order}")
    return [dict(sorted(row.items())) for row in found]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three runs of two cells, with a column that only one of them has."""
    root = tmp_path / "runs"
    archived(root, "aaa", 0)
    archived(root, "aaa", 1, accuracy=0.625, config={"limit": None, "score": {"window": 25}})
    archived(root, "bbb", 0, protocol="short", epochs=None)
    return root


def test_an_export_holds_what_the_folders_hold(runs: Path, tmp_path: Path) -> None:
    done = export([runs], tmp_path / "out")
    assert (done.runs, done.epochs, done.passed_over, done.unarchived) == (3, 4, {}, {})
    assert done.size == sum(file.stat().st_size for file in (tmp_path / "out").iterdir())
    for view in VIEWS:
        assert rows(tmp_path / "out", view) == rows(runs, view)
    exported, stored = Store(tmp_path / "out"), Store(runs)
    assert exported.values(["aaa"], ["accuracy"], "cpu") == stored.values(["aaa"], ["accuracy"], "cpu")
    assert exported.values(["aaa"], ["accuracy"], "short") == {("aaa", "accuracy"): {}}
    assert [row["folder"] for row in exported.runs(["bbb"], "short")] == [None]
    assert exported.exported() == {
        "cpu/cifar100n-infobatch-aaa/seed0",
        "cpu/cifar100n-infobatch-aaa/seed1",
        "short/cifar100n-infobatch-bbb/seed0",
    }
    assert stored.exported() == set()


def test_the_same_runs_give_the_same_files(runs: Path, tmp_path: Path) -> None:
    export([runs], tmp_path / "first")
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    export([tmp_path / "second"], tmp_path / "second")  # of an export, in its place
    for name in ("runs.parquet", "epochs.parquet", "rankings.parquet"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_runs_beside_an_export_count_once_and_from_their_folder(runs: Path) -> None:
    export([runs], runs)
    before = rows(runs, "epochs")
    assert len(rows(runs, "runs")) == 3
    assert before == rows(runs, "epochs")
    assert {row["folder"] for row in Store(runs).runs(["aaa"], "cpu")} == {
        str(runs / "cpu/cifar100n-infobatch-aaa" / f"seed{seed}") for seed in (0, 1)
    }
    shutil.rmtree(runs / "cpu/cifar100n-infobatch-aaa/seed0")
    archived(runs, "aaa", 0, accuracy=0.75)
    archived(runs, "ccc", 0)
    shutil.rmtree(runs / "short")
    assert Store(runs).values(["aaa", "ccc"], ["accuracy"], "cpu") == {
        ("aaa", "accuracy"): {0: 0.75, 1: 0.625},
        ("ccc", "accuracy"): {0: 0.5},
    }
    assert len(Store(runs).runs(["bbb"], "short")) == 1


def test_of_several_folders_the_first_counts_and_it_is_said(runs: Path, tmp_path: Path) -> None:
    archived(tmp_path / "more", "aaa", 0, accuracy=0.875, epochs=[{"epoch": 1}])
    archived(tmp_path / "more", "ccc", 0)
    done = export([tmp_path / "more", runs], tmp_path / "out")
    assert done.passed_over == {str(runs): 1}
    assert (done.runs, done.epochs) == (4, 1 + 2 + 2)
    found = Store(tmp_path / "out").values(["aaa"], ["accuracy"], "cpu")
    assert found == {("aaa", "accuracy"): {0: 0.875, 1: 0.625}}


def test_a_complete_run_that_is_not_archived_is_left_out_and_that_is_said(runs: Path, tmp_path: Path) -> None:
    (runs / "short/cifar100n-infobatch-bbb/seed0/run.parquet").unlink()
    (runs / "cpu/cifar100n-infobatch-aaa/seed1/run.parquet").unlink()
    (runs / "cpu/cifar100n-infobatch-aaa/seed1/result.json").unlink()  # it has not ended
    done = export([runs], tmp_path / "out")
    assert (done.runs, done.unarchived) == (1, {str(runs): 1})
    (runs / "cpu/cifar100n-infobatch-aaa/seed0/run.parquet").unlink()
    with pytest.raises(FileNotFoundError, match="has 2 complete runs, none of them archived, .*: sweep again"):
        export([runs], tmp_path / "other")


def test_runs_of_an_export_are_not_lost(runs: Path, tmp_path: Path) -> None:
    export([runs], tmp_path / "out")
    archived(tmp_path / "more", "ccc", 0)
    with pytest.raises(ValueError, match="has an export with 3 runs that would be lost.* name it in --runs too"):
        export([tmp_path / "more"], tmp_path / "out")
    assert export([tmp_path / "more", tmp_path / "out"], tmp_path / "out").runs == 4


def test_what_is_not_whole_is_refused(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(FileNotFoundError, match="has no complete run"):
        export([tmp_path / "nothing"], out)
    assert not out.exists()
    export([runs], out)
    file = out / "epochs.parquet"
    content = file.read_bytes()
    file.unlink()
    with pytest.raises(FileNotFoundError, match="epochs.parquet is missing in .*out, expected it beside runs.parquet"):
        Store(out).query("SELECT * FROM runs")
    changed = bytearray(content)
    changed[int(np.random.default_rng(0).integers(len(content)))] ^= 1
    file.write_bytes(changed)
    with pytest.raises(ValueError, match="epochs.parquet.*damaged"):
        Store(out).query("SELECT * FROM runs")
    archived(tmp_path / "more", "ccc", 0)
    export([tmp_path / "more"], tmp_path / "other")
    shutil.copy(tmp_path / "other/epochs.parquet", file)
    with pytest.raises(ValueError, match="are of different exports"):
        Store(out).query("SELECT * FROM runs")

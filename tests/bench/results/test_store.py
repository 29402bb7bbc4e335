"""The store gives back what the runs' folders say, at any time, and names the file that it cannot read."""

from __future__ import annotations

import multiprocessing
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from alignprune.bench.files import read_record, save_arrays, write_record
from alignprune.bench.results.store import Store, archive, is_archived
from alignprune.bench.run.folder import RESULT_KIND, read_metrics
from alignprune.bench.run.trace import KIND
from runs import EPOCHS, archived, swept_run


def test_a_run_is_one_row_of_its_job_settings_and_result(tmp_path: Path) -> None:
    folder = archived(tmp_path, "aaa", 3)
    (row,) = Store(tmp_path).runs(["aaa"], "cpu")
    expected = {
        "key": "aaa",
        "protocol": "cpu",
        "seed": 3,
        "accuracy": 0.5,
        "prune_ratio": None,
        "versions.torch": "2.6.0",
        "curves": "[1, 2]",
        "config.limit": None,
        "config.recipe.lr": 5.2,
        "folder": str(folder),
        "train_seconds": None,  # not in this result, yet a column
    }
    assert expected.items() <= row.items()


def test_epochs_are_the_lines_of_the_metrics(tmp_path: Path) -> None:
    archived(tmp_path, "aaa", 1)
    archived(tmp_path, "aaa", 0)
    rows = Store(tmp_path).epochs(["aaa"], "cpu")
    assert [(row["seed"], row["epoch"]) for row in rows] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert all(EPOCHS[row["epoch"] - 1].items() <= row.items() for row in rows)


def test_a_run_without_metrics_has_no_epochs(tmp_path: Path) -> None:
    archive(swept_run(tmp_path, "aaa", 0, epochs=None))
    assert Store(tmp_path).epochs(["aaa"], "cpu") == []
    assert len(Store(tmp_path).runs(["aaa"], "cpu")) == 1


def trace(folder: Path, **truth: np.ndarray) -> None:
    losses = np.float16([[2.0, 1.0, 3.0], [2.5, 0.5, 3.5]])
    arrays = {"losses": losses, "margins": -losses, "reference": np.full(2, np.nan), **truth}
    save_arrays(folder / "trace.npz", KIND, **arrays)


def test_the_labels_of_a_traced_run_are_ranked_where_the_truth_is_known(tmp_path: Path) -> None:
    config = {"loss": None, "recipe": {"label_smoothing": 0.0}}
    known, unknown, bare = (swept_run(tmp_path, "aaa", seed, config=config) for seed in range(3))
    trace(known, is_noisy=np.array([False, False, True]))
    trace(unknown)
    for folder in (known, unknown, bare):
        assert not is_archived(folder)
        archive(folder)
        assert is_archived(folder)
    areas = Store(tmp_path).rankings(["aaa"], ["auroc"], "cpu")
    assert areas["aaa", "mean loss since the start", "auroc"] == {0: 1.0}
    assert len(Store(tmp_path).runs(["aaa"], "cpu")) == 3
    (known / "rankings.parquet").unlink()
    assert not is_archived(known)


def test_columns_keep_their_type_whatever_the_first_runs_lack(tmp_path: Path) -> None:
    archived(tmp_path, "aaa", 0, accuracy=None, config={"limit": None, "score": None})
    archived(tmp_path, "bbb", 0, accuracy=1, config={"limit": 4000, "score": {"window": 25}}, extra="new")
    types = {row["column_name"]: row["column_type"] for row in Store(tmp_path).query("DESCRIBE runs")}
    expected = {"accuracy": "DOUBLE", "seed": "BIGINT", "noise": "VARCHAR", "train_seconds": "DOUBLE"}
    assert expected.items() <= types.items()
    rows = Store(tmp_path).query('SELECT accuracy, "config.limit", "config.score.window", extra FROM runs ORDER BY key')
    assert [tuple(row.values()) for row in rows] == [(None, None, None, None), (1.0, 4000, 25, "new")]


def test_values_by_key_measure_and_seed(tmp_path: Path) -> None:
    for seed, accuracy in ((0, 0.4), (1, 0.5), (2, 0.6)):
        archived(tmp_path, "aaa", seed, accuracy=accuracy, kept_noise=None if seed == 1 else seed / 10)
    archived(tmp_path, "bbb", 0)
    archived(tmp_path, "aaa", 7, protocol="paper")
    found = Store(tmp_path).values(["aaa", "ccc"], ["accuracy", "kept_noise"], "cpu")
    assert found == {
        ("aaa", "accuracy"): {0: 0.4, 1: 0.5, 2: 0.6},
        ("aaa", "kept_noise"): {0: 0.0, 1: None, 2: 0.2},
        ("ccc", "accuracy"): {},
        ("ccc", "kept_noise"): {},
    }


def test_a_measure_that_the_runs_lack_is_refused(tmp_path: Path) -> None:
    archived(tmp_path, "aaa", 0, own_measure=3.0)
    assert Store(tmp_path).values(["aaa"], ["own_measure"], "cpu") == {("aaa", "own_measure"): {0: 3.0}}
    with pytest.raises(ValueError, match="measure='acuracy' is unknown.*did you mean 'accuracy'"):
        Store(tmp_path).values(["aaa"], ["acuracy"], "cpu")


def test_what_a_run_estimates_of_its_noise_has_columns_that_every_file_has(tmp_path: Path) -> None:
    lines = [{"epoch": 1, "memorisation": None}, {"epoch": 2, "memorisation": 0.25, "estimated_noise_rate": 0.4}]
    archive(swept_run(tmp_path, "aaa", 0, epochs=lines, estimated_noise_rate=0.4))
    archived(tmp_path, "bbb", 0)  # of a method that estimates nothing
    found = Store(tmp_path).values(["aaa", "bbb"], ["estimated_noise_rate"], "cpu")
    assert found == {("aaa", "estimated_noise_rate"): {0: 0.4}, ("bbb", "estimated_noise_rate"): {0: None}}
    rows = Store(tmp_path).epochs(["aaa", "bbb"], "cpu")
    assert [row["memorisation"] for row in rows] == [None, 0.25, None, None]
    assert [row["estimated_noise_rate"] for row in rows] == [None, 0.4, None, None]
    empty = Store(tmp_path / "empty")
    assert empty.query("SELECT estimated_noise_rate FROM runs UNION ALL SELECT memorisation FROM epochs") == []


def test_queries_join_runs_and_epochs_and_take_parameters(tmp_path: Path) -> None:
    archived(tmp_path, "aaa", 0, accuracy=0.7)
    archived(tmp_path, "bbb", 0)
    rows = Store(tmp_path).query(
        "SELECT runs.accuracy, min(clean_loss) AS lowest FROM runs JOIN epochs USING (key, protocol, seed) "
        "WHERE key = ? GROUP BY ALL",
        ["aaa"],
    )
    assert rows == [{"accuracy": 0.7, "lowest": 1.0}]


def test_an_empty_store_answers_with_nothing(tmp_path: Path) -> None:
    empty = Store(tmp_path / "absent")
    assert empty.query("SELECT key, accuracy FROM runs UNION ALL SELECT key, clean_loss FROM epochs") == []
    assert empty.values(["aaa"], ["accuracy"], "cpu") == {("aaa", "accuracy"): {}}


def test_a_store_sees_what_is_archived_after_it_was_made(tmp_path: Path) -> None:
    runs = Store(tmp_path)
    assert runs.query("SELECT * FROM runs") == []
    archived(tmp_path, "aaa", 0)
    assert len(runs.query("SELECT * FROM runs")) == 1


def test_archiving_again_replaces_the_row(tmp_path: Path) -> None:
    folder = archived(tmp_path, "aaa", 0)
    stored = read_record(folder / "result.json", RESULT_KIND)
    write_record(folder / "result.json", RESULT_KIND, stored | {"accuracy": 0.9})
    archive(folder)
    assert Store(tmp_path).values(["aaa"], ["accuracy"], "cpu") == {("aaa", "accuracy"): {0: 0.9}}


def test_paths_with_signs_that_patterns_use(tmp_path: Path) -> None:
    root = tmp_path / "runs [old]*?'s"
    archived(root, "aaa", 0)
    assert len(Store(root).runs(["aaa"], "cpu")) == len(Store(root).query("SELECT * FROM runs")) == 1


@pytest.mark.parametrize("name", ["job", "config", "result"])
def test_an_incomplete_run_is_not_archived(tmp_path: Path, name: str) -> None:
    folder = swept_run(tmp_path, "aaa", 0)
    (folder / f"{name}.json").unlink()
    with pytest.raises(FileNotFoundError, match=f"is without {name}.json"):
        archive(folder)
    assert not list(folder.glob("*.parquet"))


def test_damaged_metrics_are_named(tmp_path: Path) -> None:
    folder = swept_run(tmp_path, "aaa", 0)
    (folder / "metrics.jsonl").write_text('{"epoch": 1}\n{"epoch": ')
    with pytest.raises(ValueError, match="metrics.jsonl' is damaged or was changed by hand"):
        archive(folder)
    (folder / "result.json").unlink()  # of a run that has not ended the checkpoint has them, and here there is none
    assert read_metrics(folder) == []


@pytest.mark.parametrize("name", ["run.parquet", "epochs.parquet"])
def test_every_flipped_bit_of_a_table_is_found(tmp_path: Path, name: str) -> None:
    file = archived(tmp_path, "aaa", 0) / name
    content = file.read_bytes()
    for place in np.random.default_rng(0).choice(8 * len(content), 60, replace=False).tolist():
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        file.write_bytes(changed)
        with pytest.raises(ValueError, match=name):
            Store(tmp_path).query("SELECT * FROM runs, epochs")
        assert not is_archived(file.parent)


def test_a_value_of_the_wrong_type_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="accuracy=\\['high'\\] in .*seed0 cannot be stored"):
        archived(tmp_path, "aaa", 0, accuracy="high")


def copied(folder: Path, place: Path) -> None:
    shutil.copytree(folder, place)


def linked(folder: Path, place: Path) -> None:
    place.symlink_to(folder)


@pytest.mark.parametrize("double", [copied, linked])
@pytest.mark.parametrize(
    "of, place",
    [
        ("cpu/cifar100n-infobatch-aaa/seed0", "cpu/cifar100n-infobatch-aaa/seed1"),
        ("cpu/cifar100n-infobatch-aaa/seed0", "cpu/cifar100n-infobatch-aaa/seed0 (copy)"),
        ("cpu/cifar100n-infobatch-aaa", "cpu/copy-aaa"),
        ("cpu/cifar100n-infobatch-aaa", "cpu/.backup-aaa"),
        ("cpu", "cpu-old"),
        ("cpu", "cpu-aaa"),
    ],
)
def test_a_run_that_is_there_twice_is_refused_and_the_copy_named(
    tmp_path: Path, double: Callable[[Path, Path], None], of: str, place: str
) -> None:
    folder = archived(tmp_path, "aaa", 0)
    double(tmp_path / of, tmp_path / place)
    copy = tmp_path / str(folder.relative_to(tmp_path)).replace(of, place)
    if not place.startswith("cpu-"):  # another protocol is not asked for
        with pytest.raises(ValueError, match=f"{re.escape(str(copy))} is not the folder of its run.* remove it"):
            Store(tmp_path).runs(["aaa"], "cpu")
    with pytest.raises(
        ValueError, match=f"{re.escape(str(copy))} is not .*, which is cpu/cifar100n-infobatch-aaa/seed0"
    ):
        Store(tmp_path).query("SELECT count(*) FROM runs")
    if double is copied:
        with pytest.raises(ValueError, match="belongs in cpu/cifar100n-infobatch-aaa/seed0.* if this is a copy remove"):
            archive(copy)
        shutil.rmtree(tmp_path / place)
    else:
        (tmp_path / place).unlink()
    assert len(Store(tmp_path).query("SELECT * FROM runs")) == 1


def test_runs_that_lie_elsewhere_are_read_through_a_link_of_their_name(tmp_path: Path) -> None:
    archived(tmp_path / "disk", "aaa", 0)
    (tmp_path / "runs/cpu").mkdir(parents=True)
    (tmp_path / "runs/cpu/cifar100n-infobatch-aaa").symlink_to(tmp_path / "disk/cpu/cifar100n-infobatch-aaa")
    assert len(Store(tmp_path / "runs").runs(["aaa"], "cpu")) == 1


@pytest.mark.parametrize("content", [b"", b"PAR1 and then nothing of use"])
def test_a_half_written_file_is_named(tmp_path: Path, content: bytes) -> None:
    archived(tmp_path, "aaa", 0)
    broken = archived(tmp_path, "bbb", 0) / "run.parquet"
    broken.write_bytes(content)
    with pytest.raises(ValueError, match=r"cifar100n-infobatch-bbb/seed0/run.parquet.*archive"):
        Store(tmp_path).query("SELECT * FROM runs")
    assert len(Store(tmp_path).runs(["aaa"], "cpu")) == 1


def test_a_foreign_file_is_named(tmp_path: Path) -> None:
    folder = archived(tmp_path, "aaa", 0)
    stranger = tmp_path / "cpu" / "x-bbb" / "seed0"
    stranger.mkdir(parents=True)
    pq.write_table(pq.read_table(folder / "run.parquet").select(["accuracy"]), stranger / "run.parquet")
    with pytest.raises(ValueError, match="x-bbb/seed0/run.parquet' is damaged"):
        Store(tmp_path).query("SELECT avg(accuracy) FROM runs")


def test_a_wrong_query_stays_the_databases_error(tmp_path: Path) -> None:
    with pytest.raises(duckdb.Error, match="acuracy"):
        Store(tmp_path).query("SELECT acuracy FROM runs")


def write_many(root: Path, writer: int, count: int) -> None:
    for seed in range(count):
        archived(root, f"w{writer}", seed, accuracy=seed / 100)
        archive(root / "cpu" / f"cifar100n-infobatch-w{writer}" / f"seed{seed}")  # replaced while others read


def test_writers_and_readers_never_collide(tmp_path: Path) -> None:
    writers, count = 3, 8
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=write_many, args=(tmp_path, writer, count)) for writer in range(writers)]
    for process in processes:
        process.start()
    seen = [0]
    while any(process.is_alive() for process in processes):
        time.sleep(0.02)  # leave the writers some of the machine
        seen.append(Store(tmp_path).query("SELECT count(*) AS n FROM runs JOIN epochs USING (key, seed)")[0]["n"])
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert seen == sorted(seen)
    found = Store(tmp_path).values([f"w{writer}" for writer in range(writers)], ["accuracy"], "cpu")
    assert list(found.values()) == [{seed: seed / 100 for seed in range(count)}] * writers
    assert not list(tmp_path.rglob("*.partial"))

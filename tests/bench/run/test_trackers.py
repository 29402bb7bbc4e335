"""Numbers of a run where they are watched: each epoch's, in every tracker, and none of them needed."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignprune.bench.run import trackers
from alignprune.bench.run.config import configure
from alignprune.bench.run.trackers import TrackerRecord
from alignprune.bench.run.training import train
from alignprune.cli import main


@pytest.fixture
def data(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    x = (4 * rng.normal(size=(3, 5))[y] + rng.normal(size=(90, 5))).astype(np.float32)
    np.savez(tmp_path / "own.npz", x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    return str(tmp_path / "own.npz")


def settings(data: str, out: Path, method: str = "seta", **others: Any) -> dict[str, Any]:
    small = {"recipe.epochs": 4, "recipe.batch_size": 16, "recipe.lr": 0.02, "device": "cpu"}
    return {"dataset": data, "method": method, "out": str(out), **small, **others}


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def finite(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if value is not None}


@pytest.fixture
def heard() -> Iterator[dict[str, Any]]:
    """What a tracker of one's own hears, registered as "list"."""
    found: dict[str, Any] = {"epochs": []}

    class List:
        def log(self, epoch: int, metrics: Mapping[str, float]) -> None:
            found["epochs"].append((epoch, dict(metrics)))

    @contextlib.contextmanager
    def open_list(folder: Path, settings: Mapping[str, Any], resumed: bool) -> Iterator[List]:
        found.update(folder=folder, settings=settings, resumed=resumed)
        yield List()
        found["closed"] = True

    trackers.register(TrackerRecord("list", "a list", None, "-", open_list))
    yield found
    del trackers._STORE["list"]


def test_a_tracker_hears_what_the_folder_stores_and_what_the_pruner_says(
    data: str, tmp_path: Path, heard: dict[str, Any]
) -> None:
    train(configure(settings(data, tmp_path / "run", track="list")))
    rows = rows_of(tmp_path / "run")
    assert [epoch for epoch, _ in heard["epochs"]] == [1, 2, 3, 4]
    for (_, metrics), row in zip(heard["epochs"], rows, strict=True):
        own = {name: value for name, value in metrics.items() if not name.startswith("pruner/")}
        assert own == finite(row)
        assert all(isinstance(value, float) and math.isfinite(value) for value in metrics.values())
    said = [metrics for _, metrics in heard["epochs"]]
    assert [metrics["pruner/epoch"] for metrics in said] == [1, 2, 3, 4]
    assert {"pruner/threshold_low", "pruner/threshold_high", "pruner/overhead_seconds", "pruner/nonfinite"} <= set(
        said[0]
    )
    # The pruner speaks of the coming epoch, the row of the one that has ended.
    assert [metrics["pruner/pruned_share"] for metrics in said[:-1]] == [row["pruned_share"] for row in rows[1:]]
    lowest = [metrics.get("pruner/threshold_low") for metrics in said[:-1]]
    assert lowest == [row["threshold_low"] for row in rows[1:]]
    assert None not in lowest[:2]  # but in the last epoch, which anneals
    assert heard["folder"] == tmp_path / "run"
    assert heard["settings"]["recipe"]["epochs"] == 4
    assert (heard["resumed"], heard["closed"]) == (False, True)


def test_who_watches_changes_nothing_and_may_change_when_a_run_is_resumed(
    data: str, tmp_path: Path, heard: dict[str, Any]
) -> None:
    plain = train(configure(settings(data, tmp_path / "plain")))
    watched = train(configure(settings(data, tmp_path / "watched", track="list")))
    assert (plain["accuracy"], plain["test_loss"]) == (watched["accuracy"], watched["test_loss"])
    assert train(configure(settings(data, tmp_path / "watched", resume=True))) == watched


def test_an_epoch_says_what_pruning_cost_and_how_the_training_samples_were_classified(
    data: str, tmp_path: Path
) -> None:
    train(configure(settings(data, tmp_path / "run", method="robust", **{"policy.noise_rate": 0.1})))
    rows = rows_of(tmp_path / "run")
    assert all(0 < row["overhead_seconds"] < row["seconds"] for row in rows)
    assert [row["nonfinite"] for row in rows] == [0, 0, 0, 0]
    assert rows[0]["train_accuracy"] < rows[-1]["train_accuracy"] <= 1
    assert all((row["train_accuracy"] * round(60 * (1 - row["pruned_share"]))) % 1 < 1e-9 for row in rows)


def test_tensorboard_holds_every_number_of_every_epoch(data: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra track is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    train(configure(settings(data, run, track="tensorboard")))
    stored = EventAccumulator(str(run / "tensorboard")).Reload()
    rows = rows_of(run)
    for name in ("accuracy", "train_loss", "pruned_share", "overhead_seconds", "nonfinite"):
        events = stored.Scalars(name)
        assert [event.step for event in events] == [1, 2, 3, 4]
        np.testing.assert_allclose([event.value for event in events], [row[name] for row in rows], rtol=1e-6)
    assert [event.step for event in stored.Scalars("pruner/progress")] == [1, 2, 3, 4]


def test_trackio_holds_every_number_of_every_epoch(data: str, tmp_path: Path) -> None:
    pytest.importorskip("trackio", reason="the extra trackio is not installed")
    code = """
import json, sys
from alignprune.bench.run.config import configure
from alignprune.bench.run.training import train
train(configure(json.loads(sys.argv[1])))
from trackio.sqlite_storage import SQLiteStorage
print(json.dumps(SQLiteStorage.get_logs("alignprune", sys.argv[2])))
"""
    run = tmp_path / "run"
    words = [json.dumps(settings(data, run, track="trackio")), str(run)]
    where = {"TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, env={**os.environ, **where}
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()  # Trackio's greetings are kept from the output
    logs = json.loads(line)
    rows = rows_of(run)
    assert [log["step"] for log in logs] == [1, 2, 3, 4]
    for log, row in zip(logs, rows, strict=True):
        assert {name: log[name] for name in finite(row)} == pytest.approx(finite(row))
        assert log["pruner/epoch"] == row["epoch"]


def test_the_documented_tracker_of_ones_own_hears_every_epoch(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[3] / "docs/runs.md").read_text()
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "trackers.register" in block)
    try:
        exec(code, {})
        train(configure(settings(data, tmp_path / "run", track="print")))
    finally:
        del trackers._STORE["print"]
    losses = [str(row["train_loss"]) for row in rows_of(tmp_path / "run")]
    assert capsys.readouterr().out.split() == [word for i, loss in enumerate(losses, 1) for word in (str(i), loss)]


@pytest.mark.parametrize("name, extra", [("tensorboard", "track"), ("trackio", "trackio")])
def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_written(
    name: str,
    extra: str,
    data: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    out = tmp_path / "run"
    assert main(["train", data, "--method", "seta", "--track", name, "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"pip install 'alignprune[{extra}]'" in said
    assert not out.exists()


def test_a_tracker_that_there_is_not_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "digits", "--track", "tensorbord"]) == 2
    assert "track='tensorbord' is unknown" in capsys.readouterr().err
    with pytest.raises(ValueError, match="name='trackio' is taken"):
        trackers.register(trackers.TRACKERS["trackio"])
    with pytest.raises(TypeError, match="expected a TrackerRecord"):
        trackers.register("tensorboard")  # type: ignore[arg-type]

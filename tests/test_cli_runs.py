"""Runs that are there: listed by their folders, compared side by side."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from alignprune.bench.run.folder import CONFIG, METRICS, RESULT
from alignprune.bench.run.lock import locked
from alignprune.cli import main
from runs import complete_run

CONFIGURATION: dict[str, Any] = {
    "version": 2,
    "dataset": "digits",
    "noise": "symmetric",
    "noise_rate": 0.4,
    "method": "robust",
    "policy": {"kind": "Robust", "refresh": 0.1},
    "prune_ratio": None,
    "recipe": {"name": "sgd", "epochs": 3, "lr": 0.1},
    "seed": 0,
}
RECORD = {"epochs": 3, "accuracy": 0.9, "forward_fraction": 0.5}


def epoch(number: int, accuracy: float | None, **others: Any) -> dict[str, Any]:
    return {"epoch": number, "accuracy": accuracy, "forward_passes": 100 * number, "seconds": 2.0, **others}


EPOCHS = [epoch(1, 0.5, suspects=None), epoch(2, None, suspects=41), epoch(3, 0.9, suspects=43)]


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    return said.err


def states(capsys: pytest.CaptureFixture[str], root: Path) -> dict[str, str]:
    return {Path(run["folder"]).name: run["state"] for run in answer(capsys, "runs", str(root))}


# -- runs ---------------------------------------------------------------------------------------------------


def test_a_finished_run_is_listed_with_what_came_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    complete_run(tmp_path / "deep/down/run", None, CONFIGURATION, RECORD, EPOCHS)
    (found,) = answer(capsys, "runs", str(tmp_path))
    changed = found.pop("changed")
    assert changed.endswith("+00:00")
    assert found == {
        "folder": str(tmp_path / "deep/down/run"),
        "state": "finished",
        "reason": None,
        "dataset": "digits",
        "method": "robust",
        "noise": "symmetric",
        "noise_rate": 0.4,
        "seed": 0,
        "epochs_done": 3,
        "epochs": 3,
        "accuracy": 0.9,
        "suspects": 43,
        "forward_fraction": 0.5,
    }
    assert main(["runs", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    for cell in ("deep/down/run", "finished", "symmetric 40%", "3/3", "90.00%", "50.0%", "43"):
        assert cell in shown


def test_the_files_of_a_run_say_how_it_stands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("interrupted", "failed", "running"):
        complete_run(tmp_path / name, None, CONFIGURATION, None, EPOCHS[:1])
    (tmp_path / "failed/error.json").write_text('{"error": "ValueError: no data", "attempts": 2}')
    for name in ("finished", "config", "result", "metrics"):
        complete_run(tmp_path / name, None, CONFIGURATION, RECORD, EPOCHS)
    for name in (CONFIG, RESULT, METRICS):
        file = tmp_path / name.partition(".")[0] / name
        file.write_text(file.read_text().replace("0.9", "0.8").replace('"seed": 0', '"seed": 1'))
    with locked(tmp_path / "running"):
        found = {Path(run["folder"]).name: run for run in answer(capsys, "runs", str(tmp_path))}
    assert {name: run["state"] for name, run in found.items()} == {
        "interrupted": "interrupted",
        "failed": "failed",
        "running": "running",
        "finished": "finished",
        "config": "damaged",
        "result": "damaged",
        "metrics": "damaged",
    }
    assert found["failed"]["reason"] == "ValueError: no data"
    assert all(f"{name}/" in found[name]["reason"] for name in ("config", "result", "metrics"))
    assert (found["running"]["epochs_done"], found["running"]["accuracy"]) == (1, 0.5)
    assert states(capsys, tmp_path)["running"] == "interrupted"  # whoever was there has left


def test_a_run_whose_process_was_killed_is_interrupted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    complete_run(tmp_path / "run", None, CONFIGURATION, None, EPOCHS[:2])
    with locked(tmp_path / "run"):
        holder = (tmp_path / "run/.holder").read_text()
    (tmp_path / "run/.holder").write_text(holder)
    assert states(capsys, tmp_path) == {"run": "interrupted"}


def test_metrics_that_no_seal_guards_yet_and_cannot_be_read_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    complete_run(tmp_path / "run", None, CONFIGURATION, None, EPOCHS[:1])
    (tmp_path / "run" / METRICS).write_text('{"epoch": 1')
    (found,) = answer(capsys, "runs", str(tmp_path))
    assert found["state"] == "damaged"
    assert METRICS in found["reason"]


def test_the_newest_run_is_the_last_and_folds_belong_to_their_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for age, name in enumerate(("new", "older", "oldest")):
        folder = complete_run(tmp_path / name, None, CONFIGURATION, RECORD, EPOCHS)
        complete_run(folder / "fold0", None, CONFIGURATION, RECORD, EPOCHS)
        os.utime(folder / RESULT, (1e9 - age, 1e9 - age))
    found = answer(capsys, "runs", str(tmp_path))
    assert [Path(run["folder"]).name for run in found] == ["oldest", "older", "new"]
    assert found[-1]["changed"] == "2001-09-09T01:46:40+00:00"


def test_epochs_that_a_budget_decides_are_not_promised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    budget = {**CONFIGURATION, "prune_ratio": 0.5, "budget": "equal"}
    complete_run(tmp_path / "run", None, budget, None, EPOCHS[:2])
    (found,) = answer(capsys, "runs", str(tmp_path))
    assert (found["epochs_done"], found["epochs"]) == (2, None)


def test_a_folder_without_runs_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "folder='runs' is not there" in refused(capsys, "runs")
    assert f"folder='{tmp_path}' holds no run" in refused(capsys, "runs", str(tmp_path))
    (tmp_path / "file").touch()
    assert "is a file, expected a folder" in refused(capsys, "runs", "file")


# -- compare ------------------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    """Two finished runs, of which the second has another policy, another learning rate, and knows its wrong labels."""
    other = {**CONFIGURATION, "method": "full", "policy": {"kind": "Full", "share": 1.0}}
    other["recipe"] = {**CONFIGURATION["recipe"], "lr": 0.2}
    known = [{**row, "kept_noise": 0.4} for row in EPOCHS]
    first = complete_run(tmp_path / "all/first", None, CONFIGURATION, RECORD, EPOCHS)
    second = complete_run(tmp_path / "all/second", None, other, {**RECORD, "accuracy": 0.7}, known)
    return [str(first), str(second)]


def test_what_differs_and_what_came_of_it_is_answered(
    pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out/picture.svg"
    found = answer(capsys, "compare", "--out", str(out), *pair)
    assert found["settings"] == {
        "method": ["robust", "full"],
        "policy.kind": ["Robust", "Full"],
        "recipe.lr": [0.1, 0.2],
    }
    expected = {
        "state": ["finished"] * 2,
        "epochs": [3, 3],
        "accuracy": [0.9, 0.7],
        "best accuracy": [0.9, 0.9],
        "forward passes": [300, 300],
        "of a full training": [0.5, 0.5],
        "wrong labels kept": [None, 0.4],
        "suspects": [43, 43],
        "seconds": [6.0, 6.0],
    }
    assert found["results"] == expected
    assert [run["folder"] for run in found["runs"]] == pair
    assert out.read_text().startswith("<?xml")


def test_lines_have_the_colour_of_their_run_in_every_panel(pair: list[str]) -> None:
    side_by_side = pytest.importorskip("alignprune.bench.results.side_by_side", reason="matplotlib is not installed")
    accuracy, kept = side_by_side.picture(side_by_side.read([Path(run) for run in pair])).axes
    lines = {line.get_label(): line for line in accuracy.lines}
    assert list(lines) == ["first", "second"]
    assert lines["first"].get_xydata().tolist() == [[100, 50], [300, 90]]
    (line,) = kept.lines
    assert (line.get_label(), line.get_color()) == ("second", lines["second"].get_color())
    assert lines["first"].get_color() != lines["second"].get_color()


def test_a_run_that_is_not_finished_is_compared_by_its_epochs_and_says_so(
    pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = complete_run(tmp_path / "all/half", None, CONFIGURATION, None, EPOCHS[:2])
    words = ["compare", pair[0], str(half), "--out", str(tmp_path / "picture.png")]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "half is interrupted: compared by the 2 epochs that it has" in shown
    found = answer(capsys, *words)
    assert found["results"]["forward passes"] == [300, 200]
    assert found["results"]["of a full training"] == [0.5, None]


@pytest.mark.parametrize("count", [0, 1, 7])
def test_other_numbers_of_runs_than_two_to_six_are_refused(count: int, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "compare", *(f"run{place}" for place in range(count)))
    assert f" holds {count}, expected two to 6" in said


def test_what_cannot_be_compared_is_refused_and_nothing_is_written(
    pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    empty = str(complete_run(tmp_path / "all/empty", None, CONFIGURATION, None))
    assert "more than once" in refused(capsys, "compare", pair[0], pair[1], "all/first")
    assert "is no run" in refused(capsys, "compare", pair[0], str(tmp_path))
    assert "has no epoch that has ended" in refused(capsys, "compare", pair[0], empty)
    assert "suffix='.gif' is unknown" in refused(capsys, "compare", *pair, "--out", "picture.gif")
    (Path(pair[1]) / METRICS).write_text("")
    assert "is damaged" in refused(capsys, "compare", *pair)
    assert {file.name for file in tmp_path.iterdir()} == {"all"}

"""The picture of one's own run: its lines are the numbers of the folder, and a picture that fails leaves nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from alignprune.bench.files import save_arrays
from alignprune.bench.results import charts, one_run
from alignprune.bench.run.trace import KIND
from alignprune.cli import main
from runs import complete_run

ROWS: list[dict[str, Any]] = [
    {
        "epoch": epoch,
        "accuracy": None if epoch == 2 else 0.2 * epoch,
        "train_accuracy": 0.1 * epoch,
        "test_loss": None if epoch == 2 else 3.0 - epoch / 2,
        "train_loss": 4.0 - epoch,
        "reference_loss": None,
        "pruned_share": 0.25,
        "estimated_noise_rate": 0.4 if epoch > 2 else None,
    }
    for epoch in (1, 2, 3, 4)
]


def write_run(folder: Path, rows: list[dict[str, Any]] = ROWS, **arrays: Any) -> Path:
    complete_run(folder, None, {"dataset": "digits", "method": "robust", "seed": 3}, None, rows)
    if arrays:
        save_arrays(folder / "trace.npz", KIND, **arrays)
    return folder


def lines(figure: Figure) -> dict[str, dict[str, tuple[list[float], list[float]]]]:
    """By panel and name the places and the values of its lines."""
    return {
        axes.get_title(): {
            str(line.get_label()): (list(map(float, line.get_xdata())), list(map(float, line.get_ydata())))  # type: ignore[arg-type]
            for line in axes.get_lines()
        }
        for axes in figure.axes
    }


def test_the_lines_are_the_numbers_of_the_epochs_that_have_them(tmp_path: Path) -> None:
    figure = one_run.picture(write_run(tmp_path / "run"))
    found = lines(figure)
    assert list(found) == ["Accuracy", "Loss", "Pruning"]
    assert found["Accuracy"]["test"] == ([1, 3, 4], pytest.approx([0.2, 0.6, 0.8]))
    assert found["Accuracy"]["training, by the given labels"] == ([1, 2, 3, 4], pytest.approx([0.1, 0.2, 0.3, 0.4]))
    assert found["Loss"] == {"test": ([1, 3, 4], [2.5, 1.5, 1]), "training": ([1, 2, 3, 4], [3, 2, 1, 0])}
    assert found["Pruning"] == {
        "left out": ([1, 2, 3, 4], [0.25] * 4),
        "estimated noise rate": ([3, 4], [0.4, 0.4]),
    }
    assert figure.get_suptitle().startswith("digits: robust, seed 3")


def test_a_name_with_dollars_is_no_mathematics(tmp_path: Path) -> None:
    charts.save(one_run.picture(write_run(tmp_path / r"a$\b$c$d")), tmp_path / "run.svg")
    assert r"a$\b$c$d" in (tmp_path / "run.svg").read_text()  # the title, as a comment beside its outlines


@pytest.mark.parametrize("truth", [True, False])
def test_a_trace_adds_the_distribution_of_the_losses(truth: bool, tmp_path: Path) -> None:
    losses = np.random.default_rng(0).exponential(size=(9, 500)).astype(np.float16)
    losses[0, :100] = np.nan
    losses[8] = np.nan  # nobody was seen
    wrong = np.arange(500) % 5 == 0
    known = {"is_noisy": wrong} if truth else {}
    trace = {"losses": losses, "margins": losses, "reference": np.full(9, np.nan, np.float32), **known}
    axes = one_run.picture(write_run(tmp_path / "run", **trace)).axes[-1]
    assert axes.get_title() == "Recorded losses"
    shown = {str(patch.get_label()): patch.get_data() for patch in axes.patches}  # type: ignore[attr-defined]
    limit = np.nanquantile(losses[[0, 4, 7]].astype(np.float32), 0.995)
    kinds = {", right labels": ~wrong, ", wrong labels": wrong} if truth else {"": np.full(500, True)}
    expected = {}
    for epoch in (0, 4, 7):
        for kind, mask in kinds.items():
            values = losses[epoch][mask & ~np.isnan(losses[epoch])].astype(np.float32)
            beyond = f"; {(values > limit).sum()} beyond" if (values > limit).any() else ""
            expected[f"epoch {epoch + 1}{kind} ({len(values)}{beyond})"] = values[values <= limit]
    assert list(shown) == list(expected)
    assert sum("beyond" in label for label in shown) >= 2
    for label, data in shown.items():
        np.testing.assert_array_equal(data.values, np.histogram(expected[label], np.linspace(0, limit, 40))[0])
        assert data.values.sum() == len(expected[label])  # no bin holds what lies beyond the axis


def test_a_trace_without_a_finite_loss_has_no_panel(tmp_path: Path) -> None:
    nothing = np.full((3, 5), np.nan, np.float16)
    run = write_run(tmp_path / "run", losses=nothing, margins=nothing, reference=nothing[:, 0])
    assert [axes.get_title() for axes in one_run.picture(run).axes] == ["Accuracy", "Loss", "Pruning"]


def test_the_command_draws_folders_of_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "figures"
    runs = [str(write_run(tmp_path / name)) for name in ("first", "second")]
    assert main(["figure", *runs, "--out", str(out)]) == 0
    assert sorted(file.name for file in out.iterdir()) == ["first.png", "second.png"]
    assert (out / "first.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.splitlines() == [f"written to {out / name}" for name in ("first.png", "second.png")]


def test_a_figure_that_fails_leaves_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "figures"
    (tmp_path / "empty").mkdir()
    begun = str(write_run(tmp_path / "begun", rows=[]))
    same = [str(write_run(tmp_path / place / "seed0")) for place in ("a", "b")]
    damaged = write_run(tmp_path / "damaged")
    (damaged / "checkpoint.pt").write_bytes(b"half of it")
    for words, said in (
        ([str(tmp_path / "empty")], "is no run"),
        ([begun], "has no epoch that has ended"),
        ([str(damaged)], "is damaged"),
        (same, "2 runs in folders called 'seed0'"),
        ([same[0], "--rows", "Robust"], "rows=('Robust',) is given with the folder of a run"),
        (["figure-3", "--protocol", "cpu", "--runs", str(tmp_path / "none")], "has no run to draw"),
        (["figure-9"], "experiment='figure-9' is unknown"),
    ):
        assert main(["figure", *words, "--out", str(out)]) == 2
        assert said in capsys.readouterr().err
        assert not out.exists()

"""Training without what confident learning flags: who is left out, what it costs, and what it needs first."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignprune.bench import commands
from alignprune.bench.grid import plan
from alignprune.bench.grid.cells import Cell, Protocol
from alignprune.bench.run.config import TrainConfig, configure
from alignprune.bench.run.training import train
from alignprune.errors import MissingExtra

cleanlab_filter = pytest.importorskip("cleanlab.filter", reason="cleanlab is of the extra rivals")

EPOCHS, SAMPLES = 6, 300


def config(out: Path, **changes: Any) -> TrainConfig:
    samples = {"dataset": "digits", "limit": SAMPLES, "noise": "symmetric", "noise_rate": 0.3, "device": "cpu"}
    recipe = {"recipe": "features", "recipe.epochs": EPOCHS, "recipe.batch_size": 16, "recipe.lr": 5e-3}
    settings = {**samples, **recipe, "method": "full", "model": "mlp", "evaluate_every": EPOCHS}
    return configure({**settings, "out": str(out), **changes})


def filtered(folds: Path) -> dict[str, Any]:
    return {"without_issues": True, "cross_validation": str(folds)}


def arrays(file: Path) -> Mapping[str, Any]:
    with np.load(file) as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a cross-validation."""
    folder = tmp_path_factory.mktemp("runs") / "folds"
    commands.train(config(folder, folds=3))
    return folder


def test_it_trains_on_what_cleanlab_leaves_and_counts_what_the_folds_have_cost(folds: Path, tmp_path: Path) -> None:
    found = arrays(folds / "probabilities.npz")
    flagged = cleanlab_filter.find_label_issues(found["labels"], found["probabilities"].astype(np.float64), n_jobs=1)
    result = train(config(tmp_path / "run", **filtered(folds)))
    left, whole = arrays(tmp_path / "run/noise.npz"), arrays(folds / "noise.npz")
    assert 0 < flagged.sum() < SAMPLES
    for name in ("labels", "clean"):
        np.testing.assert_array_equal(left[name], whole[name][~flagged])
    assert found["is_noisy"][flagged].mean() > 0.7  # of 0.3
    assert result["kept_noise"] == pytest.approx(found["is_noisy"][~flagged].mean())
    assert result["train_size"] == SAMPLES - flagged.sum()
    assert result["forward_fraction"] == pytest.approx(result["train_size"] / SAMPLES)
    assert result["proxy_forward_passes"] == json.loads((folds / "result.json").read_text())["forward_passes"]


def test_the_equal_budget_is_that_of_all_samples(folds: Path, tmp_path: Path) -> None:
    result = train(config(tmp_path / "run", prune_ratio=0.25, budget="equal", **filtered(folds)))
    assert result["trained_fraction"] * EPOCHS * SAMPLES == pytest.approx(0.75 * EPOCHS * SAMPLES)


def test_samples_held_out_are_seen_by_no_fold(folds: Path, tmp_path: Path) -> None:
    shared = {"stop_on_holdout": 0.2}
    seen = commands.train(config(tmp_path / "folds", folds=3, **shared))
    assert seen["train_size"] == 0.8 * SAMPLES
    assert seen["trained_fraction"] == pytest.approx(3 * 144 / SAMPLES)  # 160 outside of each fold, 16 choose its epoch
    result = train(config(tmp_path / "run", **shared, **filtered(tmp_path / "folds")))
    assert result["chosen_epoch"] is not None
    assert result["train_size"] < 0.8 * SAMPLES
    assert result["forward_fraction"] == pytest.approx(result["train_size"] / SAMPLES)
    with pytest.raises(ValueError, match=r"cross_validation=.*folds.* is a run on other samples or labels"):
        train(config(tmp_path / "other", **shared, **filtered(folds)))
    assert not (tmp_path / "other").exists()


def test_a_run_whose_cross_validation_has_moved_goes_on(folds: Path, tmp_path: Path) -> None:
    result = train(config(tmp_path / "run", **filtered(folds)))
    shutil.copytree(folds, tmp_path / "moved")
    (tmp_path / "run/result.json").unlink()
    again = train(config(tmp_path / "run", resume=True, **filtered(tmp_path / "moved")))
    assert again["accuracy"] == result["accuracy"]
    with pytest.raises(ValueError, match="without_issues: True there, False now"):
        train(config(tmp_path / "run", resume=True))


def test_in_a_sweep_the_cross_validation_comes_first_and_is_shared(tmp_path: Path) -> None:
    shared = {"dataset": "digits", "noise": "symmetric", "noise_rate": 0.3, "method": "full"}
    cells = [
        Cell("", "folds", "", {**shared, "folds": 5}),
        Cell("", "filtered", "", {**shared, "without_issues": True, "ema": 0.9}),
        Cell("", "pruned", "", {**shared, "method": "infobatch", "without_issues": True}),
    ]
    first, *others = plan.jobs(cells, Protocol("cpu", "", {}), [0, 1], tmp_path)[:3]
    assert first.settings["folds"] == plan.FOLDS
    assert [job.needs for job in others] == [(first.folder,)] * 2
    assert [job.settings["cross_validation"] for job in others] == [str(first.folder)] * 2
    assert len(plan.jobs(cells, Protocol("cpu", "", {}), [0, 1], tmp_path)) == 6
    assert not cells[1].is_full_training


def test_a_cross_validation_that_is_missing_or_none_is_refused_before_training(folds: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cross_validation=None is missing with without_issues.* --folds 5"):
        train(config(tmp_path / "run", without_issues=True))
    train(config(tmp_path / "training", **{"recipe.epochs": 1}))
    for folder in (tmp_path / "nowhere", tmp_path / "training"):
        with pytest.raises(FileNotFoundError, match=f"{folder.name}' is no finished cross-validation"):
            train(config(tmp_path / "run", **filtered(folder)))
    assert not (tmp_path / "run").exists()


def test_labels_that_are_all_flagged_leave_nothing_to_train_on(
    folds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cleanlab.filter.find_label_issues", lambda labels, *_, **__: np.ones(len(labels), dtype=bool))
    with pytest.raises(ValueError, match="flags all 300 labels, expected some to be left"):
        train(config(tmp_path / "run", **filtered(folds)))
    assert not (tmp_path / "run").exists()


def test_without_cleanlab_the_extra_is_named(folds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'alignprune\[rivals\]'"):
        train(config(tmp_path / "run", **filtered(folds)))


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"oracle": True}, "oracle=True is given with without_issues=True"),
        ({"folds": 3}, "folds=3 is given with full .*without_issues"),
        ({"collect": True}, "collect=True is given with full .*without_issues"),
        ({"method": "dual", "prune_ratio": 0.5}, "without_issues=True is given with dual, expected a dynamic method"),
        ({"method": "dynamic-random", "prune_ratio": 0.5}, "without_issues=True .* calibrated budget.* --budget equal"),
        ({"without_issues": False}, "cross_validation='folds' is given without without_issues"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        config(tmp_path, **{**filtered(Path("folds")), **changes})

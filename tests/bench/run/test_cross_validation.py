"""Cross-validation: nobody is trained on what it judges, given labels choose the epoch, what was begun goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from alignprune.bench import commands
from alignprune.bench.data import digits
from alignprune.bench.run.config import TrainConfig, configure
from alignprune.bench.run.cross_validation import folds
from alignprune.bench.run.folder import read_checkpoint
from alignprune.bench.run.progress import Progress

EPOCHS, SAMPLES, FOLDS = 6, 300, 3


def config(out: Path, **changes: Any) -> TrainConfig:
    data = {"dataset": "digits", "limit": SAMPLES, "noise": "symmetric", "noise_rate": 0.2, "device": "cpu"}
    recipe = {"recipe": "features", "recipe.epochs": EPOCHS, "recipe.batch_size": 16, "recipe.lr": 5e-3}
    settings = {**data, **recipe, "method": "full", "model": "mlp", "evaluate_every": EPOCHS, "folds": FOLDS}
    return configure({**settings, "out": str(out), **changes})


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a cross-validation."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    commands.train(config(folder))
    return folder


def arrays(folder: Path) -> dict[str, Any]:
    with np.load(folder / "probabilities.npz") as stored:
        return dict(stored)


# -- the folds ---------------------------------------------------------------------------------------------


def test_every_sample_is_left_out_once_and_has_one_part_in_each_fold() -> None:
    labels = torch.randint(0, 7, (211,), generator=torch.Generator().manual_seed(0))
    dealt = folds(labels, 5, seed=3)
    assert torch.cat([fold.left_out for fold in dealt]).sort().values.tolist() == list(range(211))
    for fold in dealt:
        parts = [fold.trained, fold.stopping, fold.left_out]
        assert torch.cat(parts).sort().values.tolist() == list(range(211))
        assert all((part[1:] > part[:-1]).all() for part in parts)
        assert len(fold.stopping) == (len(fold.trained) + len(fold.stopping)) // 10


def test_every_class_is_dealt_evenly() -> None:
    labels = torch.randint(0, 7, (211,), generator=torch.Generator().manual_seed(0))
    counts = torch.stack([labels[fold.left_out].bincount(minlength=7) for fold in folds(labels, 5, seed=0)])
    assert int((counts.amax(0) - counts.amin(0)).max()) <= 1


def test_the_seed_alone_decides_who_is_in_which_fold() -> None:
    labels = torch.arange(100) % 4
    first, again, other = (folds(labels, 5, seed) for seed in (1, 1, 2))
    assert all(torch.equal(a.trained, b.trained) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a.left_out, b.left_out) for a, b in zip(first, other, strict=True))


def test_so_few_samples_that_nobody_could_choose_an_epoch_are_refused() -> None:
    with pytest.raises(ValueError, match="folds=5 leaves 9 of 12 samples outside of a fold, expected 10 at least"):
        folds(torch.zeros(12, dtype=torch.int64), 5, seed=0)


# -- the epoch ---------------------------------------------------------------------------------------------


def test_the_epoch_of_a_fold_is_the_best_by_labels_that_it_was_not_trained_on(done: Path) -> None:
    kept = read_checkpoint(done / "fold1")
    assert kept is not None
    chosen = kept["stopping"]
    assert 1 <= chosen["epoch"] <= EPOCHS
    data = digits("symmetric", 0.2, seed=0)
    inputs = torch.stack([data.train_eval[i][0] for i in range(len(data.labels))])
    given = arrays(done)["labels"]
    where = torch.from_numpy(_limited(given, data.labels))
    part = folds(torch.from_numpy(given), FOLDS, seed=0)[1]
    said = _mlp(chosen["weights"], inputs[where][part.stopping]).argmax(1)
    assert chosen["accuracy"] == pytest.approx(float((said.numpy() == given[part.stopping]).mean()))
    result = json.loads((done / "fold1/result.json").read_text())
    assert (result["chosen_epoch"], result["holdout_accuracy"]) == (chosen["epoch"], chosen["accuracy"])
    seen = _mlp(chosen["weights"], inputs[where][part.left_out]).softmax(1)
    np.testing.assert_allclose(arrays(done)["probabilities"][part.left_out], seen.numpy(), atol=1e-5)
    at_last = _mlp(kept["model"], inputs[where][part.left_out]).softmax(1)
    np.testing.assert_allclose(arrays(done)["last"][part.left_out], at_last.numpy(), atol=1e-5)


def _limited(given: Any, labels: Tensor) -> Any:
    """Which samples of the whole data set a limited run has."""
    from alignprune.bench.data.views import balanced

    found = balanced(labels, 10, SAMPLES, torch.Generator().manual_seed(0)).numpy()
    assert (labels.numpy()[found] == given).all()
    return found


def _mlp(network: dict[str, Tensor], x: Tensor) -> Tensor:
    """The network by hand: linear layers with ReLU between."""
    weights = [value for name, value in network.items() if name.endswith("weight")]
    biases = [value for name, value in network.items() if name.endswith("bias")]
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        x = x @ weight.T + bias
        x = x.relu() if layer < len(weights) - 1 else x
    return x


# -- the run -----------------------------------------------------------------------------------------------


def test_no_network_is_trained_on_a_sample_that_it_judges_or_is_chosen_by(done: Path) -> None:
    given = arrays(done)["labels"]
    for number, part in enumerate(folds(torch.from_numpy(given), FOLDS, seed=0)):
        with np.load(done / f"fold{number}" / "noise.npz") as trained:
            assert (trained["labels"] == given[part.trained]).all()


def test_what_it_sees_is_a_distribution_that_knows_most_right_labels(done: Path) -> None:
    found = arrays(done)
    assert found["probabilities"].shape == (SAMPLES, 10)
    np.testing.assert_allclose(found["probabilities"].sum(1), 1, atol=1e-5)
    assert found["last"].shape == (SAMPLES, 10)
    agrees = found["probabilities"].argmax(1) == found["labels"]
    assert agrees[~found["is_noisy"]].mean() > 0.8
    assert agrees[found["is_noisy"]].mean() < 0.2


def test_the_cost_is_counted_in_full_trainings(done: Path) -> None:
    result = json.loads((done / "result.json").read_text())
    trained, looked = FOLDS * 180, FOLDS * 20  # of 200 outside of each fold
    assert result["trained_fraction"] == pytest.approx(trained / SAMPLES)
    assert result["forward_fraction"] == pytest.approx((trained + looked) / SAMPLES + 1 / EPOCHS)
    assert result["forward_passes"] == (trained + looked) * EPOCHS + SAMPLES
    assert result["epochs"] == FOLDS * EPOCHS
    assert result["pruned_share"] == pytest.approx(0.4)
    assert result["accuracy"] > 0.8


class Stop(Exception):
    """What a killed run looks like to this test."""


class StopIn(Progress):
    """Interrupts a run in one of its folds."""

    def __init__(self, fold: int) -> None:
        self.left = fold + 1

    def start(self, description: str, epochs: int) -> None:
        self.left -= 1

    def step(self, epoch: int, step: int, steps: int) -> None:
        if not self.left and epoch == 2:
            raise Stop


def test_an_interrupted_one_goes_on_and_ends_as_if_nothing_had_been(done: Path, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        commands.train(config(tmp_path / "cut"), StopIn(1))
    assert not (tmp_path / "cut" / "result.json").exists()
    first = (tmp_path / "cut" / "fold0" / "result.json").stat().st_mtime_ns
    with pytest.raises(FileExistsError, match="add --resume"):
        commands.train(config(tmp_path / "cut"))
    commands.train(config(tmp_path / "cut", resume=True))
    assert (tmp_path / "cut" / "fold0" / "result.json").stat().st_mtime_ns == first
    whole, cut = (arrays(folder) for folder in (done, tmp_path / "cut"))
    assert all((whole[name] == cut[name]).all() for name in whole)


def test_a_complete_one_is_left_as_it_is(done: Path) -> None:
    before = (done / "probabilities.npz").stat().st_mtime_ns
    assert commands.train(config(done, resume=True))["epochs"] == FOLDS * EPOCHS
    assert (done / "probabilities.npz").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"folds": 1}, "folds=1"),
        ({"method": "infobatch"}, "folds=3 is given with infobatch on 1 devices, expected method full"),
        ({"trace": True}, "without prune ratio, oracle, without_issues, collect and trace"),
        ({"oracle": True}, "expected method full on one device"),
    ],
)
def test_what_does_not_go_with_folds_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        config(tmp_path / "run", **changes)

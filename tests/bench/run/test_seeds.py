"""Seeds trained together: each run ends as it does alone, whatever happens to the others."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from alignprune.bench.run import seeds, trained
from alignprune.bench.run.config import TrainConfig, configure
from alignprune.bench.run.folder import read_checkpoint
from alignprune.bench.run.interruption import Interrupted
from alignprune.bench.run.lock import is_held
from alignprune.bench.run.progress import Progress
from alignprune.bench.run.training import train
from alignprune.errors import ExistingFile

TIMES = {"seconds", "train_seconds", "samples_per_second", "overhead_seconds"}
HALF = {"prune_ratio": 0.5, "budget": "equal"}
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Features of four classes that overlap."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 260)
    x = (rng.normal(size=(4, 12))[labels] + rng.normal(size=(260, 12))).astype(np.float32)
    file = tmp_path_factory.mktemp("data") / "features.npz"
    np.savez(file, x_train=x[:200], y_train=labels[:200], x_test=x[200:], y_test=labels[200:])
    return str(file)


def config(dataset: str, out: Path, seed: int, **settings: Any) -> TrainConfig:
    common = {"recipe": "head", "method": "full", "recipe.epochs": 5, "recipe.batch_size": 32, "device": "cpu"}
    noise = {"noise": "symmetric", "noise_rate": 0.3}
    return configure({"dataset": dataset, **common, **noise, "seed": seed, "out": str(out / str(seed)), **settings})


def together(configs: Iterable[TrainConfig]) -> list[seeds.Outcome]:
    configs = list(configs)
    return seeds.train(configs, [Progress() for _ in configs])


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def expect_close(record: Any, expected: dict[str, Any]) -> None:
    """The same values, numbers to within float error, but for what a clock says."""
    assert record.keys() == expected.keys()
    for name in record.keys() - TIMES:
        value = expected[name]
        close = pytest.approx(value, rel=1e-3, abs=1e-5, nan_ok=True) if isinstance(value, float) else value
        assert record[name] == close, name


@torch.no_grad()
def said_by(run: Path) -> Tensor:
    network, record = trained.load(run)
    return network(torch.randn(64, *record.input_shape, generator=torch.Generator().manual_seed(0)))


def expect_same(one: Path, other: Path) -> None:
    """The same run, to within float error, in every file that it leaves."""
    assert {file.name for file in one.iterdir()} == {file.name for file in other.iterdir()}
    for row, expected in zip(metrics(one), metrics(other), strict=True):
        expect_close(row, expected)
    # by what the networks say: a bias before batch normalisation has no gradient but rounding, which Adam follows
    torch.testing.assert_close(said_by(one), said_by(other), rtol=1e-3, atol=1e-3)
    settings, expected_settings = (json.loads((run / "config.json").read_text()) for run in (one, other))
    assert settings == expected_settings
    noise, expected_noise = (np.load(run / "noise.npz") for run in (one, other))
    assert all((noise[name] == expected_noise[name]).all() for name in expected_noise.files)


CASES: dict[str, dict[str, Any]] = {
    "full": {},
    "robust with ELR": {"method": "robust", "loss": "elr-cifar10", **HALF},
    "a fixed share": {"method": "dynamic-random", **HALF},
    "epochs that differ in length": {"method": "infobatch"},
    "losses of samples left out": {"method": "ies"},
    "averaged weights": {"ema": 0.9},
    "the best epoch": {"stop_on_holdout": 0.2, "patience": 1},
    "three layers": {"model": "mlp"},
    "SGD, softsign": {"model": "newsnet-small", "recipe.optimizer": "sgd", "recipe.lr": 0.05},
    "a last batch of one": {"recipe.batch_size": 199},
    "GCE in even batches": {"loss": "gce", "even_batches": True},
}


@pytest.mark.parametrize("case", CASES)
def test_seeds_end_together_as_each_ends_alone(case: str, features: str, tmp_path: Path) -> None:
    settings = CASES[case]
    found = together(config(features, tmp_path / "together", seed, **settings) for seed in SEEDS)
    for seed, result in zip(SEEDS, found, strict=True):
        alone = train(config(features, tmp_path / "alone", seed, **settings))
        expect_close(result, alone)
        expect_same(tmp_path / "together" / str(seed), tmp_path / "alone" / str(seed))


def test_steps_are_taken_together(features: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone: list[object] = []
    monkeypatch.setattr("alignprune.bench.run.training.Run.take", lambda self, step: alone.append(step))

    together(config(features, tmp_path, seed) for seed in SEEDS)

    assert not alone


def test_a_checkpoint_is_as_large_as_that_of_a_run_alone(features: str, tmp_path: Path) -> None:
    together(config(features, tmp_path / "together", seed) for seed in SEEDS)
    train(config(features, tmp_path / "alone", 0))

    sizes = [(tmp_path / kind / "0" / "checkpoint.pt").stat().st_size for kind in ("together", "alone")]

    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


class Signal(Progress):
    """Asks the process to end after a step."""

    def __init__(self, after: int) -> None:
        self.left = after

    def step(self, epoch: int, step: int, steps: int) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


def test_all_are_stored_when_asked_to_end_and_go_on_alone_or_together(features: str, tmp_path: Path) -> None:
    configs = [config(features, tmp_path / "stopped", seed) for seed in SEEDS]
    with pytest.raises(Interrupted, match="into epoch"):
        seeds.train(configs, [Progress(), Signal(after=17), Progress()])
    stored = [read_checkpoint(one.folder) for one in configs]
    assert all(state is not None and len(state["metrics"]) == 2 for state in stored)

    train(configs[0].with_settings(resume=True))
    together(one.with_settings(resume=True) for one in configs[1:])

    for seed in SEEDS:
        train(config(features, tmp_path / "alone", seed))
        expect_same(tmp_path / "stopped" / str(seed), tmp_path / "alone" / str(seed))


def test_runs_that_were_left_at_different_places_go_on_together(features: str, tmp_path: Path) -> None:
    ahead, behind = (config(features, tmp_path / "stopped", seed) for seed in (0, 1))
    with pytest.raises(Interrupted):
        seeds.train([ahead], [Signal(after=17)])

    together(one.with_settings(resume=True) for one in (ahead, behind))

    for seed in (0, 1):
        train(config(features, tmp_path / "alone", seed))
        expect_same(tmp_path / "stopped" / str(seed), tmp_path / "alone" / str(seed))


def test_one_that_fails_costs_the_others_nothing(features: str, tmp_path: Path) -> None:
    train(config(features, tmp_path, 1))  # its folder is taken, and nothing is overwritten

    found = together(config(features, tmp_path, seed) for seed in SEEDS)

    assert isinstance(found[1], ExistingFile)
    for seed in (0, 2):
        expect_close(found[seed], train(config(features, tmp_path / "alone", seed)))


def test_a_step_that_fails_leaves_no_folder_held(
    features: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object, step: object, out: object) -> None:
        raise ArithmeticError

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("alignprune.bench.run.training.Run.loss", fail)
    configs = [config(features, tmp_path, seed) for seed in SEEDS]

    with pytest.raises(ArithmeticError) as together_failed:
        together(configs[:2])
    with pytest.raises(ArithmeticError) as alone_failed:
        train(configs[2])

    assert together_failed.tb  # what a debugger holds keeps nothing open
    assert alone_failed.tb
    assert not any(is_held(one.folder) for one in configs)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({}, True),
        ({"recipe": "features"}, True),
        ({"recipe": "sgd"}, True),
        ({"recipe": "scratch"}, False),
        ({"model": "resnet-tiny"}, False),
        ({"recipe.optimizer": "lars"}, False),
        ({"recipe.clip": 1.0}, False),
        ({"co_teaching": 0.4}, False),
        ({"folds": 5}, False),
        ({"method": "divbs"}, False),
        ({"precision": "16"}, False),
        ({"compile": True}, False),
        ({"track": "tensorboard"}, False),
    ],
    ids=str,
)
def test_which_runs_can_be_trained_together(settings: dict[str, Any], expected: bool) -> None:
    assert seeds.fit(configure({"dataset": "x.npz", "method": "full", "recipe": "head", **settings})) is expected

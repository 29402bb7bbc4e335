"""Runs whose weights are averaged: by hand, what is judged and stored, what the method sees, exact resume."""

from __future__ import annotations

import json
import math
import os
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from alignprune.bench.grid import plan
from alignprune.bench.grid.cells import Cell, Protocol
from alignprune.bench.run import data
from alignprune.bench.run.averaging import AveragedWeights
from alignprune.bench.run.config import TrainConfig, configure
from alignprune.bench.run.folder import read_checkpoint, read_metrics
from alignprune.bench.run.interruption import Interrupted
from alignprune.bench.run.progress import Progress
from alignprune.bench.run.trained import load
from alignprune.bench.run.training import train


def config(out: Path, **changes: Any) -> TrainConfig:
    samples = {"dataset": "digits", "limit": 200, "noise": "symmetric", "noise_rate": 0.4, "device": "cpu"}
    recipe = {"recipe": "features", "recipe.epochs": 5, "recipe.batch_size": 16, "recipe.lr": 5e-3}
    return configure({**samples, **recipe, "method": "infobatch", "model": "mlp", "out": str(out), **changes})


def comparable(record: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in record.items() if "second" not in key})


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_weights_and_statistics_of_batch_norm_are_averaged_with_a_decay_that_rises(decay: float) -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    averaged, seen = AveragedWeights(network, decay), []
    for step in range(12):
        with torch.no_grad():
            for value in network.state_dict().values():
                value.copy_(torch.full_like(value, step * step))
        averaged.step()
        seen.append(float(step * step))
    expected = seen[0]
    for step, value in enumerate(seen[1:], start=2):
        expected += (1 - min(decay, step / (9 + step))) * (value - expected)
    found = averaged.network.state_dict()
    for name in ("0.weight", "0.bias", "1.weight", "1.running_mean", "1.running_var"):
        assert found[name].flatten().tolist() == pytest.approx([expected] * found[name].numel())
    assert network.state_dict()["0.bias"].tolist() == [seen[-1]] * 3


def test_the_average_is_judged_and_stored_and_the_method_sees_the_network_itself(tmp_path: Path) -> None:
    made = {name: train(config(tmp_path / name, ema=ema)) for name, ema in (("plain", None), ("averaged", 0.9))}
    ends = {name: read_checkpoint(tmp_path / name) or {} for name in made}
    assert all(
        torch.equal(ends["plain"]["model"][key], ends["averaged"]["model"][key]) for key in ends["plain"]["model"]
    )
    of_training = ("train_loss", "pruned_share", "kept_noise", "forward_passes", "train_accuracy")
    rows = [[tuple(row[name] for name in of_training) for row in read_metrics(tmp_path / name)] for name in made]
    assert rows[0] == rows[1]
    network, _ = load(tmp_path / "averaged")
    found = network.state_dict()
    average = {key.removeprefix("module."): value for key, value in ends["averaged"]["averaging"].items()}
    passes = [0, *(row["forward_passes"] for row in read_metrics(tmp_path / "averaged"))]
    assert int(average.pop("n_averaged")) == sum(math.ceil((after - before) / 16) for before, after in pairwise(passes))
    assert all(torch.equal(found[key], average[key]) for key in found)
    assert not torch.equal(found["body.0.weight"], ends["averaged"]["model"]["body.0.weight"])
    test: Any = data.load(config(tmp_path)).test
    with torch.no_grad():
        said = network(torch.stack([test[i][0] for i in range(len(test))])).argmax(1)
    right = said == torch.tensor([int(test[i][1]) for i in range(len(test))])
    assert made["averaged"]["accuracy"] == pytest.approx(float(right.float().mean()))


def test_a_decay_of_nothing_is_the_run_without(tmp_path: Path) -> None:
    results = [train(config(tmp_path / str(ema), ema=ema)) for ema in (None, 0.0)]
    assert comparable(results[0]) == comparable(results[1])
    assert (tmp_path / "None/model.safetensors").read_bytes() == (tmp_path / "0.0/model.safetensors").read_bytes()


class EndAt(Progress):
    """Asks a run to end in the middle of an epoch."""

    def step(self, epoch: int, step: int, steps: int) -> None:
        if (epoch, step) == (2, 3):
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_that_is_ended_inside_an_epoch_goes_on_with_its_average(tmp_path: Path) -> None:
    shared = {"ema": 0.99, "stop_on_holdout": 0.2}
    whole = train(config(tmp_path / "whole", **shared))
    with pytest.raises(Interrupted):
        train(config(tmp_path / "cut", **shared), EndAt())
    assert comparable(train(config(tmp_path / "cut", resume=True, **shared))) == comparable(whole)
    ours, theirs = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert ours == theirs


def test_of_averaged_weights_the_best_epoch_is_taken(tmp_path: Path) -> None:
    result = train(config(tmp_path / "run", ema=0.9, stop_on_holdout=0.2))
    network, _ = load(tmp_path / "run")
    held: Any = data.load(config(tmp_path, stop_on_holdout=0.2)).stopping
    x, y = torch.stack([held[i][0] for i in range(40)]), torch.tensor([int(held[i][1]) for i in range(40)])
    with torch.no_grad():
        met = (network(x).argmax(1) == y).float().mean()
    assert result["holdout_accuracy"] == pytest.approx(float(met))
    assert result["holdout_accuracy"] == max(row["holdout_accuracy"] for row in read_metrics(tmp_path / "run"))


def test_batch_norm_and_half_precision_go_with_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60, 16, 16, 3), dtype=np.uint8), np.arange(60) % 3
    np.savez(tmp_path / "x.npz", x_train=x, y_train=y, x_test=x[:20], y_test=y[:20])
    own = {"dataset": str(tmp_path / "x.npz"), "model": "resnet-tiny", "noise": "none", "noise_rate": None}
    result = train(config(tmp_path / "run", ema=0.9, precision="bf16", limit=None, **own))
    assert np.isfinite(result["test_loss"])


def test_the_runs_that_it_needs_are_shared_with_those_without(tmp_path: Path) -> None:
    shared = {"dataset": "digits", "prune_ratio": 0.5, "method": "small-loss"}
    cells = [Cell("", "", "", shared), Cell("", "", "", {**shared, "ema": 0.9})]
    jobs = plan.jobs(cells, Protocol("cpu", "", {}), [0], tmp_path)
    assert [job.settings["method"] for job in jobs] == ["full", "small-loss", "small-loss"]
    assert not Cell("", "", "", {"dataset": "digits", "method": "full", "ema": 0.9}).is_full_training


@pytest.mark.parametrize("ema", [1.0, -0.1, float("nan")])
def test_a_decay_that_is_none_is_refused(ema: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ema=.* is out of range, expected a number in \[0, 1\)"):
        config(tmp_path, ema=ema)


def test_folds_keep_the_weights_that_they_choose(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ema=0.9 is given with folds=3"):
        config(tmp_path, method="full", folds=3, ema=0.9)

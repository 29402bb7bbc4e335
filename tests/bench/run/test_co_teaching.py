"""Co-teaching: who learns from what, what it costs, what it is worth, exact resume."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from alignprune.bench.grid import plan
from alignprune.bench.grid.cells import Cell, Protocol
from alignprune.bench.recipes import RECIPES
from alignprune.bench.run.batches import Batch
from alignprune.bench.run.co_teaching import CoTeaching
from alignprune.bench.run.config import TrainConfig, configure
from alignprune.bench.run.folder import read_checkpoint, read_metrics
from alignprune.bench.run.interruption import Interrupted
from alignprune.bench.run.progress import Progress
from alignprune.bench.run.training import train

EPOCHS, SAMPLES = 20, 8


def config(out: Path, **changes: Any) -> TrainConfig:
    samples = {"dataset": "digits", "limit": 200, "noise": "symmetric", "noise_rate": 0.4, "device": "cpu"}
    recipe = {"recipe": "features", "recipe.epochs": 5, "recipe.batch_size": 16, "recipe.lr": 5e-3}
    shared = {"method": "full", "model": "mlp", "co_teaching": 0.4, "out": str(out)}
    return configure({**samples, **recipe, **shared, **changes})


def comparable(record: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in record.items() if "second" not in key})


def made(rate: float) -> tuple[CoTeaching, Batch]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks = nn.Linear(3, 4), nn.Linear(3, 4)
        batch = Batch(torch.randn(SAMPLES, 3), None, torch.arange(SAMPLES) % 4)
    optimizer = torch.optim.AdamW(networks[1].parameters())
    return CoTeaching(*networks, optimizer, RECIPES["features"], EPOCHS, rate, 0.0), batch


def loss_of(network: nn.Module, batch: Batch, sample: int) -> Tensor:
    logs = network(batch.x[sample : sample + 1]).log_softmax(1)
    return -logs[0, batch.y[sample]]


@pytest.mark.parametrize("epoch, left", [(0, 8), (1, 7), (5, 6), (9, 4), (10, 4), (19, 4)])
def test_each_learns_from_the_samples_that_the_other_loses_least_on(epoch: int, left: int) -> None:
    objective, batch = made(rate=0.5)  # floor(8 (1 - 0.5 min(e / 10, 1))) are left
    objective.begin_step((epoch + 0.99) / EPOCHS)
    out = objective(torch.arange(SAMPLES), batch)
    networks = [objective.model, objective.peer]
    ranked = [sorted(range(SAMPLES), key=lambda i: loss_of(network, batch, i).item()) for network in networks]
    expected = [
        torch.stack([loss_of(learner, batch, i) for i in by[:left]]).mean()
        for learner, by in zip(networks, reversed(ranked), strict=True)
    ]
    minimised = out.losses.mean() + out.extra
    assert minimised.item() == pytest.approx(expected[0].item() + expected[1].item(), abs=1e-6)
    for learner, own in zip(networks, expected, strict=True):
        found = torch.autograd.grad(minimised, learner.parameters(), retain_graph=True)
        for one, other in zip(found, torch.autograd.grad(own, learner.parameters()), strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    whole = [loss_of(objective.model, batch, i).item() for i in range(SAMPLES)]
    assert out.recorded.tolist() == pytest.approx(whole, abs=1e-6)


def test_both_networks_learn_from_other_first_weights_at_the_rate_of_the_schedule(tmp_path: Path) -> None:
    train(config(tmp_path / "run"))
    stored = read_checkpoint(tmp_path / "run") or {}
    first, second = stored["model"], stored["objective"]["peer"]
    assert first.keys() == second.keys()
    assert not any(torch.equal(first[name], second[name]) for name in first if name.endswith("weight"))
    groups = [part["optimizer"]["param_groups"][0] for part in (stored, stored["objective"])]
    assert groups[0]["lr"] == groups[1]["lr"] != 5e-3  # where it began


def test_every_sample_costs_two_forward_passes(tmp_path: Path) -> None:
    result = train(config(tmp_path / "full"))
    assert result["forward_passes"] == 2 * 5 * 200
    assert (result["forward_fraction"], result["trained_fraction"]) == (2.0, 1.0)
    for method in ("infobatch", "ies", "divbs", "small-loss"):
        extra: dict[str, Any] = {}
        if method == "small-loss":
            train(config(tmp_path / "proxy", collect=True, co_teaching=None))
            extra = {"prune_ratio": 0.5, "proxy": str(tmp_path / "proxy")}
        if method == "ies":
            extra = {"policy.threshold": 0.1}
        run = config(tmp_path / method, method=method, **extra)
        result, own = train(run), (read_checkpoint(run.folder) or {})["pruner"]["forward_passes"]
        assert result["forward_passes"] == pytest.approx(own + result["trained_fraction"] * 5 * 200)
        assert read_metrics(run.folder)[-1]["forward_passes"] == result["forward_passes"]


def test_with_a_rate_of_nothing_the_first_network_learns_as_alone(tmp_path: Path) -> None:
    for name, rate in (("alone", None), ("two", 0.0)):
        train(config(tmp_path / name, co_teaching=rate))
    ends = [(read_checkpoint(tmp_path / name) or {})["model"] for name in ("alone", "two")]
    for name in ends[0]:
        torch.testing.assert_close(ends[0][name], ends[1][name])


def test_it_keeps_wrong_labels_from_being_learned(tmp_path: Path) -> None:
    longer = {"recipe.epochs": 20, "limit": 300, "evaluate_every": 20}
    plain = train(config(tmp_path / "plain", co_teaching=None, **longer))
    taught = train(config(tmp_path / "taught", **longer))
    assert taught["accuracy"] > plain["accuracy"] + 0.05


class EndAt(Progress):
    """Asks a run to end in the middle of an epoch."""

    def step(self, epoch: int, step: int, steps: int) -> None:
        if (epoch, step) == (2, 3):
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_that_is_ended_inside_an_epoch_goes_on_with_both_networks(tmp_path: Path) -> None:
    shared = {"method": "infobatch", "stop_on_holdout": 0.2, "ema": 0.9, "recipe.clip": 1.0}
    whole = train(config(tmp_path / "whole", **shared))
    with pytest.raises(Interrupted):
        train(config(tmp_path / "cut", **shared), EndAt())
    assert comparable(train(config(tmp_path / "cut", resume=True, **shared))) == comparable(whole)
    ends = [(read_checkpoint(tmp_path / name) or {})["objective"]["peer"] for name in ("whole", "cut")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_in_a_sweep_a_coreset_is_chosen_by_one_network_and_the_base_is_co_taught(tmp_path: Path) -> None:
    shared = {"dataset": "digits", "prune_ratio": 0.5, "co_teaching": 0.4}
    for method, rate in (("small-loss", None), ("infobatch+das", 0.4)):
        needed, _ = plan.jobs([Cell("", "", "", {**shared, "method": method})], Protocol("cpu", "", {}), [0], tmp_path)
        assert needed.settings.get("co_teaching") == rate
    assert not Cell("", "", "", {"dataset": "digits", "method": "full", "co_teaching": 0.4}).is_full_training


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"co_teaching": 1.0}, r"co_teaching=1.0 is out of range, expected a number in \[0, 1\)"),
        ({"precision": "16"}, "precision='16' is given with co_teaching"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        config(tmp_path, **changes)

"""Runs that stop by samples held out: who is held out, which epoch is taken, what it costs, exact resume."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from alignprune.bench import commands
from alignprune.bench.grid import plan
from alignprune.bench.grid.cells import Cell, Protocol
from alignprune.bench.run import data, ranks
from alignprune.bench.run.config import TrainConfig, configure
from alignprune.bench.run.folder import read_checkpoint, read_metrics
from alignprune.bench.run.observers import EndOfEpoch, Observer
from alignprune.bench.run.progress import Progress
from alignprune.bench.run.trained import load
from alignprune.bench.run.training import Inputs, fit, prepare, train

EPOCHS, SAMPLES, HELD = 15, 300, 60


def config(out: Path, **changes: Any) -> TrainConfig:
    """A run of a second on digits, which learns wrong labels by heart towards its end."""
    samples = {"dataset": "digits", "limit": SAMPLES, "noise": "symmetric", "noise_rate": 0.4, "device": "cpu"}
    recipe = {"recipe": "features", "recipe.epochs": EPOCHS, "recipe.batch_size": 16, "recipe.lr": 1e-2}
    settings = {**samples, **recipe, "method": "full", "model": "mlp", "stop_on_holdout": HELD / SAMPLES}
    return configure({**settings, "out": str(out), **changes})


class Networks(Observer):
    """Keeps the network of every epoch."""

    name = "networks"

    def __init__(self) -> None:
        self.found: list[dict[str, Tensor]] = []

    def end_epoch(self, epoch: EndOfEpoch) -> dict[str, Any]:
        self.found.append({name: value.clone() for name, value in epoch.model.state_dict().items()})
        return {}


class Stop(Exception):
    """What a killed run looks like to this test."""


class StopIn(Progress):
    """Interrupts a run in an epoch, from 0."""

    def __init__(self, epoch: int) -> None:
        self.at = epoch

    def step(self, epoch: int, step: int, steps: int) -> None:
        if epoch == self.at:
            raise Stop


def met(network: torch.nn.Module, samples: Any) -> float:
    """The share of samples whose label a network says, one by one."""
    network.eval()
    with torch.no_grad():
        said = [int(network(x[None]).argmax()) == int(y) for x, y in (samples[i] for i in range(len(samples)))]
    return sum(said) / len(said)


def comparable(record: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in record.items() if "second" not in key})


# -- who is held out ---------------------------------------------------------------------------------------


def test_every_class_gives_the_same_share_and_the_seed_alone_decides(tmp_path: Path) -> None:
    whole = data.load(config(tmp_path, stop_on_holdout=None))
    held = data.load(config(tmp_path))
    assert held.stopping is not None
    labels = torch.tensor([int(held.stopping[i][1]) for i in range(HELD)])
    counts, of_all = labels.bincount(minlength=10), whole.labels.bincount(minlength=10)
    assert (counts - of_all * HELD / SAMPLES).abs().max() <= 1
    both = torch.cat([held.labels, labels]).bincount(minlength=10)
    assert torch.equal(both, of_all)
    rows = torch.stack([samples[i][0] for samples in (held.stopping, held.train_eval) for i in range(len(samples))])
    assert len(rows.unique(dim=0)) == len(torch.stack([whole.train_eval[i][0] for i in range(SAMPLES)]).unique(dim=0))
    again, other = (data.load(config(tmp_path, method=method)).labels for method in ("infobatch+das", "robust"))
    assert torch.equal(again, held.labels)
    assert torch.equal(other, held.labels)
    assert not torch.equal(data.load(config(tmp_path, seed=1, noise="clean", noise_rate=None)).labels, held.labels)


def test_a_test_set_that_is_held_out_too_is_another_part(tmp_path: Path) -> None:
    both = data.load(config(tmp_path, holdout=0.5, limit=None, noise="clean", noise_rate=None))
    sizes = tuple(len(part) for part in (both.labels, both.stopping, both.test))  # type: ignore[arg-type]
    assert sum(sizes) == 1437
    assert sizes == (1437 - 718 - 143, 143, 718)


# -- which epoch is taken ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Networks]:
    """A run to its end: its folder, its result and its networks."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run, networks = config(folder), Networks()
    return folder, fit(run, prepare(run), None, [networks]), networks


def test_the_epoch_is_taken_that_meets_most_labels_of_the_samples_held_out(
    whole: tuple[Path, dict[str, Any], Networks],
) -> None:
    folder, result, networks = whole
    samples, (network, _) = data.load(config(folder)), load(folder)
    taken = {name: value.clone() for name, value in network.state_dict().items()}
    on_held, on_test = [], []
    for found in networks.found:
        network.load_state_dict(found)
        on_held.append(met(network, samples.stopping))
        on_test.append(met(network, samples.test))
    rows = read_metrics(folder)
    assert [row["holdout_accuracy"] for row in rows] == pytest.approx(on_held)
    assert [row["accuracy"] for row in rows] == pytest.approx(on_test)
    best = on_held.index(max(on_held))
    assert 0 < best < EPOCHS - 1
    assert (result["chosen_epoch"], result["epochs"]) == (best + 1, EPOCHS)
    assert result["holdout_accuracy"] == pytest.approx(on_held[best])
    assert result["accuracy"] == pytest.approx(on_test[best])
    assert result["accuracy"] != on_test[-1]
    assert all(torch.equal(taken[name], networks.found[best][name]) for name in taken)


def test_it_is_the_training_on_the_samples_that_are_left(
    whole: tuple[Path, dict[str, Any], Networks], tmp_path: Path
) -> None:
    alone = Inputs(replace(data.load(config(tmp_path)), stopping=None), None)
    fit(config(tmp_path / "alone", stop_on_holdout=None), alone)
    ends = [(read_checkpoint(folder) or {})["model"] for folder in (whole[0], tmp_path / "alone")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_the_samples_held_out_count_in_the_shares_and_their_looks_apart(
    whole: tuple[Path, dict[str, Any], Networks],
) -> None:
    _, result, _ = whole
    assert result["train_size"] == SAMPLES - HELD
    assert result["forward_passes"] == EPOCHS * (SAMPLES - HELD)
    assert result["forward_fraction"] == result["trained_fraction"] == pytest.approx(1 - HELD / SAMPLES)
    assert result["holdout_forward_passes"] == EPOCHS * HELD


# -- when it ends ------------------------------------------------------------------------------------------


def test_with_patience_it_ends_so_many_epochs_after_the_best(
    whole: tuple[Path, dict[str, Any], Networks], tmp_path: Path
) -> None:
    folder, _, _ = whole
    rows = read_metrics(folder)
    seen = [row["holdout_accuracy"] for row in rows]
    ends = [end for end in range(1, EPOCHS + 1) if end - seen.index(max(seen[:end])) - 1 == 2]
    result = train(config(tmp_path / "run", patience=2, evaluate_every=EPOCHS))
    assert result["epochs"] == ends[0] < EPOCHS
    assert result["chosen_epoch"] == ends[0] - 2
    assert result["forward_passes"] == ends[0] * (SAMPLES - HELD)
    assert result["holdout_forward_passes"] == ends[0] * HELD
    stopped = read_metrics(tmp_path / "run")
    assert [row["holdout_accuracy"] for row in stopped] == seen[: ends[0]]
    assert [row["accuracy"] is not None for row in stopped] == [False] * (ends[0] - 1) + [True]
    assert result["accuracy"] == rows[ends[0] - 3]["accuracy"]  # where nobody had looked


def test_all_ranks_go_by_what_the_first_has_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = iter((0.1, 0.3, 0.2, 0.2, 0.9))
    gathered = ranks.of_all
    monkeypatch.setattr(ranks, "of_all", lambda own: [next(first), own] if isinstance(own, float) else gathered(own))
    result = train(config(tmp_path / "run", patience=2))
    assert (result["epochs"], result["chosen_epoch"], result["holdout_accuracy"]) == (4, 2, 0.3)


@pytest.mark.parametrize("patience", [None, 2])
def test_a_resumed_run_takes_the_same_epoch(patience: int | None, tmp_path: Path) -> None:
    made = config(tmp_path / "never", method="infobatch+das", patience=patience, trace=True)
    result = train(made)
    for cut in {result["chosen_epoch"], result["epochs"] - 1}:  # from 0: after the best, and in the last one
        other = made.with_settings(out=tmp_path / f"cut{cut}")
        with pytest.raises(Stop):
            train(other, StopIn(cut))
        assert comparable(train(other.with_settings(resume=True))) == comparable(result)
        ours, theirs = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("never", f"cut{cut}"))
        assert ours == theirs
        rows = [[comparable(row) for row in read_metrics(tmp_path / name)] for name in ("never", f"cut{cut}")]
        assert rows[0] == rows[1]


def test_a_run_that_dies_before_its_result_takes_the_same_epoch(
    whole: tuple[Path, dict[str, Any], Networks], tmp_path: Path
) -> None:
    _, result, _ = whole
    made = config(tmp_path / "run")
    train(made)
    (tmp_path / "run/result.json").unlink()
    assert comparable(train(made.with_settings(resume=True))) == comparable(result)


# -- with what it goes together ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["infobatch+das", "ies", "divbs", "robust"])
def test_it_composes_with_every_kind_of_method(method: str, tmp_path: Path) -> None:
    result = train(config(tmp_path / "run", method=method, **{"recipe.epochs": 4}))
    assert result["train_size"] == SAMPLES - HELD
    assert 1 <= result["chosen_epoch"] <= 4


def test_the_equal_budget_is_that_of_all_samples(tmp_path: Path) -> None:
    equal = {"prune_ratio": 0.5, "budget": "equal"}
    for name, changes in {"all": {}, "right": {"oracle": True}}.items():
        result = train(config(tmp_path / name, **equal, **changes))
        assert result["trained_fraction"] * EPOCHS * SAMPLES == pytest.approx(EPOCHS * SAMPLES / 2)
        assert result["epochs"] > EPOCHS / 2


def test_a_coreset_and_its_proxy_never_see_the_samples_held_out(tmp_path: Path) -> None:
    made = config(tmp_path / "run", method="small-loss", prune_ratio=0.5, patience=1)
    result = commands.train(made)
    assert result["train_size"] == (SAMPLES - HELD) // 2
    proxy = json.loads((tmp_path / "run-proxy/result.json").read_text())
    assert (proxy["train_size"], proxy["epochs"]) == (SAMPLES - HELD, EPOCHS)
    with pytest.raises(ValueError, match="other samples or labels"):
        train(
            made.with_settings(
                out=tmp_path / "other", stop_on_holdout=None, patience=None, proxy=tmp_path / "run-proxy"
            )
        )


def test_in_a_sweep_the_runs_that_it_needs_train_to_their_end(tmp_path: Path) -> None:
    protocol = Protocol("cpu", "", {})
    shared = {"dataset": "digits", "prune_ratio": 0.5, "stop_on_holdout": 0.1, "patience": 2}
    for method in ("small-loss", "infobatch+das"):
        needed, job = plan.jobs([Cell("", "", "", {**shared, "method": method})], protocol, [0], tmp_path)
        assert (job.settings["patience"], needed.settings.get("patience")) == (2, None)
        assert needed.settings["stop_on_holdout"] == 0.1
    stopped = Cell("", "", "", {"dataset": "digits", "method": "full", "stop_on_holdout": 0.1})
    assert not stopped.is_full_training


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"stop_on_holdout": 0.0}, r"stop_on_holdout=0.0 is out of range, expected a number in \(0, 1\)"),
        ({"stop_on_holdout": 1.0}, "stop_on_holdout=1.0 is out of range"),
        ({"stop_on_holdout": float("nan")}, "stop_on_holdout=nan is out of range"),
        ({"patience": 0}, "patience=0 is out of range, expected an integer >= 1"),
        ({"patience": 3, "stop_on_holdout": None}, "patience=3 is given without stop_on_holdout.*--stop-on-holdout"),
        ({"collect": True, "patience": 3}, "patience=3 is given with collect=True"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        config(tmp_path, **changes)


def test_a_share_of_less_than_a_sample_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop_on_holdout=0.002 holds out 0 of the 300 training samples"):
        train(config(tmp_path / "run", stop_on_holdout=0.002))
    assert not (tmp_path / "run").exists()

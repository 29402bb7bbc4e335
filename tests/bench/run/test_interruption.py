"""A run that is asked to end in the middle of an epoch, or dies there, goes on as if nothing had happened."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alignprune import losses
from alignprune.bench.run.config import TrainConfig, default_config
from alignprune.bench.run.folder import read_checkpoint, read_metrics
from alignprune.bench.run.interruption import CheckpointEvery, Interrupted
from alignprune.bench.run.observers import EndOfEpoch, Observer
from alignprune.bench.run.progress import Progress
from alignprune.bench.run.training import fit, prepare, train
from alignprune.cli import main
from alignprune.errors import Diverged, ValueMistake

CASES: dict[str, dict[str, Any]] = {
    "full": {"collect": True, "trace": True},
    "infobatch+das": {"even_batches": True},
    "seta": {"workers": 2},
    "ies": {},
    "divbs": {},
    "robust": {"trace": True},
    "dynamic-random": {"loss": "sop-cifar10n"},
    "infobatch": {"loss": "elr-cifar10"},
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Small images of four classes, told apart by which quarter is bright; crops, flips and a dropout draw."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 160)
    pictures = rng.integers(0, 80, (160, 16, 16, 3), dtype=np.uint8)
    for picture, label in zip(pictures, labels, strict=True):
        picture[8 * (label // 2) :][:8, 8 * (label % 2) :][:, :8] += 120
    path = tmp_path_factory.mktemp("images") / "quarters.npz"
    parts = {"x_train": pictures[:120], "y_train": labels[:120], "x_test": pictures[120:], "y_test": labels[120:]}
    np.savez(path, **parts, x_reference=pictures[:20], y_reference=labels[:20])
    return str(path)


def config(dataset: str, method: str, out: Path, **changes: Any) -> TrainConfig:
    base = default_config(dataset, method)
    recipe = replace(base.recipe, epochs=4, batch_size=16, lr=0.02)
    if "loss" in changes:
        changes["loss"] = losses.get(changes["loss"]).settings
    small = {"model": "resnet-tiny", "device": "cpu", "noise": "symmetric", "noise_rate": 0.3}
    return base.with_settings(recipe=recipe, out=out, **small, **changes)


class Die(Exception):
    """What a killed run looks like to this test."""


class At(Progress):
    """Does something after a step of an epoch, both from 0, and remembers what was said."""

    def __init__(self, epoch: int, step: int, action: Any) -> None:
        self.at, self.action = (epoch, step), action
        self.said: list[str] = []

    def step(self, epoch: int, step: int, steps: int) -> None:
        if (epoch, step) == self.at:
            self.action()

    def note(self, text: str) -> None:
        self.said.append(text)


def send(number: int) -> Any:
    return lambda: os.kill(os.getpid(), number)


def die() -> None:
    raise Die


def comparable(record: dict[str, Any]) -> str:
    """All but the times, as text, since NaN is not equal to itself."""
    return json.dumps({key: value for key, value in record.items() if "second" not in key})


def assert_same_run(one: Path, other: Path, results: list[dict[str, Any]]) -> None:
    assert comparable(results[0]) == comparable(results[1])
    ends = [read_checkpoint(run) or {} for run in (one, other)]
    assert all(torch.equal(ends[0]["model"][key], ends[1]["model"][key]) for key in ends[0]["model"])
    assert ends[0]["pruner"]["epoch"] == ends[1]["pruner"]["epoch"]
    assert torch.equal(ends[0]["pruner"]["scores"].nan_to_num(-9), ends[1]["pruner"]["scores"].nan_to_num(-9))
    lines = [read_metrics(run) for run in (one, other)]
    assert [comparable(row) for row in lines[0]] == [comparable(row) for row in lines[1]]
    for name in ("losses.npz", "trace.npz", "proxy.npz"):
        assert (one / name).exists() == (other / name).exists()
        if (one / name).exists():
            with np.load(one / name) as first, np.load(other / name) as second:
                for key in first:
                    np.testing.assert_array_equal(first[key], second[key])


@pytest.mark.parametrize("method", CASES)
def test_a_run_that_ends_by_sigterm_in_an_epoch_goes_on_as_one_that_never_did(
    method: str, images: str, tmp_path: Path
) -> None:
    changes, cut = CASES[method], tmp_path / "cut"
    whole = train(config(images, method, tmp_path / "whole", **changes))
    with pytest.raises(Interrupted, match=r"is stored 3 steps into epoch 2 of 4, in .*cut") as stopped:
        train(config(images, method, cut, **changes), At(1, 2, send(signal.SIGTERM)))
    assert stopped.value.signal == signal.SIGTERM
    assert (read_checkpoint(cut) or {})["within"]["steps"] == 3
    with pytest.raises(Interrupted, match="1 steps into epoch 3"):
        train(config(images, method, cut, resume=True, **changes), At(2, 0, send(signal.SIGINT)))
    resumed = train(config(images, method, cut, resume=True, **changes))
    assert_same_run(tmp_path / "whole", cut, [whole, resumed])


def test_a_run_that_dies_goes_on_from_the_last_checkpoint_in_the_epoch(images: str, tmp_path: Path) -> None:
    whole = train(config(images, "infobatch+das", tmp_path / "whole"))
    often = {"checkpoint_every": "2"}
    with pytest.raises(Die):
        train(config(images, "infobatch+das", tmp_path / "cut", **often), At(1, 4, die))
    assert (read_checkpoint(tmp_path / "cut") or {})["within"]["steps"] == 4
    resumed = train(config(images, "infobatch+das", tmp_path / "cut", resume=True))
    assert_same_run(tmp_path / "whole", tmp_path / "cut", [whole, resumed])


def test_a_signal_in_the_last_step_of_the_run_lets_it_end(images: str, tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="8 steps into epoch 4 of 4"):
        train(config(images, "full", tmp_path / "run"), At(3, 7, send(signal.SIGTERM)))
    assert train(config(images, "full", tmp_path / "run", resume=True))["epochs"] == 4


def test_the_number_of_loader_processes_changes_no_result(images: str, tmp_path: Path) -> None:
    results = [train(config(images, "seta", tmp_path / str(workers), workers=workers)) for workers in (0, 2)]
    assert_same_run(tmp_path / "0", tmp_path / "2", results)


def test_the_augmentation_is_another_one_in_each_epoch(images: str, tmp_path: Path) -> None:
    from alignprune.bench import data
    from alignprune.bench.run.batches import KeyedDraws

    samples = data.load(images).train
    keyed, seen = KeyedDraws(samples, seed=3), []
    before = torch.get_rng_state()
    for epoch in (0, 1, 0):
        keyed.set_epoch(epoch)
        seen.append(torch.stack([x for x, _ in keyed.__getitems__(list(range(20)))]))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])
    other = KeyedDraws(samples, seed=4)
    assert not torch.equal(torch.stack([x for x, _ in other.__getitems__(list(range(20)))]), seen[0])


def test_two_checkpoints_are_kept_and_the_one_before_stands_in_for_a_damaged_one(images: str, tmp_path: Path) -> None:
    whole = train(config(images, "robust", tmp_path / "whole"))
    cut = tmp_path / "cut"
    with pytest.raises(Die):
        train(config(images, "robust", cut), At(3, 0, die))
    epochs = [
        torch.load(cut / name, weights_only=True)["pruner"]["epoch"]
        for name in ("checkpoint.previous.pt", "checkpoint.pt")
    ]
    assert epochs == [2, 3]
    content = bytearray((cut / "checkpoint.pt").read_bytes())
    content[len(content) // 2] ^= 4
    (cut / "checkpoint.pt").write_bytes(content)
    watching = At(9, 9, None)
    resumed = train(config(images, "robust", cut, resume=True), watching)
    assert any(
        "checkpoint.pt' is damaged" in text and "goes on from checkpoint.previous.pt" in text for text in watching.said
    )
    assert_same_run(tmp_path / "whole", cut, [whole, resumed])


def test_two_damaged_checkpoints_are_refused(images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Die):
        train(config(images, "full", tmp_path / "cut"), At(3, 0, die))
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        (tmp_path / "cut" / name).write_bytes(b"half of it")
    with pytest.raises(ValueError, match=r"checkpoint.pt' is damaged .*: train the run again, in another folder"):
        train(config(images, "full", tmp_path / "cut", resume=True))


# -- divergence --------------------------------------------------------------------------------------------


def test_a_run_that_diverges_stops_with_its_step(images: str, tmp_path: Path) -> None:
    run = config(images, "infobatch", tmp_path / "run")
    said = (
        r"the losses are not finite from step \d+ of epoch 1 on, .*lower --recipe.lr \(1e\+30\).*No checkpoint has been"
    )
    with pytest.raises(Diverged, match=said):
        train(run.with_settings(recipe=replace(run.recipe, lr=1e30)))
    assert {path.name for path in run.folder.iterdir()} <= {".lock", "config.json", "noise.npz"}


class Ruin(Observer):
    """Loses the network when the second epoch has ended."""

    name = "ruin"

    def end_epoch(self, epoch: EndOfEpoch) -> dict[str, Any]:
        if epoch.number == 1:
            next(epoch.model.parameters()).data.fill_(math.nan)
        return {}


def test_a_network_that_is_lost_is_not_stored_over_the_last_good_one(images: str, tmp_path: Path) -> None:
    run = config(images, "infobatch", tmp_path / "run")
    with pytest.raises(Diverged, match=r"of the network is not finite after epoch 2, .*checkpoint.pt is the last good"):
        fit(run, prepare(run), watching=[Ruin()])
    state = read_checkpoint(run.folder) or {}
    assert state["pruner"]["epoch"] == 1
    assert all(value.isfinite().all() for value in state["model"].values())
    assert not (run.folder / "result.json").exists()


def test_the_command_of_a_run_that_diverges_fails_with_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [
        "train",
        "digits",
        "--method",
        "full",
        "--device",
        "cpu",
        "--recipe.epochs",
        "2",
        "--out",
        str(tmp_path / "r"),
    ]
    assert main([*line, "--recipe.lr", "1e9"]) == 1
    said = capsys.readouterr()
    assert re.search(r"error: the losses are not finite from step \d+ of epoch 1 on", said.err)
    assert "Traceback" not in said.err
    assert "accuracy" not in said.out


# -- what is asked for -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, steps, seconds",
    [(None, None, None), ("500", 500, None), ("1 step", 1, None), ("10min", None, 600.0), ("2 hours", None, 7200.0)],
)
def test_how_often_is_read(text: str | None, steps: int | None, seconds: float | None) -> None:
    assert CheckpointEvery.parse(text) == CheckpointEvery(steps, seconds)


@pytest.mark.parametrize("text", ["", "0", "-3", "ten", "10s", "1.5h", "10 min 3"])
def test_how_often_is_refused_with_what_is_known(text: str) -> None:
    with pytest.raises(ValueMistake, match="checkpoint_every=.* is not known, expected .*: 500, 10min or 2h"):
        CheckpointEvery.parse(text)


def test_an_unknown_interval_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "digits", "--checkpoint-every", "soon", "--out", str(tmp_path / "run")]) == 2
    assert "checkpoint_every='soon' is not known" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM that a process may hear")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_says_where_it_is_stored_and_how_to_go_on(
    number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["train", "digits", "--method", "robust", "--device", "cpu"]
    line += ["--recipe.epochs", "2000", "--out", str(tmp_path / "run")]
    ended = threading.Event()

    def interrupt() -> None:
        while not ended.wait(0.05):
            if (tmp_path / "run" / "checkpoint.pt").exists():
                return os.kill(os.getpid(), number)

    sender = threading.Thread(target=interrupt)
    sender.start()
    code = main(line)
    ended.set()
    sender.join()
    said = capsys.readouterr().err
    assert code == 128 + number, said
    assert re.fullmatch(
        r"error: interrupted: the run is stored (\d+ steps into|after) epoch \d+ of 2000, in .*run. "
        r"The same command with --resume goes on.\n",
        said,
    )
    assert math.isfinite((read_checkpoint(tmp_path / "run") or {})["within"]["sum"])
    assert not (tmp_path / "run" / ".holder").exists()

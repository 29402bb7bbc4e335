"""Augmentation by keys: what an image looks like in an epoch depends on nothing but the seed, the epoch and itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from alignprune.bench.run.augmentation import Augmentation
from alignprune.bench.run.config import default_config
from alignprune.bench.run.progress import Progress
from alignprune.bench.run.training import train

IMAGES = torch.rand(64, 3, 9, 7, generator=torch.Generator().manual_seed(0))
INDEX = torch.arange(64)


def test_an_image_is_seen_from_both_sides_in_two_epochs() -> None:
    flip = Augmentation(translate=0, seed=3)
    even, odd, later = (flip(IMAGES, INDEX, epoch) for epoch in (0, 1, 2))
    mirrored = torch.tensor([torch.equal(seen, image.flip(2)) for seen, image in zip(even, IMAGES, strict=True)])
    assert torch.equal(even[~mirrored], IMAGES[~mirrored])
    assert torch.equal(odd, even.flip(3))
    assert torch.equal(later, even)
    assert 16 < mirrored.sum() < 48


def test_an_image_is_moved_within_its_reflected_borders_and_everywhere_in_turn() -> None:
    move = Augmentation(translate=2, seed=0)
    image = IMAGES[:1]
    padded = functional.pad(image, (2, 2, 2, 2), mode="reflect")
    places = {
        (down, right, mirrored): padded[:, :, down : down + 9, right : right + 7].flip(3 if mirrored else ())
        for down in range(5)
        for right in range(5)
        for mirrored in (False, True)
    }
    found = set()
    for epoch in range(400):
        seen = move(image, INDEX[:1], epoch)
        (place,) = [place for place, expected in places.items() if torch.equal(seen, expected)]
        found.add(place)
    assert len({place[:2] for place in found}) == 25
    assert len(found) > 40  # of 50: the side depends on the epoch's parity, the move on the epoch


def test_a_sample_looks_the_same_in_any_batch() -> None:
    augmentation = Augmentation(translate=2, seed=1)
    whole = augmentation(IMAGES, INDEX, 5)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))[:10]
    assert torch.equal(augmentation(IMAGES[order], order, 5), whole[order])
    assert not torch.equal(augmentation(IMAGES, INDEX, 6), whole.flip(3))
    assert not torch.equal(Augmentation(translate=2, seed=2)(IMAGES, INDEX, 5), whole)


@pytest.fixture
def images(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 96)
    pictures = rng.integers(0, 80, (96, 12, 12, 3), dtype=np.uint8)
    for picture, label in zip(pictures, labels, strict=True):
        picture[4 * label :][:4] += 120
    np.savez(tmp_path / "own.npz", x_train=pictures[:64], y_train=labels[:64], x_test=pictures[64:], y_test=labels[64:])
    return str(tmp_path / "own.npz")


class Stop(Exception):
    """What a killed run looks like to this test."""


class StopAfter(Progress):
    """Interrupts a run after some epochs."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def step(self, epoch: int, step: int, steps: int) -> None:
        if epoch == self.epochs:
            raise Stop


def test_the_recipe_scratch_trains_its_network_and_goes_on_where_it_stood(images: str, tmp_path: Path) -> None:
    config = default_config(images, "infobatch", recipe="scratch").with_settings(device="cpu")
    config = config.with_settings(recipe=replace(config.recipe, epochs=12, batch_size=16))
    result = train(config.with_settings(out=tmp_path / "whole"))
    assert result["model"] == "airbench-half"
    assert result["accuracy"] > 0.9
    with pytest.raises(Stop):
        train(config.with_settings(out=tmp_path / "cut"), StopAfter(5))
    resumed = train(config.with_settings(out=tmp_path / "cut", resume=True))
    assert resumed["accuracy"] == result["accuracy"]
    whole, cut = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "cut"))
    assert all(torch.equal(whole["model"][name], cut["model"][name]) for name in whole["model"])


def test_what_cannot_be_moved_is_refused(images: str, tmp_path: Path) -> None:
    config = default_config("digits", "full", recipe="scratch").with_settings(model="mlp", out=tmp_path / "run")
    with pytest.raises(ValueError, match=r"translate=2 is given with samples of shape \(64,\), expected images"):
        train(config)
    Augmentation.check(8, (3, 9, 9))
    with pytest.raises(ValueError, match=r"translate=9 is given with samples of shape \(3, 9, 9\)"):
        Augmentation.check(9, (3, 9, 9))

"""The demo: six methods on real digits with wrong labels, in a plain training loop, on any machine.

scikit-learn's 1,797 handwritten digits, 40 % of the training labels flipped to a random other class, and a network
large enough to memorise them. What to look at is which samples a method keeps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import alignprune as ap
from alignprune._checks import integer
from alignprune.bench.files import write_json
from alignprune.bench.places import refuse_unwritable
from alignprune.bench.run.diagnosis import kept_noise, noise_auroc
from alignprune.bench.run.record import mean_of_known

METHODS = ("full", "dynamic-random", "infobatch", "infobatch+das", "seta+das", "robust")
NOISE_RATE = 0.4
TEST_SIZE, REFERENCE_SIZE = 360, 100
BATCH_SIZE, LEARNING_RATE = 32, 0.05


@dataclass(frozen=True)
class DemoConfig:
    """Settings of the demo.

    Attributes:
        out: folder for summary.json and the pictures.
        seeds: runs per method; every seed draws split, noise, network and order anew.
        epochs: epochs per run.
    """

    out: Path = Path("runs/demo")
    seeds: int = 3
    epochs: int = 60

    def __post_init__(self) -> None:
        integer("seeds", self.seeds, at_least=1, remedy="3 give a standard deviation")
        integer("epochs", self.epochs, at_least=4, remedy="alignment needs 3 epochs before it prunes; the demo uses 60")


@dataclass(frozen=True, eq=False)
class Digits:
    """One seed's split: training set with wrong labels, clean reference, test set."""

    train: TensorDataset
    reference: TensorDataset
    test: TensorDataset
    is_noisy: Tensor


def digits(seed: int) -> Digits:
    """Split the digits at random and flip 40 % of the training labels."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x, y = torch.from_numpy(images).float() / 16, torch.from_numpy(labels).long()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    test, reference, train = order.split([TEST_SIZE, REFERENCE_SIZE, len(y) - TEST_SIZE - REFERENCE_SIZE])
    noisy = ap.noise.corrupt(y[train], "symmetric", NOISE_RATE, 10, seed)
    return Digits(
        train=TensorDataset(x[train], noisy.labels),
        reference=TensorDataset(x[reference], y[reference]),
        test=TensorDataset(x[test], y[test]),
        is_noisy=noisy.is_noisy,
    )


def train(data: Digits, pruner: ap.Pruner, seed: int, on_epoch: Callable[[], None]) -> dict[str, float]:
    """The loop that anyone writes; the lines with ``pruner`` are what AlignPrune adds.

    Args:
        data: a split.
        pruner: the method.
        seed: of the network.
        on_epoch: called after every epoch, for the progress display.

    Returns:
        accuracy on the test set after the last epoch, forward_fraction, seconds, kept_noise, noise_auroc.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
        )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, momentum=0.9)
    reference = ap.Reference(DataLoader(data.reference, batch_size=REFERENCE_SIZE))
    loader = DataLoader(ap.Indexed(data.train), sampler=pruner.sampler, batch_size=BATCH_SIZE)
    noise_kept, auroc = [], []

    started = time.perf_counter()
    for _ in range(pruner.epochs):
        if not pruner.annealing:
            noise_kept.append(kept_noise(pruner.selection, data.is_noisy))
        for index, (x, y) in loader:
            losses = F.cross_entropy(model(x), y, reduction="none")
            optimizer.zero_grad()
            pruner.reduce(index, losses).backward()
            optimizer.step()
        was_annealing = pruner.annealing
        pruner.end_epoch(reference_loss=reference.loss(model))
        if not was_annealing:
            auroc.append(noise_auroc(pruner.score, pruner.scores, data.is_noisy))
        on_epoch()
    seconds = time.perf_counter() - started

    x, y = data.test.tensors
    with torch.no_grad():
        accuracy = (model(x).argmax(1) == y).double().mean()
    return {
        "accuracy": float(accuracy),
        "forward_fraction": pruner.forward_passes / (pruner.num_samples * pruner.epochs),
        "seconds": seconds,
        "kept_noise": mean_of_known(noise_kept),
        "noise_auroc": mean_of_known(auroc),
    }


def run(config: DemoConfig, on_step: Callable[[str, int], None] = lambda method, seed: None) -> list[dict[str, Any]]:
    """Run every method on every seed, write ``summary.json`` and the two pictures.

    Args:
        config: settings.
        on_step: called with (method, seed) after every epoch of every run.

    Returns:
        the rows of ``summary.json``.

    Raises:
        ValueError, FileExistsError: if the folder cannot be written, before any run.
    """
    refuse_unwritable("out", config.out)
    draw(config)
    rows = []
    for method in METHODS:
        results = []
        for seed in range(config.seeds):
            data = digits(seed)
            pruner = ap.Pruner.from_preset(
                method, num_samples=len(data.train), epochs=config.epochs, seed=seed, labels=data.train.tensors[1]
            )
            results.append(train(data, pruner, seed, lambda m=method, s=seed: on_step(m, s)))  # type: ignore[misc]
        rows.append(_summary(method, results))
    write_json(config.out / "summary.json", {"rows": rows})
    return rows


def draw(config: DemoConfig) -> None:
    """Draw the paper's figures B and C: full training with a window as long as the run records all trajectories."""
    from alignprune.bench.results import charts

    data = digits(seed=0)
    pruner = ap.Pruner(
        len(data.train),
        config.epochs,
        score=ap.scores.Alignment(window=config.epochs),
        policy=ap.policies.Full(),
    )
    train(data, pruner, seed=0, on_epoch=lambda: None)
    losses = pruner.memory(ap.TrajectoryBank).losses
    early = min(4, config.epochs - 1)
    charts.loss_distribution(losses[early], data.is_noisy, early + 1, config.out / "loss_distribution.png")
    charts.trajectories(losses, pruner.reference[1:], data.is_noisy, config.out / "trajectories.png")


def _summary(method: str, results: list[dict[str, float]]) -> dict[str, Any]:
    accuracies = [result["accuracy"] for result in results]
    others = ("forward_fraction", "seconds", "kept_noise", "noise_auroc")
    return {
        "method": method,
        "accuracy_mean": mean(accuracies),
        "accuracy_std": stdev(accuracies) if len(accuracies) > 1 else 0.0,
        **{name: mean(result[name] for result in results) for name in others},
    }

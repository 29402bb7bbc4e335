"""What pruning adds to a training, and what it saves of one."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import alignprune as ap
from lines.line import Found, Line, Sizes, in_turns

CLASSES, FEATURES, UNITS = 100, 1_280, 512


def network(name: str, classes: int) -> nn.Module:
    """A network for images of CIFAR's size."""
    from alignprune.bench import models  # takes seconds, and a process of its own imports all lines

    return models.create(name, classes, (3, 32, 32))


def reduce(sizes: Sizes) -> Found:
    """`reduce` of a weighted batch against a training step of a ResNet-18 on CIFAR's images."""
    pruner = ap.Pruner.from_preset("infobatch", num_samples=sizes.few, epochs=3, delta=1.0)
    pruner.reduce(torch.arange(sizes.few), torch.rand(sizes.few))
    pruner.end_epoch()
    batches = iter(pruner.selection.indices.split(sizes.batch))
    model = network("resnet18", CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    images, labels = torch.randn(sizes.batch, 3, 32, 32), torch.randint(0, CLASSES, (sizes.batch,))
    losses = torch.rand(sizes.batch, requires_grad=True)
    steps = min(50, len(pruner.selection) // sizes.batch // (sizes.few_repeats + 1))

    def work() -> None:
        for _ in range(steps):
            pruner.reduce(next(batches), losses)

    def unit() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    found = in_turns(work, unit, sizes.few, sizes.few_repeats)
    assert found.milliseconds is not None
    return Found(found.ratio / steps, found.samples, found.repeats, found.milliseconds / steps)


def added_to_head(sizes: Sizes) -> Found:
    """All that pruning adds to an epoch of a head on features, against the steps of the same epoch."""
    features = torch.randn(sizes.few, FEATURES, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(sizes.few) % CLASSES
    model = nn.Sequential(nn.Linear(FEATURES, UNITS), nn.ReLU(), nn.Linear(UNITS, CLASSES))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    epochs = sizes.few_repeats + 1
    pruner = ap.Pruner.from_preset("robust", num_samples=sizes.few, epochs=epochs, labels=labels)
    found = [_pruned_epoch(pruner, model, optimizer, features, labels, sizes.batch) for _ in range(epochs)][1:]
    ratio = median(added / trained for added, trained in found)
    return Found(ratio, sizes.few, len(found), 1e3 * median(added for added, _ in found))


def _pruned_epoch(
    pruner: ap.Pruner,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    features: Tensor,
    labels: Tensor,
    batch_size: int,
) -> tuple[float, float]:
    """Seconds that pruning takes in an epoch, and those of its training steps."""
    added, trained, last = 0.0, 0.0, time.perf_counter()

    def since() -> float:
        nonlocal last
        before, last = last, time.perf_counter()
        return last - before

    order = pruner.sampler.indices()
    added += since()
    for index in order.split(batch_size):
        logits = model(features[index])
        losses = F.cross_entropy(logits, labels[index], reduction="none")
        trained += since()
        loss = pruner.reduce(index, losses, predictions=logits.argmax(1))
        added += since()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        trained += since()
    pruner.end_epoch()
    return added + since(), trained


def half_of_the_passes(sizes: Sizes) -> Found:
    """An epoch with half of the samples against an epoch with all, loader and all, a small network on images."""
    images, labels = torch.randn(sizes.images, 3, 32, 32), torch.arange(sizes.images) % 10
    model, data = network("resnet-small", 10), TensorDataset(images, labels)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    repeats = sizes.few_repeats * 2 + 1
    pruner = ap.Pruner.from_preset("robust", num_samples=sizes.images, epochs=repeats + 1, labels=labels)
    loader, everything = pruner.loader(data, batch_size=sizes.batch), DataLoader(data, sizes.batch, shuffle=True)

    def step(loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def pruned() -> None:
        for index, (x, y) in loader:
            logits = model(x)
            losses = F.cross_entropy(logits, y, reduction="none")
            step(pruner.reduce(index, losses, predictions=logits.argmax(1)))
        pruner.end_epoch()

    def full() -> None:
        for x, y in everything:
            step(F.cross_entropy(model(x), y))

    found = in_turns(pruned, full, sizes.images, repeats)
    passes = pruner.forward_passes / (pruner.epoch * sizes.images)
    return Found(found.ratio, found.samples, repeats, found.milliseconds, details={"passes": passes})


def five_seeds(sizes: Sizes) -> Found:
    """Five seeds of a head on features at once, against five runs one after another, by the CPU's time."""
    from alignprune.bench.run import seeds
    from alignprune.bench.run.config import TrainConfig, configure
    from alignprune.bench.run.progress import Progress
    from alignprune.bench.run.training import train

    samples, draw = sizes.few // 6, np.random.default_rng(0)
    labels = draw.integers(0, 10, 2 * samples)
    values = draw.normal(size=(10, 128))[labels] / 2 + draw.normal(size=(2 * samples, 128))
    with TemporaryDirectory() as folder:
        data = Path(folder, "features.npz")
        halves = {"x_train": values[:samples], "x_test": values[samples:]}
        np.savez(data, y_train=labels[:samples], y_test=labels[samples:], **halves)
        settings = {"dataset": str(data), "method": "full", "device": "cpu", "recipe": "head", "model": "mlp"}

        def runs(kind: str, turn: int) -> list[TrainConfig]:
            out = [str(Path(folder, kind, str(turn), str(seed))) for seed in range(5)]
            recipe = {"recipe.epochs": 4, "recipe.batch_size": sizes.batch}
            return [configure({**settings, **recipe, "seed": seed, "out": out[seed]}) for seed in range(5)]

        turns = iter(range(4 * sizes.few_repeats + 4))

        def together() -> None:
            seeds.train(runs("together", next(turns)), [Progress() for _ in range(5)])

        def alone() -> None:
            for run in runs("alone", next(turns)):
                train(run)

        return in_turns(together, alone, samples, sizes.few_repeats)


LINES = (
    Line("reduce, a weighted batch of 128", "a training step of ResNet-18", 0.003, reduce),
    Line("all that robust adds to a head on features", "its training steps", 0.05, added_to_head),
    Line("an epoch of robust, half of the passes", "an epoch of all passes", 0.51, half_of_the_passes),
    Line("five seeds of a head on features, at once", "five runs one after another", 1 / 3, five_seeds),
)

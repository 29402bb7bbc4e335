"""What the tests of the label report share: a training on digits, made-up runs without a network, made-up facts."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import alignprune as ap
from alignprune.audit import Facts

CLASSES = 3


@dataclass
class Digits:
    """A training on digits of which a tenth has another label, drawn from the other nine."""

    pruner: ap.Pruner
    given: torch.Tensor
    true: torch.Tensor
    wrong: np.ndarray[Any, Any]


@cache
def digits() -> Digits:
    images, labels = load_digits(return_X_y=True)
    true = torch.from_numpy(labels)
    draw = np.random.default_rng(0)
    wrong = draw.random(len(labels)) < 0.1
    given = torch.from_numpy(np.where(wrong, (labels + draw.integers(1, 10, len(labels))) % 10, labels))
    data = TensorDataset(torch.from_numpy(images / 16).float(), given)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
        optimizer = torch.optim.Adam(network.parameters(), 3e-3)
        pruner = ap.Pruner.from_preset("robust", num_samples=len(labels), epochs=40, labels=given)
        loader = DataLoader(ap.Indexed(data), sampler=pruner.sampler, batch_size=64)
        for _ in range(pruner.epochs):
            for index, (x, y) in loader:
                logits = network(x)
                losses = F.cross_entropy(logits, y, reduction="none")
                loss = pruner.reduce(index, losses, predictions=logits.argmax(1))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            pruner.end_epoch()
    return Digits(pruner, given, true, wrong)


@dataclass
class Made:
    """A run of a network that is right but for chance, with all that it saw.

    Attributes:
        true, given: int64 [N], class ids; given -100 = unlabelled.
        wrong: bool [N].
        epochs: of each epoch the losses float32 [N], the predictions int64 [N], the selection, and its suspects.
    """

    pruner: ap.Pruner
    true: np.ndarray[Any, Any]
    given: np.ndarray[Any, Any]
    wrong: np.ndarray[Any, Any]
    epochs: list[tuple[Any, Any, ap.Selection]] = field(default_factory=list)


def made(
    preset: str = "robust",
    size: int = 600,
    classes: int = CLASSES,
    rate: float = 0.2,
    epochs: int = 30,
    *,
    seed: int = 0,
    predict: bool = True,
    unlabelled: int = 0,
    named: Any = lambda given: given,
    **settings: Any,
) -> Made:
    """Run a pruner on made-up losses: about 0.1 for right labels, 6 for wrong ones."""
    draw = np.random.default_rng(seed)
    true = np.arange(size) % classes
    wrong = draw.random(size) < rate if classes > 1 else np.zeros(size, dtype=bool)
    given = np.where(wrong, (true + draw.integers(1, max(2, classes), size)) % classes, true)
    losses = np.where(wrong, 6.0, 0.1) * np.exp(0.3 * draw.standard_normal((epochs, size)))
    said = np.where(draw.random((epochs, size)) < 0.9, true, draw.integers(0, classes, (epochs, size)))
    labels = given.copy()
    labels[:unlabelled] = -100
    settings = {"labels": named(labels), **settings}
    run = Made(ap.Pruner.from_preset(preset, num_samples=size, epochs=epochs, **settings), true, labels, wrong)
    for epoch in range(epochs):
        row, predictions = torch.tensor(losses[epoch], dtype=torch.float32), torch.from_numpy(said[epoch])
        run.epochs.append((row, predictions, run.pruner.selection))
        for index in torch.tensor(list(run.pruner.sampler), dtype=torch.int64).split(64):
            run.pruner.reduce(index, row[index], predictions=predictions[index] if predict else None)
        run.pruner.end_epoch()
    return run


def made_facts(size: int, **columns: Any) -> Facts:
    """Facts of a run of 10 epochs in which every sample was trained on and predicted to be what it is given as."""
    counts = np.full(size, 10, dtype=np.int32)
    losses = np.full(size, 0.1, dtype=np.float32)
    plain: dict[str, Any] = {
        "suspicion": losses,
        "held_out": np.full(size, np.nan, dtype=np.float32),
        "first_flagged": np.full(size, -1, dtype=np.int32),
        "times_trained": counts,
        "times_held_out": np.zeros(size, dtype=np.int32),
        "mean_loss": losses,
        "held_out_loss": np.full(size, np.nan, dtype=np.float32),
        "predictions": counts,
        "agreeing": counts,
        "alternative": np.full(size, -1, dtype=np.int32),
        "agreement": np.full(size, np.nan, dtype=np.float32),
        "epochs": 10,
        "labels": 0,
    }
    return Facts(**{**plain, **columns})

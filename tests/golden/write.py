"""Write the golden trajectories anew: what every preset does in a training that is the same on every machine.

    python tests/golden/write.py             # all of them
    python tests/golden/write.py robust ies  # some

The data are the digits of scikit-learn with three labels in ten wrong. The losses are no network's: a formula gives
them, in numbers that a float32 holds exactly, so that no machine rounds differently. They fall as a training's do,
wrong labels' only as they are learned by heart, and what the epoch before trained on has lower ones.

Run it after a change that is meant to change what a method does, and look at the difference before it is committed.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor

import alignprune as ap

FOLDER = Path(__file__).parent
EPOCHS, BATCH, CLASSES = 32, 128, 10  # more epochs than the paper's window of 25

# DivBS draws by a generator of torch, whose numbers differ between its versions, and the more it picks of a batch, the
# more of what is left to pick by is rounding.
SETTINGS: dict[str, dict[str, Any]] = {"divbs": {"pick": "argmax", "prune_ratio": 0.9}}

DIGITS = load_digits()
PIXELS = torch.from_numpy(DIGITS.data).float()
TRUE = torch.from_numpy(DIGITS.target)
SAMPLES = torch.arange(len(TRUE))
WRONG = (SAMPLES * 37) % 10 < 3
GIVEN = torch.where(WRONG, (TRUE + 1 + SAMPLES % 9) % CLASSES, TRUE)


class Training:
    """Losses by formula: of the sample, the epoch, whether its label is right, and when it was trained on."""

    def __init__(self) -> None:
        self.exposures = torch.zeros(len(SAMPLES), dtype=torch.int64)
        self.last = torch.full((len(SAMPLES),), -2, dtype=torch.int64)

    def losses(self, epoch: int, index: Tensor) -> Tensor:
        """float32 [B], multiples of 2^-19 below 8."""
        hardness = (index * 769 % 2048) / 2048
        wobble = torch.where(index % 3 == 0, 0.0, (index * 31 + epoch * 17) % 64 / 4096)
        right = (0.125 + hardness) * 0.5 ** min(epoch, 6)
        wrong = 3 + hardness - self.exposures[index].clamp(max=32) / 16
        refreshed = torch.where(self.last[index] == epoch - 1, 0.75, 1.0)
        return (torch.where(WRONG[index], wrong, right) + wobble) * refreshed

    def train(self, epoch: int, index: Tensor) -> None:
        self.exposures[index] += 1
        self.last[index] = epoch

    @staticmethod
    def reference(epoch: int) -> float:
        return 0.25 + 0.5 ** min(epoch, 6) - epoch / 256


def trajectory(name: str) -> list[dict[str, Any]]:
    """What a preset selects for every epoch, and by which scores; a row an epoch."""
    training, rows = Training(), []
    settings = SETTINGS.get(name, {})
    pruner = ap.Pruner.from_preset(name, num_samples=len(SAMPLES), epochs=EPOCHS, labels=GIVEN, seed=7, **settings)
    for epoch in range(EPOCHS):
        selection, trained = pruner.selection, []
        for index in selection.indices.split(BATCH):  # in ascending order: torch has no say in it
            losses = training.losses(epoch, index)
            if isinstance(pruner.policy, ap.BatchPolicy):
                logits = -losses[:, None] * F.one_hot(GIVEN[index], CLASSES)
                chosen = pruner.choose(index, logits=logits, features=PIXELS[index], labels=GIVEN[index])
                index, losses = index[chosen], losses[chosen]
            if pruner.score.needs_batches:
                pruner.reduce_batch(index, losses.double().mean().float())
            else:
                pruner.reduce(index, losses)
            trained.append(index)
        learned = torch.cat(trained)
        if selection.weights is not None:
            learned = learned[selection.weights > 0]
        training.train(epoch, learned)
        if pruner.score.needs_pruned and len(selection.pruned):
            pruner.record(selection.pruned, training.losses(epoch, selection.pruned))
        pruner.end_epoch(training.reference(epoch) if pruner.needs_reference else None)
        rows.append({"epoch": epoch, "learned": digest(learned), **described(pruner)})
    return rows


def described(pruner: ap.Pruner) -> dict[str, Any]:
    """The selection for the coming epoch in a few numbers."""
    selection, known = pruner.selection, pruner.scores[~pruner.scores.isnan()].double().numpy()
    weights = selection.weights
    return {
        "selected": len(selection),
        "indices": digest(selection.indices),
        "weights": None if weights is None else round(float(weights.double().sum()), 4),
        "suspects": None if selection.suspects is None else len(selection.suspects),
        "flagged": None if selection.suspects is None else digest(selection.suspects),
        "noise_rate": None if pruner.noise_rate is None else round(pruner.noise_rate, 6),
        "scored": len(known),
        "scores": np.quantile(known, [0, 0.25, 0.5, 0.75, 1]).round(5).tolist() if len(known) else [],
    }


def digest(samples: Tensor) -> str:
    """A short name of a list of samples, such as "0a1b2c3d4e5f6071"."""
    return hashlib.blake2b(samples.numpy().tobytes(), digest_size=8).hexdigest()


def path(name: str) -> Path:
    return FOLDER / f"{name}.json"


def write(name: str) -> None:
    """One file a preset, one line an epoch."""
    rows = ",\n".join(json.dumps(row) for row in trajectory(name))
    path(name).write_text(f"[\n{rows}\n]\n")


if __name__ == "__main__":
    for name in sys.argv[1:] or ap.PRESETS:
        write(name)
        print(path(name))

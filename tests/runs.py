"""Folders of complete runs, made without training."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from alignprune.bench.files import write_record
from alignprune.bench.grid.cells import JOB, JOB_KIND
from alignprune.bench.run.folder import RunFolder


def complete_run(
    folder: Path,
    job: dict[str, Any] | None,
    config: dict[str, Any],
    result: dict[str, Any] | None,
    epochs: Iterable[dict[str, Any]] | None = None,
) -> Path:
    """Write what a sweep leaves; job None is a run of no sweep, result None one that has not ended."""
    with closing(RunFolder(folder, config, resume=False)) as made:
        if epochs is not None:
            made.save_metrics(list(epochs))
            if result is None:
                made.save_checkpoint({"metrics": list(epochs)})
        if result is not None:
            made.save_result(result)
    if job is not None:
        write_record(folder / JOB, JOB_KIND, job)
    return folder


RESULT = {
    "dataset": "cifar100n",
    "method": "infobatch",
    "model": "resnet18",
    "epochs": 2,
    "accuracy": 0.5,
    "prune_ratio": None,
    "kept_noise": 0.25,
    "versions": {"torch": "2.6.0", "python": "3.12"},
    "curves": [1, 2],
}
CONFIG = {"limit": None, "reference": "clean", "recipe": {"lr": 5.2, "epochs": 2}}
EPOCHS = [
    {"epoch": 1, "accuracy": None, "clean_loss": 2.0, "noisy_loss": 4.0, "annealing": False},
    {"epoch": 2, "accuracy": 0.5, "clean_loss": 1.0, "noisy_loss": 3.5, "annealing": True},
]


def swept_run(
    root: Path,
    key: str,
    seed: int,
    protocol: str = "cpu",
    config: dict[str, Any] = CONFIG,
    epochs: Any = EPOCHS,
    **result: Any,
) -> Path:
    """A complete run's folder, as a sweep leaves it."""
    folder = root / protocol / f"cifar100n-infobatch-{key}" / f"seed{seed}"
    place = {"key": key, "protocol": protocol, "cell": folder.parent.name, "seed": seed}
    job = place | {"settings": {"method": "infobatch"}}
    return complete_run(folder, job, config, RESULT | {"seed": seed} | result, epochs)


def archived(root: Path, key: str, seed: int, **other: Any) -> Path:
    """The same, archived."""
    from alignprune.bench.results.store import archive

    folder = swept_run(root, key, seed, **other)
    archive(folder)
    return folder

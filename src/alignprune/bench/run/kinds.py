"""The kinds of run, each of which makes its folder complete: a training, or a cross-validation of several."""

from __future__ import annotations

from typing import Any

from alignprune.bench.run import cross_validation, training
from alignprune.bench.run.config import TrainConfig
from alignprune.bench.run.progress import Progress


def run(config: TrainConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Do what the configuration asks for, or what is left of it.

    Args:
        config: everything.
        progress: hears of every step and epoch, on the first rank.

    Returns:
        the content of result.json.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: before any training, with what to do.
    """
    kind = training.train if config.pruning.folds is None else cross_validation.run
    return kind(config, progress)

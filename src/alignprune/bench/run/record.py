"""What a run reports: a record an epoch, and one at its end. Their fields are the columns of the stored results.

metrics.jsonl and result.json are these records as JSON, and the store's Parquet files take their columns from them.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy
import torch
from torch.version import cuda as CUDA

import alignprune
from alignprune._ranks import DRAWS


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """What an epoch reports.

    Attributes:
        epoch: its number, from 1.
        accuracy: share of the test samples that are classified right; None where nobody looked.
        test_loss: mean cross-entropy of the test samples; None where nobody looked.
        train_loss: mean of the minimised loss over the steps.
        reference_loss: mean loss of the reference after the epoch; None without one.
        pruned_share: share of the training samples that the epoch left out.
        annealing: whether it was one of the last epochs, which train on all samples.
        forward_passes: of training samples, since the start.
        samples_per_second: samples trained on per second.
        train_seconds: of the training steps.
        seconds: of all, evaluation included.
        estimated_noise_rate: share of wrong labels that the method assumes; None for methods that estimate none.
        memorisation: how far the network has memorised wrong labels, as the ledger senses it; None where it does not.
        kept_noise: share of wrong labels among the samples trained on; None where the truth is not known.
        score_auroc: area under the ROC curve of the score for wrong labels; None where the truth is not known.
        clean_loss: mean latest loss of the samples with right labels; None where the truth is not known.
        noisy_loss: mean latest loss of the samples with wrong labels; None where the truth is not known.
        train_accuracy: share of the samples trained on that were classified as their given label says, while training.
        suspects: how many labels the method holds for wrong; None for methods that suspect none.
        threshold: the score that decided about this epoch; None where there is none, or there are two.
        threshold_low, threshold_high: the two scores that the epoch lies between; None where there are none.
        nonfinite: losses that were not finite, since the start.
        overhead_seconds: of choosing the next samples, part of `seconds`.
        holdout_accuracy: share of the samples held out, to choose the epoch by, whose given label is met; None without.
    """

    epoch: int
    accuracy: float | None
    test_loss: float | None
    train_loss: float
    reference_loss: float | None
    pruned_share: float
    annealing: bool
    forward_passes: int
    samples_per_second: float
    train_seconds: float
    seconds: float
    estimated_noise_rate: float | None
    memorisation: float | None
    kept_noise: float | None = None
    score_auroc: float | None = None
    clean_loss: float | None = None
    noisy_loss: float | None = None
    train_accuracy: float | None = None
    suspects: int | None = None
    threshold: float | None = None
    threshold_low: float | None = None
    threshold_high: float | None = None
    nonfinite: int | None = None
    overhead_seconds: float | None = None
    holdout_accuracy: float | None = None


@dataclass(frozen=True)
class Versions:
    """What a run was made with.

    Attributes:
        alignprune, torch, numpy, python: version numbers.
        cuda: of the CUDA that torch was built with; None for a build without.
        system: operating system and processor, such as "Linux x86_64".
        draws: `alignprune._ranks.DRAWS`; runs of other draws select other samples from the same seed.
    """

    alignprune: str = alignprune.__version__
    torch: str = torch.__version__
    numpy: str = numpy.__version__
    python: str = field(default_factory=platform.python_version)
    cuda: str | None = CUDA
    system: str = field(default_factory=lambda: f"{platform.system()} {platform.machine()}")
    draws: int = DRAWS


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a finished run reports. Fractions are of a full training: all samples in all epochs of the recipe.

    Attributes:
        dataset: as configured.
        method: as configured.
        prune_ratio: as configured.
        seed: as configured.
        noise: kind of the label noise; None where no noise is known.
        noise_rate: measured share of wrong labels; None where no noise is known.
        model: name of the network.
        epochs: that it took.
        train_size: samples that it chose among; without those held out.
        evaluated_on: "test" or "holdout".
        accuracy, test_loss: of the trained model: of the last epoch, or the one that samples held out have chosen.
        best_accuracy: the highest of all epochs that were judged, as nobody can choose who has no test set.
        train_accuracy: share of the samples read in the last epoch whose given label was met.
        memorisation: as it was last measured; None where it was not.
        estimated_noise_rate: of the last epoch.
        chosen_epoch: which it is, from 1; None where the last one is taken.
        holdout_accuracy: share of the samples held out whose given label it meets; None without.
        forward_passes: of training samples.
        forward_fraction: the same as a fraction.
        trained_fraction: samples that were learned from, as a fraction.
        reference_forward_passes: of the reference.
        proxy_forward_passes: of the proxy run or the cross-validation that samples or reference were chosen by.
        collect_forward_passes: of the looks at all samples that a proxy run takes.
        holdout_forward_passes: of the samples held out to choose the epoch by.
        pruned_share: mean over the epochs.
        kept_noise, score_auroc: mean over the epochs that rank; None where the truth is not known.
        samples_per_second: mean over the epochs.
        train_seconds, seconds: sum over the epochs.
        device: name of the device.
        versions: what it was made with.
    """

    dataset: str
    noise: str | None
    noise_rate: float | None
    method: str
    prune_ratio: float | None
    seed: int
    model: str
    epochs: int
    train_size: int
    evaluated_on: str
    accuracy: float
    test_loss: float
    best_accuracy: float | None = None
    train_accuracy: float | None = None
    memorisation: float | None = None
    forward_passes: int
    forward_fraction: float
    trained_fraction: float
    reference_forward_passes: int
    proxy_forward_passes: int
    collect_forward_passes: int = 0
    holdout_forward_passes: int = 0
    chosen_epoch: int | None = None
    holdout_accuracy: float | None = None
    pruned_share: float
    kept_noise: float | None
    score_auroc: float | None
    estimated_noise_rate: float | None
    samples_per_second: float
    train_seconds: float
    seconds: float
    device: str
    versions: Versions = field(default_factory=Versions)


def summary(epochs: Sequence[EpochRecord], annealing_start: int) -> dict[str, Any]:
    """What the epochs say together: the fields of `RunRecord` that follow from theirs.

    Args:
        epochs: of the run, at least one.
        annealing_start: how many epochs rank, at most; a run that anneals from the start is judged by all.
    """
    last, ranked = epochs[-1], epochs[:annealing_start] or epochs
    return {
        "epochs": len(epochs),
        "accuracy": last.accuracy,
        "test_loss": last.test_loss,
        "best_accuracy": max((row.accuracy for row in epochs if row.accuracy is not None), default=None),
        "train_accuracy": last.train_accuracy,
        "memorisation": next((row.memorisation for row in reversed(epochs) if row.memorisation is not None), None),
        "estimated_noise_rate": last.estimated_noise_rate,
        "forward_passes": last.forward_passes,
        "pruned_share": sum(row.pruned_share for row in epochs) / len(epochs),
        "kept_noise": known(mean_of_known(row.kept_noise for row in ranked)),
        "score_auroc": known(mean_of_known(row.score_auroc for row in ranked)),
        "samples_per_second": sum(row.samples_per_second for row in epochs) / len(epochs),
        "train_seconds": sum(row.train_seconds for row in epochs),
        "seconds": sum(row.seconds for row in epochs),
    }


def known(value: float) -> float | None:
    """The value; None for NaN."""
    return None if math.isnan(value) else value


def mean_of_known(values: Iterable[float | None]) -> float:
    """Mean of the entries that are neither None nor NaN; NaN if there is none."""
    found = [value for value in values if value is not None and not math.isnan(value)]
    return sum(found) / len(found) if found else math.nan


def device_name(device: torch.device) -> str:
    """The GPU's name, or how many threads a CPU computes with."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"

"""What pruning did, measured against the truth. For data sets whose wrong labels are known; never fed back."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import roc_auc_score
from torch import Tensor

from alignprune.policies import Selection
from alignprune.scores import Score


def kept_noise(selection: Selection, is_noisy: Tensor) -> float:
    """Share of wrong labels among the samples that an epoch trains on; those of weight 0 are only looked at.

    Args:
        selection: the epoch's samples.
        is_noisy: bool [num_samples].
    """
    weights = selection.weights
    trained = selection.indices if weights is None else selection.indices[weights > 0]
    return float(is_noisy[trained].double().mean())


def noise_auroc(score: Score, values: Tensor, is_noisy: Tensor) -> float:
    """How well a score finds wrong labels: area under the ROC curve, 0.5 = not at all.

    Args:
        score: says which end of it is suspect (high losses, but low alignment).
        values: float32 [num_samples], NaN where there is no score; these samples are left out.
        is_noisy: bool [num_samples].

    Returns:
        the area, NaN where no score or only one kind of label is there.
    """
    known = ~values.isnan()
    truth = is_noisy[known].numpy()
    if truth.all() or not truth.any():
        return float("nan")
    suspicion = values[known].numpy() if score.high_is_suspect else -values[known].numpy()
    return float(roc_auc_score(truth, suspicion))


def mean_losses(losses: Tensor, is_noisy: Tensor) -> tuple[float, float]:
    """Mean recorded loss of the samples with right and of those with wrong labels, NaN where there are none.

    Args:
        losses: float32 [num_samples], NaN where a sample has none.
        is_noisy: bool [num_samples].
    """
    return float(losses[~is_noisy].nanmean()), float(losses[is_noisy].nanmean())


def mean_of_known(values: list[float]) -> float:
    """Mean of the entries that are no NaN, NaN if there is none."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")

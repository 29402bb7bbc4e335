"""Pictures of what noise does to the losses: the paper's figures B and C, from recorded trajectories."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no window, on any machine

import matplotlib.pyplot as plt
import numpy as np
from torch import Tensor

_CLEAN, _NOISY, _REFERENCE = "#2b6cb0", "#c05621", "#1a202c"


def loss_distribution(losses: Tensor, is_noisy: Tensor, epoch: int, path: Path) -> None:
    """Draw the distribution of one epoch's losses, right and wrong labels apart, and their common mean.

    The mean is InfoBatch's threshold: what lies left of it is pruned.

    Args:
        losses: float [num_samples], NaN where a sample was not seen.
        is_noisy: bool [num_samples].
        epoch: for the title, counted from 1.
        path: the PNG to write.

    Source: paper, figure B.
    """
    values, wrong = losses.numpy(), is_noisy.numpy()
    seen = ~np.isnan(values)
    bins = np.linspace(0, float(np.nanquantile(values, 0.995)), 60)
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for name, mask, colour in (("right label", seen & ~wrong, _CLEAN), ("wrong label", seen & wrong, _NOISY)):
        axes.hist(
            np.clip(values[mask], 0, bins[-1]), bins.tolist(), alpha=0.6, color=colour, label=f"{name} ({mask.sum():,})"
        )
    axes.axvline(values[seen].mean(), color=_REFERENCE, linestyle="--", label="mean loss")
    axes.set(xlabel="training loss", ylabel="samples", title=f"Loss of right and wrong labels, epoch {epoch}")
    _finish(figure, axes, path)


def trajectories(losses: Tensor, reference: Tensor, is_noisy: Tensor, path: Path) -> None:
    """Draw the mean loss trajectory of right and of wrong labels, with the quartiles, and the reference.

    Args:
        losses: float [epochs, num_samples], NaN where a sample was not seen.
        reference: float [epochs], the reference loss after every epoch.
        is_noisy: bool [num_samples].
        path: the PNG to write.

    Source: paper, figure C.
    """
    epochs = np.arange(1, len(losses) + 1)
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for name, mask, colour in (("right label", ~is_noisy, _CLEAN), ("wrong label", is_noisy, _NOISY)):
        part = losses[:, mask].numpy()
        low, high = np.nanquantile(part, [0.25, 0.75], axis=1)
        axes.plot(epochs, np.nanmean(part, axis=1), color=colour, label=f"{name}: mean, quartiles")
        axes.fill_between(epochs, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.plot(epochs, reference.numpy(), color=_REFERENCE, linestyle="--", label="clean reference")
    axes.set(xlabel="epoch", ylabel="loss", title="Loss trajectories")
    axes.set_ylim(bottom=0)
    _finish(figure, axes, path)


def _finish(figure: plt.Figure, axes: plt.Axes, path: Path) -> None:
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)

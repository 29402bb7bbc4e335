"""What pruning did, measured against the truth. For data sets whose wrong labels are known; never fed back.

losses.npz holds the latest loss of every sample half-way and at the end:

epochs      int64 [2]       their numbers, from 1 (one number where a run stopped before its half)
losses      float16 [2, N]  NaN where a sample was never seen
is_noisy    bool [N]        whether the given label is wrong
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignprune import Ledger, Pruner
from alignprune._files import Kind
from alignprune._ranks import rank_and_world
from alignprune.bench.files import save_arrays
from alignprune.bench.run.observers import EndOfEpoch, Observer
from alignprune.bench.run.record import known
from alignprune.scores import Score
from alignprune.selection import Selection

FILE = "losses.npz"
KIND = Kind("losses", 1, "train the run again, in another folder")


def kept_noise(selection: Selection, is_noisy: Tensor) -> float:
    """Share of wrong labels among the samples that an epoch trains on; those of weight 0 are only looked at.

    Args:
        selection: the epoch's samples.
        is_noisy: bool [N].
    """
    weights = selection.weights
    trained = selection.indices if weights is None else selection.indices[weights > 0]
    return float(is_noisy[trained].double().mean())


def noise_auroc(score: Score, values: Tensor, is_noisy: Tensor) -> float:
    """How well a score finds wrong labels: `auroc` of the end of it that is suspect.

    Args:
        score: says which end of it is suspect (high losses, but low alignment).
        values: float32 [N], NaN where there is no score; these samples are left out.
        is_noisy: bool [N].
    """
    suspicion = values if score.suspect == "high" else -values
    return auroc(suspicion.numpy(), is_noisy.numpy())


def auroc(suspicion: NDArray[Any], is_noisy: NDArray[np.bool_]) -> float:
    """The share of pairs of a wrong and a right label in which the wrong one is more suspect; a tie counts half.

    Args:
        suspicion: float [N], NaN where it is not known: such samples are left out.
        is_noisy: bool [N].

    Returns:
        the area under the ROC curve, 0.5 = chance; NaN where no pair is left.

    Source: Mann and Whitney (1947).
    """
    seen = ~np.isnan(suspicion)
    wrong, right = np.sort(suspicion[seen & is_noisy]), np.sort(suspicion[seen & ~is_noisy])
    if not len(wrong) or not len(right):
        return math.nan
    below, not_above = (np.searchsorted(right, wrong, side).sum() for side in ("left", "right"))
    return float(below + not_above) / (2 * len(wrong) * len(right))


def mean_losses(losses: Tensor, is_noisy: Tensor) -> tuple[float, float]:
    """Mean loss of the samples with right and of those with wrong labels, NaN where there are none.

    Args:
        losses: float32 [N], NaN where a sample has none.
        is_noisy: bool [N].
    """
    return float(losses[~is_noisy].nanmean()), float(losses[is_noisy].nanmean())


def memorisation(pruner: Pruner) -> float | None:
    """How far the network has memorised wrong labels, as the ledger measures it; None where it does not."""
    found = [memory.memorisation for memory in pruner.memories if isinstance(memory, Ledger)]
    return known(found[0]) if found else None


class LatestLosses:
    """The latest recorded loss of every sample, kept while a sample is left out.

    Args:
        num_samples: size N of the training set.
        device: of the network. A step writes there and waits for nothing.

    Attributes:
        values: float32 [N] on the CPU, as the last epoch that ended left them; NaN where a sample was never seen.
    """

    def __init__(self, num_samples: int, device: torch.device | str = "cpu") -> None:
        self.values = torch.full((num_samples,), math.nan)
        self._row = torch.full((num_samples,), math.nan, device=device)

    @torch.no_grad()
    def write(self, index: Tensor, losses: Tensor) -> None:
        """Note the losses of a batch: index int64 [B], on any device, losses float [B]."""
        self._row.index_copy_(0, index.to(self._row.device, non_blocking=True), losses.detach().float())

    def end_epoch(self) -> Tensor:
        """Take over what the epoch has seen, on all ranks; what is not finite counts as not seen."""
        row = _over_ranks(self._row).cpu()
        self.values = torch.where(row.isfinite(), row, self.values)
        self._row.fill_(math.nan)
        return self.values

    def state_dict(self) -> dict[str, Tensor]:
        """The losses, also in the middle of an epoch; every rank calls it, since each has seen its part."""
        return {"values": self.values, "row": _over_ranks(self._row).cpu()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from `state_dict`, on any number of ranks: the first holds what all had seen."""
        self.values = state["values"]
        if rank_and_world()[0] == 0:
            self._row.copy_(state["row"])


def _over_ranks(row: Tensor) -> Tensor:
    """The mean over the ranks that saw a sample, float32 [N]; NaN where none did."""
    _, world = rank_and_world()
    if world == 1:
        return row
    seen = row.isfinite()
    both = torch.stack([row.masked_fill(~seen, 0.0), seen.float()])
    torch.distributed.all_reduce(both)
    return both[0] / both[1]


class Diagnosis(Observer):
    """Compares selection, scores and losses with the truth after every epoch.

    Args:
        is_noisy: bool [N], whether the given label is wrong.
        epochs: of the run, at most.
        device: of the network.
    """

    name = "diagnosis"

    def __init__(self, is_noisy: Tensor, epochs: int, device: torch.device | str = "cpu") -> None:
        self.is_noisy, self.half_way = is_noisy, max(1, epochs // 2)
        self.latest = LatestLosses(len(is_noisy), device)
        self.shown: dict[int, Tensor] = {}  # losses by the number of the epoch, from 1

    def step(self, index: Tensor, losses: Tensor, logits: Tensor, labels: Tensor) -> None:
        self.latest.write(index, losses)

    def end_epoch(self, epoch: EndOfEpoch) -> dict[str, Any]:
        losses = self.latest.end_epoch()
        if epoch.is_last or epoch.number + 1 == self.half_way:
            self.shown[epoch.number + 1] = losses.half()
        clean, noisy = mean_losses(losses, self.is_noisy)
        return {
            "kept_noise": kept_noise(epoch.selection, self.is_noisy),
            "score_auroc": noise_auroc(epoch.pruner.score, epoch.pruner.scores, self.is_noisy),
            "clean_loss": clean,
            "noisy_loss": noisy,
        }

    def save(self, folder: Path) -> None:
        epochs = sorted(self.shown)
        losses = torch.stack([self.shown[epoch] for epoch in epochs])
        save_arrays(folder / FILE, KIND, epochs=np.array(epochs), losses=losses.numpy(), is_noisy=self.is_noisy.numpy())

    def state_dict(self) -> dict[str, Any]:
        return {"latest": self.latest.state_dict(), "shown": self.shown}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.latest.load_state_dict(state["latest"])
        self.shown = state["shown"]

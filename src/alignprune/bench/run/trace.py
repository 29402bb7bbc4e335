"""A run sample by sample, to explain what a score can see of wrong labels and what it cannot.

trace.npz holds, for the E epochs of a run on N samples:

losses      float16 [E, N]   what the pruner recorded; NaN where a sample was not seen
margins     float16 [E, N]   logit of the given label minus the largest other logit; NaN where a sample was not seen
reference   float32 [E]      mean loss of the reference after the epoch; NaN without one
is_noisy    bool [N]         whether the given label is wrong; absent where that is not known
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignprune._files import Kind, read_arrays
from alignprune.bench.files import save_arrays
from alignprune.bench.run.observers import EndOfEpoch, Observer

FILE = "trace.npz"
KIND = Kind("trace", 1, "train the run with --trace again, in another folder")

_LARGEST = torch.finfo(torch.float16).max


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """By how much the given label leads: its logit minus the largest other one, below 0 where another class leads.

    Args:
        logits: float [B, C], any dtype.
        labels: int64 [B], on the same device.

    Returns:
        float32 [B].
    """
    logits, column = logits.detach().float(), labels[:, None]
    own = logits.gather(1, column).squeeze(1)
    return own - logits.scatter(1, column, -math.inf).amax(1)


class Trace(Observer):
    """Gathers every sample's loss and margin in every epoch.

    Args:
        num_samples: size N of the training set.
        epochs: of the run, at most.
        is_noisy: bool [N], whether the given label is wrong; None where that is not known.
        device: of the network. A step writes there and waits for nothing; an epoch's rows move to the host at its end.
    """

    name = "trace"

    def __init__(
        self, num_samples: int, epochs: int, is_noisy: Tensor | None = None, device: torch.device | str = "cpu"
    ) -> None:
        self.is_noisy = is_noisy
        self.epoch = 0
        self._stored = torch.full((epochs, 2, num_samples), math.nan, dtype=torch.float16)
        self._reference = torch.full((epochs,), math.nan)
        self._rows = torch.full((2, num_samples), math.nan, device=device)

    @property
    def losses(self) -> Tensor:
        """The recorded losses of the epochs that have ended, float16 [E, N]."""
        return self._stored[: self.epoch, 0]

    @property
    def margins(self) -> Tensor:
        """The margins of the epochs that have ended, float16 [E, N]."""
        return self._stored[: self.epoch, 1]

    @property
    def reference(self) -> Tensor:
        """The reference losses of the epochs that have ended, float32 [E]."""
        return self._reference[: self.epoch]

    @torch.no_grad()
    def step(self, index: Tensor, losses: Tensor, logits: Tensor, labels: Tensor) -> None:
        index = index.to(self._rows.device, non_blocking=True)
        self._rows.index_copy_(1, index, torch.stack([losses.float(), margins(logits, labels)]))

    def end_epoch(self, epoch: EndOfEpoch) -> dict[str, Any]:
        """Close the epoch; what is not finite counts as not seen, as in the pruner."""
        rows = self._rows.cpu()
        finite = rows.masked_fill(~rows.isfinite(), math.nan).clamp(-_LARGEST, _LARGEST)
        self._stored[self.epoch] = finite.half()
        self._reference[self.epoch] = math.nan if epoch.reference_loss is None else epoch.reference_loss
        self._rows.fill_(math.nan)
        self.epoch += 1
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on from: the epochs that have ended, and the one that has not."""
        ended = self._stored[: self.epoch].clone()
        return {"stored": ended, "reference": self.reference.clone(), "rows": self._rows.cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.epoch = len(state["reference"])
        self._stored[: self.epoch] = state["stored"]
        self._reference[: self.epoch] = state["reference"]
        self._rows.copy_(state["rows"])

    def save(self, folder: Path) -> None:
        arrays = {"losses": self.losses, "margins": self.margins, "reference": self.reference}
        truth = {} if self.is_noisy is None else {"is_noisy": self.is_noisy}
        save_arrays(folder / FILE, KIND, **{name: values.numpy() for name, values in (arrays | truth).items()})


@dataclass(frozen=True, eq=False)
class StoredTrace:
    """What a trace.npz holds, for E epochs of N samples.

    Attributes:
        losses: float16 [E, N], NaN where a sample was not seen.
        margins: float16 [E, N], NaN where a sample was not seen.
        reference: float32 [E], NaN without one.
        is_noisy: bool [N]; None where the truth is not known.
    """

    losses: Tensor
    margins: Tensor
    reference: Tensor
    is_noisy: Tensor | None


def load(path: Path) -> StoredTrace:
    """Read a trace.npz.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged.
    """
    stored = read_arrays(path, KIND, needed=("losses", "margins", "reference"))
    found = {name: torch.from_numpy(values) for name, values in stored.items()}
    return StoredTrace(found["losses"], found["margins"], found["reference"], found.get("is_noisy"))

"""A run told sample by sample, to explain what a score can see of wrong labels and what it cannot.

trace.npz holds, for the E epochs of a run on N samples:

losses      float16 [E, N]   what the pruner recorded; NaN where a sample was not seen
margins     float16 [E, N]   logit of the given label minus the largest other logit; NaN where a sample was not seen
reference   float32 [E]      mean loss of the reference after the epoch; NaN without one
is_noisy    bool [N]         whether the given label is wrong; absent where that is not known
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignprune.bench.run.folder import save_arrays

FILE = "trace.npz"

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


class Trace:
    """Gathers every sample's loss and margin in every epoch.

    Args:
        num_samples: size N of the training set.
        epochs: of the run, at most.
        is_noisy: bool [N], whether the given label is wrong; None where that is not known.
        device: of the network. A step writes there and waits for nothing; an epoch's rows move to the host at its end.
    """

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
        """Note a batch of B samples.

        Args:
            index: int64 [B], on any device.
            losses: [B], what the pruner recorded.
            logits: [B, C] and labels: int64 [B], on the network's device.
        """
        index = index.to(self._rows.device, non_blocking=True)
        self._rows.index_copy_(1, index, torch.stack([losses.float(), margins(logits, labels)]))

    def end_epoch(self, reference_loss: float | None) -> None:
        """Close the epoch; what is not finite counts as not seen, as in the pruner."""
        rows = self._rows.cpu()
        finite = rows.masked_fill(~rows.isfinite(), math.nan).clamp(-_LARGEST, _LARGEST)
        self._stored[self.epoch] = finite.half()
        self._reference[self.epoch] = math.nan if reference_loss is None else reference_loss
        self._rows.fill_(math.nan)
        self.epoch += 1

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on from: the epochs that have ended."""
        return {"stored": self._stored[: self.epoch].clone(), "reference": self.reference.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.epoch = len(state["reference"])
        self._stored[: self.epoch] = state["stored"]
        self._reference[: self.epoch] = state["reference"]

    def save(self, path: Path) -> None:
        """Write the epochs that have ended, whole or not at all."""
        arrays = {"losses": self.losses, "margins": self.margins, "reference": self.reference}
        known = {} if self.is_noisy is None else {"is_noisy": self.is_noisy}
        save_arrays(path, **{name: values.numpy() for name, values in (arrays | known).items()})

    @classmethod
    def load(cls, path: Path) -> Trace:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            found = {name: torch.from_numpy(file[name]) for name in file.files}
        epochs, num_samples = found["losses"].shape
        trace = cls(num_samples, epochs, found.get("is_noisy"))
        stored = torch.stack([found["losses"], found["margins"]], dim=1)
        trace.load_state_dict({"stored": stored, "reference": found["reference"]})
        return trace

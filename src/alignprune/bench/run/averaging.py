"""Which weights are judged while a run trains: those of the last step, or their exponential moving average.

    a(t) = d(t) a(t - 1) + (1 - d(t)) w(t)        d(t) = min(decay, t / (9 + t)), a(1) = w(1)

The rising decay lets the average look back over a ninth of the steps so far, until it is the decay that was asked for:
after 1 / (1 - decay) * 9 steps, 9,000 for 0.999. A shorter run needs no other decay.

Source: Polyak and Juditsky, 1992; the rising decay is that of TensorFlow's ExponentialMovingAverage.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class LatestWeights:
    """The weights of the last step.

    Args:
        network: that is trained, not as Fabric wraps it.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def step(self) -> None:
        """Nothing to average."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the network's own state is all."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to go on from."""


class AveragedWeights:
    """The average of the weights over the last steps; that of the statistics of batch norm, too.

    Args:
        network: that is trained, not as Fabric wraps it.
        decay: of the average in a step, in [0, 1).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.trained, self.decay = network, decay
        self.average = AveragedModel(network, multi_avg_fn=self._blend, use_buffers=True)

    @property
    def network(self) -> nn.Module:
        """A network with the averaged weights."""
        return self.average.module

    def step(self) -> None:
        """The optimiser has taken a step."""
        self.average.update_parameters(self.trained)

    def _blend(self, averaged: Any, latest: Any, count: Tensor | int) -> None:
        done = int(self.average.n_averaged)  # not the count, which may be on a device that would be waited for
        get_ema_multi_avg_fn(min(self.decay, (done + 1) / (done + 10)))(averaged, latest, count)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on from."""
        return self.average.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.average.load_state_dict(state)

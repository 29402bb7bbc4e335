"""Networks of one shape as one: with their weights stacked, a step of all of them takes the calls of one.

    h[s] = W[s] x[s] + b[s]        [S, units, B] for S networks and batches of B samples

Samples are columns, so that batch normalisation sees the units of all networks as units of one. While the weights are
stacked, each network reads its own through views: whoever looks at one sees it as it is. `Stacked.release` gives every
network and its optimiser tensors of their own.

The arithmetic is that of single networks; a sum may be added up in another order, and Adam and SGD are torch's fused
ones on a CPU, so numbers agree to within float error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignprune.bench.feature_networks import FeatureNetwork

OPTIMIZERS = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
"""Which update every number by itself, so that they do so in a stack, too."""

_ELEMENTWISE = (nn.ReLU, nn.Softsign)


class Stacked:
    """S networks, with their optimisers, whose weights lie in common tensors.

    Args:
        networks: of one shape, on one device, which `fits`.
        optimizers: of each network, of one kind and with as many steps behind them.
    """

    def __init__(self, networks: Sequence[nn.Module], optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self._optimizers = optimizers
        self._layers = list(_layers(networks[0]))
        self._parameters = [dict(network.named_parameters()) for network in networks]
        self._buffers = [dict(network.named_buffers()) for network in networks]
        self._weights = {name: stack.requires_grad_() for name, stack in _stacks(self._parameters)}
        self._statistics = dict(_stacks(self._buffers))
        self.optimizer = self._stacked_optimizer()
        for which in range(len(networks)):
            for tensor, stack in self._of(which):
                tensor.data = stack.detach()[which]

    @staticmethod
    def fits(network: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
        """Whether a network, with its optimiser, can be stacked with others of its shape."""
        return isinstance(network, FeatureNetwork) and type(optimizer) in OPTIMIZERS and _known(network)

    def __call__(self, x: Tensor) -> Tensor:
        """The samples of each network, [S, B, D], to its logits, [S, B, classes]."""
        h = x.transpose(1, 2)
        for name, layer in self._layers:
            h = self._through(name, layer, h)
        return h.transpose(1, 2)

    def step(self) -> None:
        """One step of all optimisers, at the settings of the first."""
        for mine, theirs in zip(self.optimizer.param_groups, self._optimizers[0].param_groups, strict=True):
            mine.update({name: value for name, value in theirs.items() if name not in _OWN})
        self.optimizer.step()

    def release(self) -> None:
        """Give every network and its optimiser tensors of their own; the stack is not to be used any more."""
        for which, optimizer in enumerate(self._optimizers):
            for tensor, stack in self._of(which):
                tensor.data = tensor.data.clone()
                if stack in self.optimizer.state:
                    state = self.optimizer.state[stack]
                    optimizer.state[tensor] = {key: _own(value, which) for key, value in state.items()}

    # ------------------------------------------------------------------ the parts

    def _through(self, name: str, layer: nn.Module, h: Tensor) -> Tensor:
        if isinstance(layer, nn.Linear):
            return torch.baddbmm(self._weights[f"{name}.bias"].unsqueeze(2), self._weights[f"{name}.weight"], h)
        return self._normalised(name, layer, h) if isinstance(layer, nn.BatchNorm1d) else layer(h)

    def _normalised(self, name: str, layer: nn.BatchNorm1d, h: Tensor) -> Tensor:
        found = {**self._weights, **self._statistics}
        if layer.training:
            found[f"{name}.num_batches_tracked"].add_(1)
        mean, variance, weight, bias = (
            found[f"{name}.{part}"].flatten() for part in ("running_mean", "running_var", "weight", "bias")
        )
        units = h.reshape(1, -1, h.shape[2])
        normalised = F.batch_norm(units, mean, variance, weight, bias, layer.training, layer.momentum or 0.0, layer.eps)
        return normalised.view_as(h)

    def _stacked_optimizer(self) -> torch.optim.Optimizer:
        first = self._optimizers[0]
        stack_of = {self._parameters[0][name]: stack for name, stack in self._weights.items()}
        on_host = next(iter(self._weights.values())).is_cpu
        groups = [
            {**group, "params": [stack_of[own] for own in group["params"]], "fused": on_host or None}
            for group in first.param_groups
        ]
        kind: Any = type(first)
        optimizer: torch.optim.Optimizer = kind(groups)
        for name, stack in self._weights.items():
            states = [
                own.state.get(part[name], {}) for own, part in zip(self._optimizers, self._parameters, strict=True)
            ]
            if states[0]:
                optimizer.state[stack] = {key: _stack([state[key] for state in states]) for key in states[0]}
        return optimizer

    def _of(self, which: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The weights and statistics of a network, each with the stack that it is a part of."""
        for own, stacks in ((self._parameters, self._weights), (self._buffers, self._statistics)):
            yield from ((own[which][name], stack) for name, stack in stacks.items())


_OWN = ("params", "fused", "foreach")  # settings of an optimiser's group that are the stack's own


def _layers(network: Any) -> Iterator[tuple[str, nn.Module]]:
    """The layers by their names, in the order in which samples pass them."""
    yield from ((f"body.{name}", layer) for name, layer in network.body.named_children())
    yield "fc", network.fc


def _known(network: Any) -> bool:
    """Whether it is a row of layers that a stack can imitate."""
    rows = isinstance(network.body, nn.Sequential)
    return rows and all(
        isinstance(layer, (nn.BatchNorm1d, *_ELEMENTWISE)) or (isinstance(layer, nn.Linear) and layer.bias is not None)
        for _, layer in _layers(network)
    )


def _stacks(parts: Sequence[dict[str, Any]]) -> Iterator[tuple[str, Tensor]]:
    for name in parts[0]:
        yield name, torch.stack([part[name].detach() for part in parts])


def _stack(values: Sequence[Any]) -> Any:
    """A part of the optimisers' states; what is one number, such as the count of steps, all of them have in common."""
    first = values[0]
    if not isinstance(first, Tensor):
        return first
    return torch.stack(list(values)) if first.ndim else first.clone()


def _own(value: Any, which: int) -> Any:
    """What a network's own optimiser holds of a stacked part."""
    if not isinstance(value, Tensor):
        return value
    return value[which].clone() if value.ndim else value.clone()

"""Co-teaching: two networks, each of which chooses the samples of a batch that the other learns from.

    R(e) = rate min(e / 10, 1)                      share of each batch that is left out in epoch e, from 0

Each network chooses those of smallest loss: a wrong label that one has learned by heart, the other still meets with a
large loss. The first network is judged and is the trained model. The method, if it prunes, ranks by its losses.

Source: Han et al., "Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy Labels", NeurIPS 2018.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from alignprune._checks import floor
from alignprune.bench import recipes
from alignprune.bench.recipes import Recipe
from alignprune.bench.run.batches import Batch
from alignprune.bench.run.objective import CrossEntropy, Outcome

RISE = 10
"""Epochs in which the share that is left out rises to the rate, T_k of the paper."""


class CoTeaching(CrossEntropy):
    """Learns from what a second network chooses, and trains that on what the first chooses.

    Args:
        model: the first network.
        peer: the second one, of other first weights.
        optimizer: of the second network.
        recipe: of both.
        epochs: of the run.
        rate: share of wrong labels, in [0, 1).
        recorded: label smoothing of the recorded losses.
    """

    peers = 1

    def __init__(
        self,
        model: nn.Module,
        peer: nn.Module,
        optimizer: torch.optim.Optimizer,
        recipe: Recipe,
        epochs: int,
        rate: float,
        recorded: float,
    ) -> None:
        super().__init__(model, recipe.label_smoothing, recorded)
        self.peer, self.optimizer, self.recipe = peer, optimizer, recipe
        self.epochs, self.rate = epochs, rate
        self.left_out = 0.0

    def begin_step(self, position: float) -> None:
        recipes.set_schedule(self.optimizer, self.recipe, position)
        self.left_out = self.rate * min(floor(position * self.epochs) / RISE, 1.0)
        self.peer.train(self.model.training)

    def __call__(self, index: Tensor, batch: Batch) -> Outcome:
        logits, of_peer = self.model(batch.x), self.peer(batch.x)
        losses, peer_losses = (self._losses(said, batch, self.smoothing) for said in (logits, of_peer))
        size = max(1, floor((1 - self.left_out) * len(batch.y)))
        learned = _averaged(losses, chosen_by=peer_losses, size=size)
        extra = _averaged(peer_losses, chosen_by=losses, size=size).mean()
        return Outcome(learned, self._losses(logits.detach(), batch, self.recorded), extra, logits)

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()

    def step(self) -> None:
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(self.peer.parameters(), self.recipe.clip)
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        return {"peer": self.peer.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.peer.load_state_dict(state["peer"])
        self.optimizer.load_state_dict(state["optimizer"])


def _averaged(losses: Tensor, *, chosen_by: Tensor, size: int) -> Tensor:
    """The losses, [B], of the samples that the other network loses least on; their mean is that of those alone."""
    chosen = torch.zeros_like(losses, dtype=torch.bool)
    chosen[chosen_by.detach().argsort(stable=True)[:size]] = True
    return torch.where(chosen, losses * (len(losses) / size), 0.0)

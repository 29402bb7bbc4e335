"""Which epoch's weights are the trained model's: the last one's, or those of the best one on samples held out.

The held-out samples are training samples with the labels that they were given, right or wrong. No clean label and no
test sample takes part in the choice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from alignprune import EarlyStopping
from alignprune.bench.data import Samples
from alignprune.bench.run import ranks
from alignprune.bench.run.batches import evaluation_loader
from alignprune.bench.run.evaluation import evaluate


class LastEpoch:
    """The last epoch is taken, and nothing is held out."""

    should_stop = False

    def __len__(self) -> int:
        return 0

    def look(self, model: nn.Module) -> None:
        """No accuracy."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to go on from."""


class BestEpoch:
    """The epoch is taken that meets most labels of the samples held out.

    Args:
        held_out: the samples with their given labels, evaluation transform.
        patience: epochs after the best one that end the training; None trains to the end.
        device: of the network.
        workers: loader processes.
    """

    def __init__(self, held_out: Samples, patience: int | None, device: torch.device, workers: int) -> None:
        # The generator is its own, so that no other draw of the run depends on who looks.
        self.loader = evaluation_loader(held_out, device, workers, torch.Generator())
        self.size, self.device = len(held_out), device  # type: ignore[arg-type]
        self.stopper = EarlyStopping(patience)

    def __len__(self) -> int:
        return self.size

    @property
    def should_stop(self) -> bool:
        """Whether the training ends; the same on every rank."""
        return self.stopper.should_stop

    def look(self, model: nn.Module) -> float:
        """The accuracy of a network on the samples held out, after an epoch; every rank calls it."""
        accuracy, _ = evaluate(model, self.loader, self.device)
        of_the_first = ranks.of_all(accuracy)[0]
        self.stopper.update(of_the_first, model)
        return of_the_first

    def restore(self, model: nn.Module) -> None:
        """Give the network the weights of the best epoch."""
        self.stopper.restore(model)

    def result(self) -> dict[str, Any]:
        """Fields of the `RunRecord`."""
        return {
            "chosen_epoch": self.stopper.epoch,
            "holdout_accuracy": self.stopper.accuracy,
            "holdout_forward_passes": self.stopper.epochs * len(self),
        }

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on from."""
        return self.stopper.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.stopper.load_state_dict(state)

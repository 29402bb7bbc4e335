"""Early stopping: train until samples that are held out are met no better, and take the best epoch.

While a network learns what most labels say, its accuracy on held-out samples rises; once it learns wrong labels by
heart it falls. The held-out samples need no clean labels: those that they were given rank the epochs nearly as well.
"""

from __future__ import annotations

import copy
import math
from typing import Any

from torch import Tensor, nn

from alignprune._checks import integer, number
from alignprune._tensors import DAMAGED, check_names
from alignprune.errors import CallMistake, ValueMistake


class EarlyStopping:
    """Keeps the weights of the best epoch, and says when none has been better for a while.

    On several ranks give all of them the same accuracy, so that they stop together.

    Args:
        patience: epochs after the best one after which the training may stop, at least 1; None never stops it.

    Attributes:
        accuracy: of the best epoch, the first of equally good ones; None before the first.
        epoch: its number, from 1; 0 before the first.
        epochs: that have ended.
        weights: the state of the network after it, on the CPU.

    Raises:
        TypeMistake, ValueMistake: for another patience.

    Source: Prechelt, "Early Stopping - But When?", 1998; that labels of a hold-out may be wrong: Chen et al.,
        "Robustness of Accuracy Metric and its Inspirations in Learning with Noisy Labels", AAAI 2021.

    Example:
        >>> stopper = ap.EarlyStopping(patience=5)
        >>> stopper.update(accuracy, model)  # after every epoch
        >>> stopper.restore(model)  # after the last
    """

    def __init__(self, patience: int | None = None) -> None:
        if patience is not None:
            integer("patience", patience, at_least=1, remedy="5 stops five epochs after the best, None never")
        self.patience = patience
        self.accuracy: float | None = None
        self.epoch = self.epochs = 0
        self.weights: dict[str, Any] = {}

    def update(self, accuracy: float, model: nn.Module) -> bool:
        """An epoch has ended.

        Args:
            accuracy: on the held-out samples; or another number of which more is better, such as a negative loss.
            model: the network, whose weights are copied if it is the best so far.

        Returns:
            whether it is the best so far.

        Raises:
            TypeMistake, ValueMistake: for what is no finite number.
        """
        found = number(
            "accuracy", accuracy, low=-math.inf, high=math.inf, remedy="give a number, such as correct.item() / total"
        )
        self.epochs += 1
        if self.accuracy is not None and found <= self.accuracy:
            return False
        self.accuracy, self.epoch = found, self.epochs
        self.weights = {name: _copied(value) for name, value in model.state_dict().items()}
        return True

    @property
    def should_stop(self) -> bool:
        """Whether `patience` epochs have ended since the best one."""
        return self.patience is not None and self.epochs - self.epoch >= self.patience

    def restore(self, model: nn.Module) -> None:
        """Give a network the weights of the best epoch.

        Raises:
            CallMistake: before the first epoch.
            ValueMistake: if they are those of another network.
        """
        if not self.epochs:
            raise CallMistake("restore is called before an epoch has ended, expected update first: call it every epoch")
        try:
            model.load_state_dict(self.weights)
        except RuntimeError as error:
            raise ValueMistake(
                f"model={type(model).__name__} is another network than the one of update, expected the same: {error}"
            ) from error

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training goes on from, the best weights included."""
        return {"accuracy": self.accuracy, "epoch": self.epoch, "epochs": self.epochs, "weights": dict(self.weights)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`.

        Raises:
            TypeMistake, ValueMistake: for what is no such state; nothing is changed then.
        """
        check_names("the state", state, ("accuracy", "epoch", "epochs", "weights"))
        for name in ("epoch", "epochs"):
            integer(f"state.{name}", state[name], at_least=0, remedy=DAMAGED)
        check_names("state.weights", state["weights"], ())
        if state["epoch"] > state["epochs"]:
            raise ValueMistake(
                f"state.epoch={state['epoch']} is later than state.epochs={state['epochs']}, expected one of them: "
                f"{DAMAGED}"
            )
        if state["epochs"]:
            number("state.accuracy", state["accuracy"], low=-math.inf, high=math.inf, remedy=DAMAGED)
        self.accuracy, self.epoch, self.epochs = state["accuracy"], state["epoch"], state["epochs"]
        self.weights = dict(state["weights"])


def _copied(value: Any) -> Any:
    """A copy on the CPU that later steps do not change; a module's own state may be of any type."""
    return value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else copy.deepcopy(value)

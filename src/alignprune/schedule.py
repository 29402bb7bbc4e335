"""Schedules: a learning rate that ends with the training, though its epochs differ in length.

A schedule counts steps, and how many a pruned training takes is known at its end only. Planned for the unpruned one and
stepped once a batch, it would stop half-way: at a learning rate that was never meant to be the last.
"""

from __future__ import annotations

from typing import Any

from torch.optim.lr_scheduler import LRScheduler

from alignprune._checks import integer
from alignprune.errors import TypeMistake
from alignprune.pruner import Pruner


class PacedScheduler(LRScheduler):
    """Lets a schedule of a fixed number of steps follow the progress of a pruned training.

    `step` moves the schedule on to ``floor(pruner.progress * steps)``: by none, one or several of its own steps. To
    call it more often than once a batch changes nothing.

    Args:
        scheduler: one of `torch.optim.lr_scheduler`, or any that is stepped without an argument, made for ``steps``.
        pruner: whose progress it follows.
        steps: the number of steps that the scheduler was made for, `Pruner.planned_steps`.

    Attributes:
        taken: steps of the schedule so far.

    Raises:
        TypeMistake, ValueMistake: for a scheduler that waits for a metric or has no ``step``, and for steps below 1.

    Example:
        >>> steps = pruner.planned_steps(batch_size=128)
        >>> scheduler = ap.PacedScheduler(OneCycleLR(optimizer, 0.1, total_steps=steps), pruner, steps)
        >>> scheduler.step()  # after every step of the optimizer
    """

    def __init__(self, scheduler: LRScheduler, pruner: Pruner, steps: int) -> None:
        # The base class would write the optimizer's learning rates, which belong to the schedule inside.
        if not callable(getattr(scheduler, "step", None)) or hasattr(scheduler, "patience"):
            raise TypeMistake(
                f"scheduler is {type(scheduler).__name__}, expected one that is stepped without an argument: step a "
                f"schedule that waits for a metric yourself, once an epoch"
            )
        self.scheduler, self.pruner = scheduler, pruner
        self.steps = integer("steps", steps, at_least=1, remedy="pruner.planned_steps(batch_size=...)")
        self.taken = 0
        self.optimizer = scheduler.optimizer

    @property
    def last_epoch(self) -> int:  # type: ignore[override]  # what torch calls the steps of a schedule
        """Steps of the schedule so far."""
        return self.scheduler.last_epoch

    @property
    def base_lrs(self) -> list[Any]:  # type: ignore[override]
        """The learning rates that the schedule scales."""
        return self.scheduler.base_lrs

    def step(self, epoch: int | None = None) -> None:
        """Move on to where the training is; call it after every step of the optimizer. The argument is not read."""
        due = int(self.pruner.progress * self.steps)
        for _ in range(due - self.taken):
            self.scheduler.step()
        self.taken = max(due, self.taken)

    def get_last_lr(self) -> list[Any]:
        """The learning rates of now, one a parameter group."""
        return self.scheduler.get_last_lr()

    def state_dict(self) -> dict[str, Any]:
        """The schedule's state and how far it has come."""
        return {"taken": self.taken, "scheduler": self.scheduler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state of `state_dict`; load the pruner's state of the same moment too."""
        self.taken = state_dict["taken"]
        self.scheduler.load_state_dict(state_dict["scheduler"])

"""What a run reports while it works; the command line draws it, a sweep's worker writes it into its log."""

from __future__ import annotations

from typing import Any


class Progress:
    """Hears of a run as it goes on. Override what you want to show."""

    def start(self, description: str, epochs: int) -> None:
        """The run begins, or goes on."""

    def step(self, epoch: int, step: int, steps: int) -> None:
        """A batch is done."""

    def epoch(self, metrics: dict[str, Any]) -> None:
        """An epoch is done; the fields of its `alignprune.bench.run.record.EpochRecord`."""


class Lines(Progress):
    """Prints a line an epoch."""

    def start(self, description: str, epochs: int) -> None:
        print(f"{description}, {epochs} epochs", flush=True)

    def epoch(self, metrics: dict[str, Any]) -> None:
        accuracy = "" if metrics["accuracy"] is None else f"  accuracy {metrics['accuracy']:.2%}"
        print(
            f"epoch {metrics['epoch']}  train loss {metrics['train_loss']:.3f}  pruned {metrics['pruned_share']:.1%}"
            f"{accuracy}  {metrics['images_per_second']:,.0f} samples/s",
            flush=True,
        )

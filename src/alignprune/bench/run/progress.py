"""What a run reports while it works; the command line draws it, a sweep's worker writes it into its log."""

from __future__ import annotations

from typing import Any


class Progress:
    """Hears of a run as it goes on. Override what you want to show."""

    def note(self, text: str) -> None:
        """Something to know about the run, or its samples, before it begins."""

    def embedding(self, done: int, total: int) -> None:
        """So many samples of a part of the data are turned into vectors."""

    def start(self, description: str, epochs: int) -> None:
        """The run begins, or goes on."""

    def step(self, epoch: int, step: int, steps: int) -> None:
        """A batch is done."""

    def epoch(self, metrics: dict[str, Any]) -> None:
        """An epoch is done; the fields of its `alignprune.bench.run.record.EpochRecord`."""


class OtherRank(Progress):
    """What a rank beside the first reports: the vectors that it computes, since all ranks then wait for it.

    Args:
        progress: hears of them.
    """

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def embedding(self, done: int, total: int) -> None:
        self.progress.embedding(done, total)


class Tenths:
    """Says when another tenth of something long is done, so that plain lines stay few."""

    def __init__(self) -> None:
        self.before = 0

    def passed(self, done: int, total: int) -> bool:
        """Whether `done` of `total` is in another tenth than the last one was, or all."""
        tenth = 10 * done // total
        passed, self.before = tenth != self.before, 0 if done == total else tenth
        return passed


class Lines(Progress):
    """Prints a line an epoch.

    Args:
        name: what each line begins with, where several runs print theirs.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.tenths = Tenths()

    def note(self, text: str) -> None:
        print(f"{self.name}{text}", flush=True)

    def embedding(self, done: int, total: int) -> None:
        if self.tenths.passed(done, total):
            self.note(f"features of {done:,} of {total:,} samples")

    def start(self, description: str, epochs: int) -> None:
        self.note(f"{description}, {epochs} epochs")

    def epoch(self, metrics: dict[str, Any]) -> None:
        accuracy = "" if metrics["accuracy"] is None else f"  accuracy {metrics['accuracy']:.2%}"
        self.note(
            f"epoch {metrics['epoch']}  train loss {metrics['train_loss']:.3f}  pruned {metrics['pruned_share']:.1%}"
            f"{accuracy}  {metrics['samples_per_second']:,.0f} samples/s"
        )

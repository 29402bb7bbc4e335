"""What a command shows: bars and the lines above them on a terminal, the plain lines alone elsewhere; why it ends."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

_LIBRARY = Path(__file__).parents[1]


class Display:
    """Progress: bars and the lines above them on a terminal, the plain lines alone elsewhere."""

    def __init__(self) -> None:
        self.bars: Any = None
        self.stream = sys.stdout
        if not self.stream.isatty():
            return
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        from alignprune.bench.console import console

        name = TextColumn("{task.description}", markup=False)
        columns = (name, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bars = Bars(*columns, console=console(self.stream), transient=True)

    def __enter__(self) -> Any:
        if self.bars is not None:
            self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bars is not None:
            self.bars.stop()

    def line(self, text: str) -> None:
        """A line that stays."""
        if self.bars is None:
            print(text, file=self.stream, flush=True)
        else:
            self.bars.console.print(text, soft_wrap=True)


class TrainDisplay(Display):
    """One bar for the samples that are embedded, then one for the epochs, one for the batches, and a line an epoch."""

    def __init__(self) -> None:
        super().__init__()
        from alignprune.bench.run.progress import Tenths

        self.tenths, self.embedding_task = Tenths(), None

    def note(self, text: str) -> None:
        self.line(text)

    def embedding(self, done: int, total: int) -> None:
        if self.bars is None:
            if self.tenths.passed(done, total):
                self.line(f"features of {done:,} of {total:,} samples")
            return
        if self.embedding_task is None:
            self.embedding_task = self.bars.add_task("features")
        self.bars.update(self.embedding_task, completed=done, total=total, visible=done < total)

    def start(self, description: str, epochs: int) -> None:
        self.line(description)
        self.epochs = epochs
        if self.bars is not None:
            self.epoch_task, self.step_task = self.bars.add_task("epochs", total=epochs), self.bars.add_task("batches")

    def step(self, epoch: int, step: int, steps: int) -> None:
        if self.bars is not None:
            self.bars.update(self.epoch_task, completed=epoch)
            self.bars.update(self.step_task, completed=step + 1, total=steps)

    def epoch(self, metrics: dict[str, Any]) -> None:
        seen = "     -" if metrics["accuracy"] is None else f"{metrics['accuracy']:6.2%}"
        line = (
            f"epoch {metrics['epoch']:>3}/{self.epochs}  accuracy {seen}  "
            f"train loss {metrics['train_loss']:.3f}  pruned {metrics['pruned_share']:5.1%}"
        )
        if metrics["kept_noise"] is not None:
            line += f"  wrong labels kept {metrics['kept_noise']:5.1%}  AUROC {metrics['score_auroc']:.2f}"
        self.line(line + f"  {metrics['samples_per_second']:,.0f} samples/s")


class DemoDisplay(Display):
    """One bar for all epochs; where there is none, a line a run that ends.

    Args:
        runs: how many there are.
        epochs: of each run.
    """

    def __init__(self, runs: int, epochs: int) -> None:
        super().__init__()
        self.runs, self.epochs, self.done = runs, epochs, 0
        self.task = None if self.bars is None else self.bars.add_task("", total=runs * epochs)

    def step(self, method: str, seed: int) -> None:
        """An epoch of a run is done."""
        self.done += 1
        if self.bars is not None:
            self.bars.update(self.task, advance=1, description=f"{method}, seed {seed}")
        elif self.done % self.epochs == 0:
            self.line(f"{method}, seed {seed}: run {self.done // self.epochs} of {self.runs} done")


class SamplesDisplay(Display):
    """One bar for samples that are gone through; nothing where there is none.

    Args:
        what: what to call it.
    """

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what, self.task = what, None

    def reached(self, done: int, total: int) -> None:
        """So many of all are done."""
        if self.bars is None:
            return
        if self.task is None:
            self.task = self.bars.add_task(self.what)
        self.bars.update(self.task, completed=done, total=total)


class SweepDisplay(Display):
    """A line for each run that begins or ends."""

    def started(self, job: Any) -> None:
        self._report(job, "started")

    def finished(self, job: Any, seconds: float) -> None:
        self._report(job, f"done in {seconds:.0f} s")

    def failed(self, job: Any, error: str, attempt: int, final: bool) -> None:
        self._report(job, f"failed, attempt {attempt}{'' if final else ', will be tried again'}: {error}")

    def skipped(self, job: Any) -> None:
        """It was complete: the last line counts those."""

    def _report(self, job: Any, what: str) -> None:
        self.line(f"{time.strftime('%H:%M:%S')}  {job.name}: {what}")


def complain(text: str, *, own: bool = False) -> None:
    """Write why the command ends: once where several ranks end for the same reason, unless it is each one's own."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        sys.stderr.write(text)
        return
    from alignprune.bench.run import ranks

    ranks.say_once(text, sys.stderr.write, own=own)


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Write this library's warnings as a line each: the place in its code tells nobody who has typed a command more."""
    usual = warnings.formatwarning

    def plain(message: Any, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
        if issubclass(category, UserWarning) and Path(filename).is_relative_to(_LIBRARY):
            return f"warning: {message}\n"
        return usual(message, category, filename, lineno, line)

    warnings.formatwarning = plain
    try:
        yield
    finally:
        warnings.formatwarning = usual

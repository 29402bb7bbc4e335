"""Where the numbers of a run are watched while it trains: each tracker is a record, and all that it has to do is `log`.

Both that come along are local: one writes beside the run, the other into its own folder of this machine.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from alignprune._checks import choice
from alignprune.errors import MissingExtra, TypeMistake, ValueMistake


class Tracker(Protocol):
    """What is told the numbers of a run."""

    def log(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Take note of an epoch, from 1: finite numbers by name."""


Open = Callable[[Path, Mapping[str, Any], bool], AbstractContextManager[Tracker]]
"""(folder of the run, its settings as config.json has them, whether it is resumed) to the tracker, while it is open."""


@dataclass(frozen=True)
class TrackerRecord:
    """A tracker with a name.

    Attributes:
        name: what users type.
        description: where the numbers go and how to look at them, one line.
        library: that it needs; None for none.
        extra: of this package, which installs the library.
        open: makes it.
    """

    name: str
    description: str
    library: str | None
    extra: str
    open: Open


@dataclass(frozen=True)
class _Scalars:
    """Writes scalars for TensorBoard."""

    writer: Any

    def log(self, epoch: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, epoch)
        self.writer.flush()


@contextlib.contextmanager
def _tensorboard(folder: Path, settings: Mapping[str, Any], resumed: bool) -> Iterator[Tracker]:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder / "tensorboard")) as writer:
        yield _Scalars(writer)


@dataclass(frozen=True)
class _Trackio:
    """Logs to a run of Trackio."""

    run: Any

    def log(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self.run.log(dict(metrics), step=epoch)


@contextlib.contextmanager
def _trackio(folder: Path, settings: Mapping[str, Any], resumed: bool) -> Iterator[Tracker]:
    import trackio

    with contextlib.redirect_stdout(io.StringIO()):  # it greets, in colours
        run = trackio.init(
            project="alignprune",
            name=str(folder),
            config=dict(settings),
            resume="allow" if resumed else "never",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
    try:
        yield _Trackio(run)
    finally:
        with contextlib.redirect_stdout(io.StringIO()):
            trackio.finish()


_STORE = {
    record.name: record
    for record in (
        TrackerRecord(
            name="tensorboard",
            description="scalars in RUN/tensorboard: tensorboard --logdir RUN",
            library="tensorboard",
            extra="track",
            open=_tensorboard,
        ),
        TrackerRecord(
            name="trackio",
            description="project alignprune in Trackio's folder of this machine (TRACKIO_DIR): trackio show",
            library="trackio",
            extra="trackio",
            open=_trackio,
        ),
    )
}

TRACKERS: Mapping[str, TrackerRecord] = MappingProxyType(_STORE)
"""All trackers, by name; `register` adds to them."""


def register(record: TrackerRecord) -> TrackerRecord:
    """Add a tracker of one's own: ``--track`` and `alignprune.bench.run.config.Outputs` know it from then on.

    Raises:
        TypeMistake, ValueMistake: for something else than a record, and for a name that is taken.
    """
    if not isinstance(record, TrackerRecord):
        raise TypeMistake(
            f"record={record!r} is {type(record).__name__}, expected a TrackerRecord: make one and register it"
        )
    if record.name in _STORE:
        raise ValueMistake(f"name={record.name!r} is taken, expected one that is not: {', '.join(_STORE)} are there")
    _STORE[record.name] = record
    return record


def check(name: str | None) -> None:
    """Refuse a tracker that there is not, or whose library is not installed; None is no tracker."""
    if name is None:
        return
    choice("track", name, TRACKERS)
    record = TRACKERS[name]
    if record.library is not None and importlib.util.find_spec(record.library) is None:
        raise MissingExtra(
            f"track={name!r} needs {record.library}, which is not installed: pip install 'alignprune[{record.extra}]'"
        )


def opened(
    name: str | None, folder: Path, settings: Mapping[str, Any], *, resumed: bool
) -> AbstractContextManager[Tracker | None]:
    """The tracker of that name while a run trains; None for none."""
    if name is None:
        return contextlib.nullcontext()
    return TRACKERS[name].open(folder, settings, resumed)


def numbers(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """What of some metrics a tracker can draw: the finite numbers, truth values as 0 and 1."""
    return {
        prefix + name: float(value)
        for name, value in metrics.items()
        if isinstance(value, (int, float)) and math.isfinite(value)
    }

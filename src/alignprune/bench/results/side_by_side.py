"""Runs side by side: what differs in their settings, what came of each, and how they got there, in one picture.

A run that is not finished is compared by the epochs that it has. Accuracy is drawn over the forward passes of training
samples that it took, which is what pruning saves; seconds depend on the machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from matplotlib.figure import Figure
from tyro.conf import Positional, arg

from alignprune._checks import choice
from alignprune.bench.places import refuse_unwritable
from alignprune.bench.results import charts
from alignprune.bench.results.charts import Panel
from alignprune.bench.run.folder import CONFIG, RESULT, differences, read_config, read_metrics
from alignprune.bench.run.listing import ListedRun, listed
from alignprune.errors import DamagedFile, MissingFile, ValueMistake

MOST = 6
"""Runs in a picture, whose lines can still be told apart."""


@dataclass(frozen=True)
class CompareConfig:
    """Compare runs: a table of what differs in their settings and of their results, and a picture of their accuracy.

    Attributes:
        runs: folders of two to six runs; one that is not finished is compared by the epochs that it has.
        out: picture to write: .png, .svg or .pdf.
    """

    runs: Annotated[tuple[Path, ...], Positional, arg(metavar="RUN RUN [RUN ...]", help_behavior_hint="(required)")]
    out: Path = Path("figures/comparison.png")

    def __post_init__(self) -> None:
        given = [str(run) for run in self.runs]
        if not 2 <= len(given) <= MOST:
            raise ValueMistake(
                f"runs={given!r} holds {len(given)}, expected two to {MOST}, since more lines cannot be told apart: "
                f"name the runs to compare"
            )
        for run in self.runs:
            if [one.resolve() for one in self.runs].count(run.resolve()) > 1:
                raise ValueMistake(
                    f"runs={given!r} holds {str(run)!r} more than once, expected each once: leave it out"
                )
        choice("suffix", self.out.suffix, charts.SUFFIXES)


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """A run in a comparison.

    Attributes:
        name: its folder, without what all have in common.
        about: how it stands.
        settings: its configuration.
        epochs: the fields of its `alignprune.bench.run.record.EpochRecord`, an epoch each.
    """

    name: str
    about: ListedRun
    settings: dict[str, Any]
    epochs: list[dict[str, Any]]

    @property
    def title(self) -> str:
        """Its name, and how far it is where it is not finished."""
        if self.about.state == "finished":
            return self.name
        return f"{self.name} ({self.about.state}, {len(self.epochs)} epochs)"

    def course(self, field: str, scale: float = 1.0) -> dict[float, float]:
        """By the forward passes until an epoch's end its value of a field, where it has one."""
        return {
            row["forward_passes"]: scale * row[field]
            for row in self.epochs
            if row.get(field) is not None and row.get("forward_passes") is not None
        }

    def last(self, field: str) -> Any:
        """The last value of a field; None where no epoch has one."""
        return next((row[field] for row in reversed(self.epochs) if row.get(field) is not None), None)


def read(folders: Sequence[Path]) -> list[ComparedRun]:
    """The runs in these folders.

    Raises:
        FileNotFoundError: if one is no run.
        ValueError: if one has no epoch that has ended, or a file is damaged.
    """
    return [_read(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]


@dataclass(frozen=True)
class Told:
    """What is told of each run.

    Attributes:
        value: a text, a count, seconds, or a share in [0, 1]; None where it is not known.
        form: how a table shows it, as for `format`.
    """

    value: Callable[[ComparedRun], Any]
    form: str


RESULTS = {
    "state": Told(lambda run: run.about.state, ""),
    "epochs": Told(lambda run: len(run.epochs), "d"),
    "accuracy": Told(lambda run: run.about.accuracy, ".2%"),
    "best accuracy": Told(lambda run: max(run.course("accuracy").values(), default=None), ".2%"),
    "forward passes": Told(lambda run: run.last("forward_passes"), ",d"),
    "of a full training": Told(lambda run: run.about.forward_fraction, ".1%"),
    "wrong labels kept": Told(lambda run: run.last("kept_noise"), ".1%"),
    "AUROC for wrong labels": Told(lambda run: run.last("score_auroc"), ".2f"),
    "suspects": Told(lambda run: run.about.suspects, ",d"),
    "seconds": Told(lambda run: sum(row["seconds"] for row in run.epochs), ".1f"),
}
"""By its name what is told of each run, in the order of the table."""


def settings_that_differ(runs: Sequence[ComparedRun]) -> dict[str, list[Any]]:
    """By its name with dots the value that a setting has in each run."""
    return differences([run.settings for run in runs])


def results_of(runs: Sequence[ComparedRun]) -> dict[str, list[Any]]:
    """By the names of `RESULTS` what came of each run; nothing that is known of none."""
    values = {name: [told.value(run) for run in runs] for name, told in RESULTS.items()}
    return {name: each for name, each in values.items() if any(value is not None for value in each)}


def draw(runs: Sequence[ComparedRun], out: Path) -> None:
    """Write the picture of runs.

    Raises:
        FileExistsError, ValueError: if it cannot be written there.
    """
    refuse_unwritable("out", out.parent)
    charts.save(picture(runs), out)


def picture(runs: Sequence[ComparedRun]) -> Figure:
    """Accuracy over forward passes, and the share of wrong labels among the samples kept where the truth is known."""
    shown = {
        "accuracy": ("Accuracy", "test accuracy, %"),
        "kept_noise": ("Wrong labels kept", "of the samples kept, %"),
    }
    panels = []
    for field, (title, heading) in shown.items():
        courses = {run.title: run.course(field, 100) for run in runs}
        if any(courses.values()):
            paint = partial(charts.paint_courses, courses=courses, heading=heading, from_zero=field == "kept_noise")
            panels.append(Panel(title, paint, "forward passes of training samples"))
    if not panels:
        raise ValueMistake("runs have no epoch that was evaluated, expected one at least: wait for it")
    return charts.lay_out(panels, len(panels), "Runs side by side")


def _read(folder: Path, name: str) -> ComparedRun:
    if not (folder / CONFIG).exists():
        raise MissingFile(
            f"run={str(folder)!r} is no run, expected a folder that alignprune train wrote: alignprune runs lists them"
        )
    about, epochs = listed(folder), read_metrics(folder)
    if about.state == "damaged":
        raise DamagedFile(str(about.reason))
    if not epochs:
        remedy = "leave it out" if (folder / RESULT).exists() else "wait for it"
        raise ValueMistake(f"run={str(folder)!r} has no epoch that has ended, expected one at least: {remedy}")
    return ComparedRun(name, about, read_config(folder), epochs)


def _names(folders: Sequence[Path]) -> list[str]:
    """The paths from the last folder that all are in."""
    whole = [folder.resolve() for folder in folders]
    common = os.path.commonpath([folder.parent for folder in whole])
    return [os.path.relpath(folder, common) for folder in whole]

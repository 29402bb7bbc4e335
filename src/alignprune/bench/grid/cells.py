"""What a grid of runs is made of: cells, the protocol that says how large their runs are, and the experiment.

A cell is a configuration without its seed and the place where its mean stands. Its settings are those of ``alignprune
train``, by their dotted names; everything else follows from them: the run's folder, what it needs first, and the key
under which its results are found again. Two experiments that hold the same cell share its runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from alignprune import coresets, presets
from alignprune._files import Kind

Settings = Mapping[str, Any]

JOB, JOB_KIND = "job.json", Kind("job", 1, "remove the run's folder and run it again")
"""In a run's folder, where a sweep made it: which run of which cell it is."""


# Settings that make another training of the full one, for comparison with it.
_OF_ANOTHER_TRAINING = frozenset(
    {"prune_ratio", "folds", "loss", "stop_on_holdout", "ema", "co_teaching", "without_issues"}
)


def key_of(settings: Settings) -> str:
    """Under what the runs of these settings are stored: 12 hexadecimal digits of their content."""
    text = json.dumps(dict(settings), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def title_of(method: str) -> str:
    """What the paper's tables call a method."""
    return coresets.get(method).title if method in coresets.CORESETS else presets.get(method).title


@dataclass(frozen=True)
class Cell:
    """One number of a table or one point of a figure.

    Attributes:
        block: group of rows, such as the prune ratio in percent ("50"), the model or the reference; "" without groups.
        row: method or setting, as the paper prints it.
        column: noise, such as "sym_0.2", or the value on a figure's horizontal axis.
        settings: of the run, without the seed; see `alignprune.bench.run.config.configure`.
        paper: the paper's number, in the measure's unit (percent for accuracies); None where it has none.
        measure: what is shown, a name of `alignprune.bench.results.measures.MEASURES`.
        ranking: which of the run's rankings of its labels is measured, a name of
            `alignprune.bench.results.rankings.RANKERS`; None for a cell that is about no ranking.
    """

    block: str
    row: str
    column: str
    settings: Settings
    paper: float | None = None
    measure: str = "accuracy"
    ranking: str | None = None

    @property
    def key(self) -> str:
        return key_of(self.settings)

    @property
    def is_full_training(self) -> bool:
        """Whether it is about training on all samples in all epochs: neither on a part of them nor stopped before."""
        settings = self.settings
        whole = not settings.get("oracle") and not _OF_ANOTHER_TRAINING.intersection(settings)
        return settings.get("method") == "full" and whole and self.ranking is None


@dataclass(frozen=True)
class Protocol:
    """How large the runs are. The paper's own, or a smaller one that a smaller machine finishes.

    Attributes:
        name: what users type.
        summary: what it is, in a sentence.
        settings: by data set, what its runs have in common; a data set that is absent cannot be run in it.
        seeds: how many seeds a cell gets without a choice.
    """

    name: str
    summary: str
    settings: Mapping[str, Settings]
    seeds: int = 3


@dataclass(frozen=True)
class Experiment:
    """A table or figure, of the paper or beyond it.

    Attributes:
        name: "table-1", "figure-2", ...
        title: what it shows, in a few words.
        cells: its cells under a protocol, in reading order; see `cells_of`.
        draw: a figure's kind: "bars", "lines" (a number on the horizontal axis), "costs" (forward passes on it),
            "losses" (distribution) or "trajectories"; None for a table.
        block_title, row_title, column_title: what blocks, rows and columns are.
    """

    name: str
    title: str
    cells: Callable[[Protocol], tuple[Cell, ...]]
    draw: str | None = None
    block_title: str = "prune ratio"
    row_title: str = "method"
    column_title: str = "noise"

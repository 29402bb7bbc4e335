"""The rows of the table: a kind of fault each, how often it is tried in the long form, and what does so.

A new row is a line here: a function of a count, a folder, a stem and a seed that returns an `Outcome`; or the tests
that are its tries, by `suites.campaign`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from faults import crashes, damage, full_disk, groups, kills, ranks, scenes, suites
from faults.outcome import Outcome

EVERY = 1_000_000
"""A count that no enumeration reaches."""

_KILLED = (scenes.DIGITS, scenes.ARRAYS, scenes.IMAGES, scenes.COLLECT)
_CRASHED = (
    scenes.DIGITS,
    scenes.COLLECT,
    scenes.TEXTS,
    scenes.FOLDS,
    scenes.CORESET,
    scenes.SELF_SUPERVISED,
    scenes.JOB,
    scenes.AUDIT,
    scenes.REPORT,
    scenes.PREDICT,
    scenes.PREDICT_PARQUET,
    scenes.TABLE,
    scenes.FIGURE,
)


_TESTED = {
    "ranks": ("ranks that die, hang and change their number", ("bench/run/test_ranks.py",)),
    "signals and locks": (
        "SIGTERM, Ctrl-C, divergence, two processes in a folder",
        ("bench/run/test_interruption.py", "bench/run/test_lock.py"),
    ),
    "files: readers": (
        "files of users, truncated, flipped, foreign, hostile and huge",
        ("bench/data/test_given_files.py", "bench/run/test_given_files.py", "test_cli_files.py"),
    ),
    "files: states": ("states of a pruner, damaged and foreign", ("test_damaged_states.py",)),
    "extremes": ("every preset at the ends of losses, labels, sizes and settings", ("test_extremes.py",)),
    "modes": ("torch.compile, autocast, GradScaler, torch.func, inference mode", ("test_modes.py",)),
    "golden": ("what every preset selects", ("test_golden.py",)),
    "growth": ("200 epochs without growth of memory, files or threads", ("test_growth.py",)),
}


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: what ``--only`` chooses by: a kind, and what it befalls.
        campaign: does it; called with a count and a folder, and with ``stem`` and ``seed``.
        count: of the long form.
        forks: whether it is given a stem; else None.
    """

    name: str
    campaign: Callable[..., Outcome]
    count: int = EVERY
    forks: bool = True


ROWS: tuple[Row, ...] = (
    *(Row(f"kills: {scene.name}", partial(kills.campaign, scene=scene), 50) for scene in _KILLED),
    Row("kills: two ranks", ranks.campaign, 50),
    Row("kills: torchrun", partial(groups.campaign, group=groups.RANKS), 5, forks=False),
    Row("kills: a sweep, forked", partial(groups.campaign, group=groups.SWEEP), 50),
    Row("kills: a sweep", partial(groups.campaign, group=groups.SWEEP), 5, forks=False),
    Row(
        "kills: other sweeps",
        partial(suites.campaign, fault="sweeps whose jobs fail, die and hang", tests=("bench/grid/test_sweep.py",)),
        forks=False,
    ),
    *(Row(f"crashes: {scene.name}", partial(crashes.campaign, scene=scene)) for scene in _CRASHED),
    *(Row(f"full disk: {scene.name}", partial(full_disk.campaign, scene=scene)) for scene in _CRASHED),
    *(
        Row(f"full disk: sizes, {scene.name}", partial(full_disk.too_large, scene=scene), 50)
        for scene in (scenes.DIGITS, scenes.COLLECT, scenes.AUDIT)
    ),
    *(
        Row(f"full disk: small, {scene.name}", partial(full_disk.mounted, scene=scene), 50)
        for scene in (scenes.DIGITS, scenes.COLLECT, scenes.AUDIT)
    ),
    *(Row(f"damage: {state.name}", partial(damage.campaign, state=state)) for state in damage.STATES),
    *(
        Row(name, partial(suites.campaign, fault=fault, tests=tests), forks=False)
        for name, (fault, tests) in _TESTED.items()
    ),
)

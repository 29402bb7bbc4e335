"""A process dies at each of its changes to the file system, one after the other; going on has to mend all.

Death comes before the change; in the middle of it where bytes are written. Of every file that a command leaves it is
also asked whether a rename has put it in its place: what is written there byte by byte is seen half written by others,
and native code that does so would meet no point here.
"""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from faults import outcome
from faults.compare import differences
from faults.outcome import Outcome
from faults.points import Point
from faults.processes import Stem
from faults.scenes import Scene, Stage, must

_APPENDED = {"log.txt", ".lock"}


def campaign(count: int, folder: Path, scene: Scene, *, stem: Stem, seed: int = 0) -> Outcome:
    """Let a scene's command die at every point.

    Args:
        count: points, at most; fewer than there are are drawn.
        folder: for the tries; made if absent. What is lost stays in it.
        scene: what runs.
        stem: that forks it.
        seed: of the draw.
    """
    return outcome.of(f"died at a change of the disk: {scene.name}", _tries(Stage(scene, folder, stem), count, seed))


def _tries(stage: Stage, count: int, seed: int) -> Iterator[tuple[int, Sequence[str]]]:
    yield 1, [f"{name} is written in its place, not put there whole" for name in _in_place(stage)]
    changes = counted(stage)
    for number in drawn(len(changes), count, seed):
        place = stage.place(f"point{number}")
        ended = stage.meet(place, number, "die")
        losses = [] if ended.code == -signal.SIGKILL else [f"it ends with {ended.code} instead: {ended.said}"]
        if stage.scene.overwrites:
            losses += changed(place, stage.undisturbed)
        losses += stage.losses(place)
        if not losses:
            shutil.rmtree(place)
        yield 1, [f"{place}: died at change {number}, {changes[number - 1]}: {loss}" for loss in losses]


@dataclass(frozen=True)
class Change:
    """A change of the file system.

    Attributes:
        kind: as in `points`.
        path: of what is changed; below the try's folder.
        target: the file that it becomes by a later rename, or itself.
    """

    kind: str
    path: Path
    target: Path

    def __str__(self) -> str:
        return f"{self.kind} of {self.target.name}"


def counted(stage: Stage, *, afresh: bool = False) -> list[Change]:
    """The changes that the command makes when nothing disturbs it, in order; `afresh` in an empty folder."""
    place = stage.place("counted", afresh=afresh)
    diary = Path(f"{place}.diary")
    must(stage.run(place, Point(str(place), str(diary))))
    lines = [line.split("\t") for line in diary.read_text().splitlines()]
    diary.unlink()
    changes: list[Change] = []
    becomes: dict[str, str] = {}
    for kind, path, *rest in reversed(lines):
        if rest:
            becomes[path] = rest[0]
        changes.append(Change(kind, Path(path).relative_to(place), Path(becomes.get(path, path)).relative_to(place)))
    shutil.rmtree(place)
    return changes[::-1]


def drawn(total: int, count: int, seed: int) -> list[int]:
    """So many of the numbers from 1 to the total, or all of them, in order."""
    return sorted(random.Random(seed).sample(range(1, total + 1), min(count, total)))


def changed(place: Path, before: Path) -> list[str]:
    """What has become of files that were there before; a new one beside them is no harm yet."""
    return [f"at once {line}" for line in differences(place, before) if not line.endswith("stays behind")]


def _in_place(stage: Stage) -> list[str]:
    """Files that no rename has put where they are."""
    put = {str(change.target) for change in counted(stage, afresh=True) if change.kind == "os.rename"}
    files = (file.relative_to(stage.undisturbed) for file in stage.undisturbed.rglob("*") if file.is_file())
    return sorted(str(file) for file in files if str(file) not in put and not _is_appended(file))


def _is_appended(file: Path) -> bool:
    """Whether it is a log or a lock, whose content nobody reads back."""
    return file.name in _APPENDED or file.suffix == ".lock"

"""The disk is full at each change that needs room on it: told in one line, nothing harmed, and gone on with later.

The change and all later ones fail, or the one alone; and for real, where no file may grow past some size, and where the
file system is too small.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from faults import outcome
from faults.compare import differences, names
from faults.crashes import Change, changed, counted, drawn
from faults.outcome import Outcome
from faults.points import Action
from faults.processes import Ended, Stem
from faults.scenes import Scene, Stage

_FULL: tuple[Action, ...] = ("full", "full once")
_LEAST = 1024  # bytes, so that what the command prints finds room
_ROOM = 65536  # KiB, in which every scene finds room


def campaign(count: int, folder: Path, scene: Scene, *, stem: Stem, seed: int = 0) -> Outcome:
    """Let the disk be full at every point of a scene's command.

    Args:
        count: points, at most; fewer than there are are drawn.
        folder: for the tries; made if absent. What is lost stays in it.
        scene: what runs.
        stem: that forks it.
        seed: of the draw.
    """
    return outcome.of(f"disk full: {scene.name}", _tries(Stage(scene, folder, stem), count, seed))


def too_large(count: int, folder: Path, scene: Scene, *, stem: Stem, seed: int = 0) -> Outcome:
    """Let the operating system refuse files past a size, which is drawn anew for each try; arguments as `campaign`."""
    return outcome.of(f"file too large: {scene.name}", _limited(Stage(scene, folder, stem), count, seed))


def mounted(count: int, folder: Path, scene: Scene, *, stem: Stem, seed: int = 0) -> Outcome:
    """Work on a file system of its own that is too small, and made larger afterwards; arguments as `campaign`.

    Where nobody may mount one, nothing is tried, and the row says so.
    """
    fault = f"disk full, a small file system: {scene.name}"
    folder.mkdir(parents=True)
    with _file_system(folder / "mount", 64) as reason:
        pass
    if reason is not None:
        return Outcome(f"{fault} (not tried: {reason})", 0, 0, 0)
    return outcome.of(fault, _small(Stage(scene, folder / "scene", stem), count, seed))


def _tries(stage: Stage, count: int, seed: int) -> Iterator[tuple[int, Sequence[str]]]:
    changes = counted(stage)
    for number in drawn(len(changes), count, seed):
        if changes[number - 1].kind in ("os.remove", "os.rmdir"):
            continue
        for action in _FULL:
            place = stage.place(f"point{number}-{action.replace(' ', '-')}")
            ended = stage.meet(place, number, action)
            met = changes[number - 1]
            losses = _losses(stage, place, ended, _to_name(stage, met))
            if not losses:
                shutil.rmtree(place)
            yield 1, [f"{place}: disk {action} at change {number}, {met}: {loss}" for loss in losses]


def _limited(stage: Stage, count: int, seed: int) -> Iterator[tuple[int, Sequence[str]]]:
    rng = random.Random(f"{seed} {stage.scene.name}")
    for number in range(1, count + 1):
        place = stage.place(f"size{number}")
        size = _drawn_size(rng, max(_sizes(stage)))
        ended = stage.meet(place, size, "size")
        losses = _losses(stage, place, ended, _any_file(stage))
        if not losses:
            shutil.rmtree(place)
        yield 1, [f"{place}: no file past {size} bytes: {loss}" for loss in losses]


def _small(stage: Stage, count: int, seed: int) -> Iterator[tuple[int, Sequence[str]]]:
    rng = random.Random(f"{seed} {stage.scene.name}")
    for number in range(1, count + 1):
        place = stage.folder / f"room{number}"
        kib = max(4, _drawn_size(rng, sum(_sizes(stage))) // 1024)
        with _file_system(place, kib):
            ended = stage.run(place)
            _mount(place, f"remount,size={_ROOM}k")
            losses = _losses(stage, place, ended, _any_file(stage))
        yield 1, [f"{place}: {kib} KiB for all: {loss}" for loss in losses]


def _to_name(stage: Stage, met: Change) -> set[str]:
    """What an error may name: the file; for one that comes and goes the folder that it is in, or the option."""
    known = _any_file(stage)
    return {met.target.name} if met.target.name in known else {met.target.name, *met.target.parent.parts, "out="}


def _sizes(stage: Stage) -> list[int]:
    """Bytes of each file that the command leaves."""
    return [file.stat().st_size for file in stage.undisturbed.rglob("*") if file.is_file()]


def _drawn_size(rng: random.Random, largest: int) -> int:
    """A size up to the largest, small ones as often as large ones."""
    return int(_LEAST * max(1, largest / _LEAST) ** rng.random())


def _any_file(stage: Stage) -> set[str]:
    """The names of the files and folders that a command may have to name, where only it knows which."""
    return {part for name in names(stage.undisturbed) for part in Path(name).parts}


@contextmanager
def _file_system(place: Path, kib: int) -> Iterator[str | None]:
    """A file system in memory of so many KiB at a new folder; gives the reason if there cannot be one."""
    place.mkdir()
    reason = _mount(place, f"size={kib}k")
    try:
        yield reason
    finally:
        if reason is None:
            subprocess.run(["umount", str(place)], check=True)
        place.rmdir()


def _mount(place: Path, options: str) -> str | None:
    """Mount, or say why not."""
    if sys.platform != "linux":
        return "it is Linux that has file systems in memory"
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, text=True)
    return made.stderr.strip() or None if made.returncode else None


def _losses(stage: Stage, place: Path, ended: Ended, to_name: set[str]) -> list[str]:
    """What is wrong after a command that had no room, and after going on with room."""
    if ended.code == 0:  # it could do without
        losses = differences(place, stage.undisturbed)
    else:
        losses = refusal(ended, to_name)
        # Hidden files are partial ones; another may wait there, whole, for the command to go on.
        left = [name for name in sorted(names(place) - names(stage.undisturbed)) if Path(name).name.startswith(".")]
        losses += [f"at once {name} stays behind" for name in left]
        if stage.scene.overwrites:
            losses += changed(place, stage.undisturbed)
        losses += stage.losses(place)
    return losses


def refusal(ended: Ended, to_name: set[str]) -> list[str]:
    """What is wrong with how a command refuses: it ends with 2, and in one line it names what is to blame."""
    if ended.hung:
        return ["it hangs"]
    if "Traceback" in ended.err:
        return [f"it shows a traceback: {ended.cause}"]
    errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    wrong = [] if ended.code == 2 else [f"it ends with {ended.code}, not 2: {ended.said}"]
    if len(errors) != 1:
        wrong.append(f"it says {len(errors)} lines of errors, not one: {ended.err.strip()[-300:]!r}")
    elif not any(name in errors[0] for name in to_name):
        wrong.append(f"it does not name {' or '.join(sorted(to_name))}: {errors[0]}")
    return wrong

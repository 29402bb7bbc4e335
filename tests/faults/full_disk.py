"""The disk is full at each change that needs room on it: told in one line, nothing harmed, and gone on with later.

Three ways: the change and all later ones fail, the one alone fails, and, for real, no file may grow past some size.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from faults import outcome
from faults.compare import differences, names
from faults.crashes import changed, counted, drawn
from faults.outcome import Outcome
from faults.points import Point
from faults.processes import Ended, Stem
from faults.scenes import Scene, Stage


def campaign(count: int, folder: Path, scene: Scene, *, seed: int = 0) -> Outcome:
    """Let the disk be full at every point of a scene's command.

    Args:
        count: points, at most; fewer than there are are drawn.
        folder: for the tries; made if absent. What is lost stays in it.
        scene: what runs.
        seed: of the draw.
    """
    with Stem() as stem:
        stage = Stage(scene, folder, stem)
        return outcome.of(f"disk full: {scene.name}", _tries(stage, count, seed))


def too_large(count: int, folder: Path, scene: Scene, *, seed: int = 0) -> Outcome:
    """Let the operating system refuse files past a size, which is drawn anew for each try; arguments as `campaign`."""
    with Stem() as stem:
        stage = Stage(scene, folder, stem)
        return outcome.of(f"file too large: {scene.name}", _limited(stage, count, seed))


def _tries(stage: Stage, count: int, seed: int) -> Iterator[tuple[int, Sequence[str]]]:
    changes = counted(stage)
    for number in drawn(len(changes), count, seed):
        if changes[number - 1].kind in ("os.remove", "os.rmdir"):
            continue
        for action in ("full", "full once"):
            place = stage.place(f"point{number}-{action.replace(' ', '-')}")
            ended = stage.run(place, Point(str(place), f"{place}.diary", number, action))
            met = changes[number - 1]
            losses = _losses(stage, place, ended, {met.target.name})
            yield 1, [f"{place}: disk {action} at change {number}, {met}: {loss}" for loss in losses]


def _limited(stage: Stage, count: int, seed: int) -> Iterator[tuple[int, Sequence[str]]]:
    rng = random.Random(f"{seed} {stage.scene.name}")
    sizes = [file.stat().st_size for file in stage.undisturbed.rglob("*") if file.is_file()]
    for number in range(1, count + 1):
        place = stage.place(f"size{number}")
        size = rng.randrange(1, rng.choice(sizes))
        ended = stage.run(place, Point(str(place), "", size, "size"))
        losses = _losses(stage, place, ended, {Path(name).name for name in names(stage.undisturbed)})
        yield 1, [f"{place}: no file past {size} bytes: {loss}" for loss in losses]


def _losses(stage: Stage, place: Path, ended: Ended, to_name: set[str]) -> list[str]:
    """What is wrong after a command that had no room, and after going on with room."""
    if ended.code == 0:  # it could do without
        losses = differences(place, stage.undisturbed)
    else:
        losses = refusal(ended, to_name)
        losses += [f"at once {name} stays behind" for name in sorted(names(place) - names(stage.undisturbed))]
        if stage.scene.overwrites:
            losses += changed(place, stage.undisturbed)
        losses += stage.losses(place)
    if not losses:
        shutil.rmtree(place)
    return losses


def refusal(ended: Ended, to_name: set[str]) -> list[str]:
    """What is wrong with how a command refuses: it ends with 2, and in one line it names what is to blame."""
    if ended.hung:
        return ["it hangs"]
    if "Traceback" in ended.err:
        return [f"it shows a traceback: {ended.said}"]
    errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    wrong = [] if ended.code == 2 else [f"it ends with {ended.code}, not 2: {ended.said}"]
    if len(errors) != 1:
        wrong.append(f"it says {len(errors)} lines of errors, not one: {ended.err.strip()[-300:]!r}")
    elif not any(name in errors[0] for name in to_name):
        wrong.append(f"it does not name {' or '.join(sorted(to_name))}: {errors[0]}")
    return wrong

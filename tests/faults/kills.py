"""A command is killed at a random moment, and again while it goes on; in the end it has to be as one that never was.

The moments are drawn over the whole life of the command: reading, training, writing. Some processes are new ones, in
whose life most is the start.
"""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

from faults import outcome
from faults.outcome import Outcome
from faults.processes import Ended, Plain, Running, Stem, finished
from faults.scenes import VARIABLES, Scene, Stage

SIGNALS = (signal.SIGKILL,) * 4 + (signal.SIGTERM, signal.SIGINT)
_MOST = 4  # kills of one run
_PLAIN = 0.05  # share of new processes
_START = 4.0  # seconds that these take, about, before they train


def campaign(count: int, folder: Path, scene: Scene, *, stem: Stem, seed: int = 0) -> Outcome:
    """Kill a scene's command.

    Args:
        count: kills.
        folder: for the tries; made if absent. What is lost stays in it.
        scene: what runs.
        stem: that forks it.
        seed: of the moments.
    """
    return outcome.of(f"killed: {scene.name}", _runs(Stage(scene, folder, stem), count, seed))


def _runs(stage: Stage, count: int, seed: int) -> Iterator[tuple[int, Sequence[str]]]:
    """Runs, each with its kills, until there were so many."""
    kills = number = 0
    while kills < count:
        number += 1
        rng = random.Random(f"{seed} {stage.scene.name} {number}")
        place = stage.place(f"run{number}")
        done, losses = _run(stage, place, rng, min(_MOST, count - kills))
        kills += done
        if not losses:
            shutil.rmtree(place)
        yield done, losses


def _run(stage: Stage, place: Path, rng: random.Random, most: int) -> tuple[int, Sequence[str]]:
    """One run to its end, killed so often at most; how often it was, and what is wrong."""
    story: list[str] = []
    for _ in range(rng.randint(1, most)):
        moment, ended = _disturbed(stage, place, rng)
        if moment is None:
            break
        story.append(moment)
        wrong = _wrong(ended)
        if wrong:
            return len(story), [f"{place}: {', '.join(story)}: {wrong}"]
    losses = stage.losses(place)
    return len(story), [f"{place}: {', '.join(story)}: {loss}" for loss in losses]


def _disturbed(stage: Stage, place: Path, rng: random.Random) -> tuple[str | None, Ended]:
    """Run, with a signal at some moment: what was done, None if the command was faster."""
    running: Running
    if rng.random() < _PLAIN and stage.scene.is_command:
        # Python itself answers SIGINT before the command is reached, with a traceback.
        number, latest = rng.choice((signal.SIGKILL, signal.SIGTERM)), _START + stage.seconds
        running = Plain(["-m", "alignprune.cli", *stage.scene.line(place)], place, VARIABLES)
    else:
        number, latest = rng.choice(SIGNALS), stage.seconds
        running = stage.start(place)
    after = rng.uniform(0, latest)
    ended = running.wait(after)
    if ended is not None:
        return None, ended
    running.signal(number)
    return f"{number.name} after {after:.3f} s", finished(running)


def _wrong(ended: Ended) -> str | None:
    """What a killed command may not do."""
    if ended.hung:
        return "it hangs"
    if "Traceback" in ended.err:
        return f"it shows a traceback: {ended.cause}"
    if ended.code == 1:
        return f"it says that it failed: {ended.said}"
    return None

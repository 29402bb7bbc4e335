"""Two ranks of one training, forked, with what torchrun gives them and does to them: one dies, so the other is ended.

New processes under torchrun itself are in `groups`; here the same takes seconds.
"""

from __future__ import annotations

import random
import shutil
import signal
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from faults import outcome
from faults.compare import differences
from faults.groups import RANKS
from faults.outcome import Outcome
from faults.processes import Ended, Running, Stem, finished
from faults.scenes import VARIABLES, arrays

_WORLD = 2
_GRACE = 30.0  # seconds that torchrun gives a rank between SIGTERM and SIGKILL


def campaign(count: int, folder: Path, *, stem: Stem, seed: int = 0) -> Outcome:
    """Kill one of the ranks or both.

    Args:
        count: kills.
        folder: for the tries; made if absent. What is lost stays in it.
        stem: that forks the first rank; the other has its own.
        seed: of the moments and the victims.
    """
    folder = folder.resolve()
    (folder / "inputs").mkdir(parents=True)
    arrays(folder / "inputs")
    with Stem() as other:
        return outcome.of("killed: two ranks, forked", _runs((stem, other), folder, count, seed))


def _runs(stems: Sequence[Stem], folder: Path, count: int, seed: int) -> Iterator[tuple[int, Sequence[str]]]:
    whole = folder / "undisturbed"
    whole.mkdir()
    first = _ended(_start(stems, whole))
    assert [ended.code for ended in first] == [0] * _WORLD, "\n".join(ended.err for ended in first)
    kills = number = 0
    while kills < count:
        number += 1
        rng = random.Random(f"{seed} ranks {number}")
        place = folder / f"run{number}"
        place.mkdir()
        story: list[str] = []
        losses: list[str] = []
        for _ in range(min(rng.randint(1, 4), count - kills)):
            done, wrong = _disturbed(stems, place, rng, first[0].seconds)
            story += done
            losses += wrong
        ended = _ended(_start(stems, place))
        losses += [f"it does not go on: {one.said}" for one in ended if one.code] or differences(place, whole)
        kills += len(story)
        if not losses:
            shutil.rmtree(place)
        yield len(story), [f"{place}: {', '.join(story)}: {loss}" for loss in losses]


def _start(stems: Sequence[Stem], place: Path) -> list[Running]:
    """Both ranks, with the variables that torchrun sets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "faults"}
    counts = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(_WORLD)) | {"GROUP_RANK": "0"}
    return [
        stem.start(
            RANKS.line(place),
            place,
            variables=VARIABLES | common | counts | dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)),
        )
        for rank, stem in enumerate(stems)
    ]


def _disturbed(stems: Sequence[Stem], place: Path, rng: random.Random, seconds: float) -> tuple[list[str], list[str]]:
    """Run, and kill one rank or both at some moment: what was done, and what hangs."""
    ranks = _start(stems, place)
    moment, victim, number = rng.uniform(0, seconds), rng.choice(("0", "1", "both")), rng.choice(_SIGNALS)
    early = ranks[0].wait(moment)
    if early is not None:
        ended = [early, finished(ranks[1])]
        return [], [f"it fails undisturbed: {one.said}" for one in ended if one.code]
    for rank, running in enumerate(ranks):
        if victim in (str(rank), "both"):
            running.signal(number)
    hung = [rank for rank, one in enumerate(_ended(ranks)) if one.hung]
    return [f"{number.name} to {victim} after {moment:.3f} s"], [f"rank {rank} hangs" for rank in hung]


_SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)


def _ended(ranks: Sequence[Running]) -> list[Ended]:
    """How both ended; as torchrun does, one that goes on when the other has failed is ended."""
    ended: list[Ended | None] = [None] * len(ranks)
    while not all(ended):
        for rank, running in enumerate(ranks):
            ended[rank] = ended[rank] or running.wait(0.02)
        if any(one is not None and one.code for one in ended):
            for rank, running in enumerate(ranks):
                if ended[rank] is None:
                    running.signal(signal.SIGTERM)
                    ended[rank] = running.wait(_GRACE) or finished(_killed(running))
    return [one for one in ended if one is not None]


def _killed(running: Running) -> Running:
    running.signal(signal.SIGKILL)
    return running

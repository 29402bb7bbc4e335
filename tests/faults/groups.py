"""Several processes that make one result: one of them is killed, or the one that looks after them, or all at once.

A sweep with two workers; a training on two ranks, as torchrun starts them. The same command goes on.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.context import ForkContext
from multiprocessing.util import register_after_fork
from pathlib import Path
from typing import Any

from alignprune.cli import main
from faults import outcome
from faults.compare import differences
from faults.kills import SIGNALS
from faults.outcome import Outcome
from faults.processes import PATIENCE, Ended, Plain, Running, Stem
from faults.scenes import RUN, VARIABLES, arrays

_MOST = 5  # kills of one run
_LOOK = 0.02  # seconds between two looks at what there is
_PROC = Path("/proc")


@dataclass(frozen=True)
class Group:
    """A command that starts processes.

    Attributes:
        name: for the table.
        words: of the command, to begin.
        interpreter: what stands before them where it is a new process; a stem's child gets the words alone.
        member: what stands in the command line of those that do the work, and in no other.
        resumes: whether ``--resume`` goes on with it.
        is_ours: whether all that it prints is ours, so that a traceback is one too many.
    """

    name: str
    words: str
    interpreter: str
    member: str
    resumes: bool
    is_ours: bool

    def line(self, place: Path) -> list[str]:
        """The words to begin, or to go on with what is in the folder."""
        begun = self.resumes and (place / RUN / "config.json").exists()
        return [*self.words.split(), *(["--resume"] if begun else [])]


SWEEP = Group(
    "a sweep and its workers",
    "sweep label-issues --protocol cpu --blocks digits --columns sym_0.1 --rows robust infobatch+das --seeds 1 --runs "
    "runs --workers 2 --threads 1 --retries 3",
    interpreter="-m alignprune.cli",
    member="spawn_main",
    resumes=False,
    is_ours=True,
)
RANKS = Group(
    "torchrun and its ranks",
    "train ../inputs/arrays.npz --method infobatch --noise symmetric --noise-rate 0.2 --epochs 40 --device cpu "
    f"--devices 2 --out {RUN}",
    interpreter="-m torch.distributed.run --standalone --nproc-per-node 2 -m alignprune.cli",
    member="-m alignprune.cli train",
    resumes=True,
    is_ours=False,
)


def campaign(count: int, folder: Path, group: Group, *, stem: Stem | None = None, seed: int = 0) -> Outcome:
    """Kill processes of a group: one that works, the head, or all at once.

    Args:
        count: kills.
        folder: for the tries; made if absent. What is lost stays in it.
        group: which command.
        stem: that forks the head, which then forks the others; None starts new processes, which takes longer.
        seed: of the moments and the victims.
    """
    stage = _Stage(group, folder.resolve(), stem)
    return outcome.of(f"killed: {group.name}{', forked' if stem else ''}", _runs(stage, count, seed))


class _Forks(ForkContext):
    """Forks in the place of spawned processes: no child keeps what its parent would close to be heard by another."""

    def Pipe(self, duplex: bool = True) -> Any:
        here, there = super().Pipe(duplex)
        register_after_fork(here, Connection.close)
        return here, there


def forking(words: list[str]) -> int:
    """The command, whose processes are forked from this one: it has no thread that they could miss."""
    multiprocessing.get_context = lambda method=None: _Forks()  # type: ignore[assignment]
    return main(words)


def _runs(stage: _Stage, count: int, seed: int) -> Iterator[tuple[int, Sequence[str]]]:
    kills = number = 0
    while kills < count:
        number += 1
        rng = random.Random(f"{seed} {stage.group.name} {number}")
        place = stage.folder / f"run{number}"
        place.mkdir()
        story, losses = _run(stage, place, rng, min(rng.randint(1, _MOST), count - kills))
        kills += len(story)
        losses = losses or differences(place, stage.undisturbed)
        if not losses:
            shutil.rmtree(place)
        yield len(story), [f"{place}: {', '.join(story)}: {loss}" for loss in losses]


class _Stage:
    """What the command leaves, and how long it takes, when nothing disturbs it."""

    def __init__(self, group: Group, folder: Path, stem: Stem | None) -> None:
        self.group, self.folder, self.undisturbed, self.stem = group, folder, folder / "undisturbed", stem
        (folder / "inputs").mkdir(parents=True)
        self.undisturbed.mkdir()
        arrays(folder / "inputs")
        call = self.call(self.undisturbed)
        started = time.monotonic()
        while call.lives(_LOOK) and not any(self.undisturbed.iterdir()):
            self.start = time.monotonic() - started
        ended = call.end()
        assert ended.code == 0, f"an undisturbed command ended with {ended.code}:\n{ended.out}\n{ended.err}"
        self.seconds = ended.seconds

    def call(self, place: Path) -> _Call:
        """Begin in this folder, or go on."""
        words = self.group.line(place)
        if self.stem is not None:
            return _Call(
                self.group, self.stem.start(words, place, function="faults.groups:forking", variables=VARIABLES)
            )
        return _Call(self.group, Plain([*self.group.interpreter.split(), *words], place, VARIABLES))


def _run(stage: _Stage, place: Path, rng: random.Random, most: int) -> tuple[list[str], list[str]]:
    """One run to its end, with so many kills at most: what was done, and what is wrong with a call."""
    story: list[str] = []
    while len(story) < most:
        call = stage.call(place)
        before = len(story)
        moment = rng.uniform(0, stage.seconds) if rng.random() < 0.25 else stage.start + _within(stage, rng)
        while len(story) < most and call.lives(moment):
            story.append(call.kill(rng))
            moment = _within(stage, rng)
        losses = call.losses(disturbed=len(story) > before)
        if losses or len(story) == before:  # wrong, or faster than the kill
            return story, losses
    return story, stage.call(place).losses(disturbed=False)


def _within(stage: _Stage, rng: random.Random) -> float:
    """A time within the part of a call in which there is something to lose."""
    return rng.uniform(0, stage.seconds - stage.start)


class _Call:
    """One call of the command, and the processes that it was seen to start."""

    def __init__(self, group: Group, head: Running) -> None:
        self.group, self.head, self.is_forked = group, head, not isinstance(head, Plain)
        self.seen: dict[int, _Process] = {}
        self.ended: Ended | None = None

    def lives(self, seconds: float) -> bool:
        """Whether the head still runs after so many seconds; looks at what it starts meanwhile."""
        until = time.monotonic() + seconds
        while self.ended is None and time.monotonic() < until:
            self.ended = self.head.wait(_LOOK)
            self.seen |= {process.number: process for process in _below(self.head.pid)}
        return self.ended is None

    def kill(self, rng: random.Random) -> str:
        """Send a signal to somebody; what was done."""
        alive = self._alive()
        members = [process for process in alive if self.is_forked or self.group.member in process.line]
        victim = rng.choice(("head", "member", "member", "all")) if members else "head"
        if victim == "member":
            rng.choice(members).signal(signal.SIGKILL)
            return "SIGKILL to one"
        if victim == "all":
            self.head.signal(signal.SIGKILL)
            for process in alive:
                process.signal(signal.SIGKILL)
            return "SIGKILL to all"
        number = rng.choice(SIGNALS)
        self.head.signal(number)
        return f"{number.name} to the head"

    def end(self) -> Ended:
        """The end of the head; killed when it hangs."""
        if self.lives(PATIENCE):
            self.head.signal(signal.SIGKILL)
            ended = self.head.wait(PATIENCE)
            assert ended is not None, "a killed process goes on"
            self.ended = replace(ended, hung=True)
        assert self.ended is not None
        return self.ended

    def losses(self, *, disturbed: bool) -> list[str]:
        """What is wrong with how the call ended, once all that it started has; one that was disturbed may fail."""
        ended, until = self.end(), time.monotonic() + PATIENCE
        while self._alive() and time.monotonic() < until:
            time.sleep(_LOOK)
        left = self._alive()
        for process in left:
            process.signal(signal.SIGKILL)
        found = [f"{process.line!r} is left behind" for process in left]
        if ended.hung:
            found.append("it hangs")
        if self.group.is_ours and "Traceback" in ended.err:
            found.append(f"it shows a traceback: {ended.cause}")
        if ended.code and not disturbed:
            found.append(f"it does not go on: {ended.said}")
        return found

    def _alive(self) -> list[_Process]:
        return [process for process in self.seen.values() if process.is_alive()]


@dataclass(frozen=True)
class _Process:
    """A process of this machine: its number, when it started, since numbers come again, and its command line."""

    number: int
    started: str
    line: str

    @staticmethod
    def of(number: int) -> _Process | None:
        """The process with that number; None if there is none, or nobody but its parent knows it any more."""
        try:
            state, *fields = (_PROC / str(number) / "stat").read_text().rpartition(") ")[2].split()
            line = (_PROC / str(number) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            return None
        return None if state == "Z" else _Process(number, fields[18], line)

    def is_alive(self) -> bool:
        found = _Process.of(self.number)
        return found is not None and found.started == self.started

    def signal(self, number: int) -> None:
        if self.is_alive():
            with suppress(ProcessLookupError):
                os.kill(self.number, number)


def _below(head: int) -> Iterator[_Process]:
    """What a process has started, and what that has started."""
    try:
        children = (_PROC / f"{head}/task/{head}/children").read_text().split()
    except OSError:
        return
    for child in map(int, children):
        process = _Process.of(child)
        if process is not None:
            yield process
            yield from _below(child)

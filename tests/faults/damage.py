"""A file of a run is damaged, then somebody reads the run: refused by the file's name, or right all the same.

Every file, of a finished run, of one that was interrupted, and of the runs of a sweep; every way to damage it; every
command that reads such a folder. What a command does not read it may leave as it is.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from faults import outcome
from faults.compare import differences, names
from faults.crashes import counted
from faults.full_disk import refusal
from faults.outcome import Outcome
from faults.processes import COMMAND, Ended, Stem
from faults.scenes import ARRAYS, BASE, COLLECTED, NOISE, RUN, TABLE, VARIABLES, Scene, Stage, must

Damage = Callable[[Path, random.Random], None]

# -- ways to damage a file -------------------------------------------------------------------------------------


def truncate(file: Path, rng: random.Random) -> None:
    """Its end is gone."""
    os.truncate(file, rng.randrange(file.stat().st_size))


def flip(file: Path, rng: random.Random) -> None:
    """One to three of its bits are others."""
    content = bytearray(file.read_bytes())
    for place in rng.sample(range(8 * len(content)), rng.randint(1, 3)):
        content[place // 8] ^= 1 << place % 8
    file.write_bytes(content)


def empty(file: Path, rng: random.Random) -> None:
    """It holds nothing."""
    file.write_bytes(b"")


def garbage(file: Path, rng: random.Random) -> None:
    """It holds noise."""
    file.write_bytes(rng.randbytes(file.stat().st_size))


def foreign(file: Path, rng: random.Random) -> None:
    """It is a whole file of its format, but nothing that this package wrote."""
    if file.suffix == ".npz":
        np.savez(file, apples=np.arange(3))
    elif file.suffix == ".pt":
        import torch

        torch.save({"apples": torch.arange(3)}, file)
    elif file.suffix == ".parquet":
        import pandas

        pandas.DataFrame({"apples": [1, 2, 3]}).to_parquet(file)
    elif file.suffix == ".safetensors":
        import torch
        from safetensors.torch import save_file

        save_file({"apples": torch.arange(3)}, file)
    else:
        file.write_text('{"apples": 3}\n')


def another(file: Path, rng: random.Random) -> None:
    """It is another file of the run, under its name."""
    others = [other for other in sorted(file.parent.iterdir()) if other.is_file() and other != file]
    shutil.copyfile(rng.choice(others), file)


def folder(file: Path, rng: random.Random) -> None:
    """A folder has its name."""
    file.unlink()
    file.mkdir()


WAYS: tuple[Damage, ...] = (truncate, truncate, flip, flip, flip, empty, garbage, foreign, another, folder)

# -- who reads a run -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reader:
    """A command that reads a folder.

    Attributes:
        words: of it; it works in a folder that holds `RUN`, or ``runs``.
        function: what runs it.
        goes_on: whether it reads the checkpoint to go on, so that it has to say when it takes an earlier one.
    """

    words: str
    function: str = COMMAND
    goes_on: bool = False


@dataclass(frozen=True)
class State:
    """A folder that is damaged, and who reads it then.

    Attributes:
        name: for the table.
        scene: whose command makes it.
        readers: of it.
        after: how many checkpoints are there when the command is interrupted; None for a finished one.
        inside: the folder below the scene's, if it is the inputs that are damaged.
    """

    name: str
    scene: Scene
    readers: tuple[Reader, ...]
    after: int | None = None
    inside: str = "undisturbed"


_FIGURE = Reader(f"figure {RUN} --out figures")

FINISHED = State(
    "a finished run",
    COLLECTED,
    (
        Reader(" ".join([*COLLECTED.words, "--resume"])),
        Reader(f"audit {RUN} --out report"),
        _FIGURE,
        Reader(f"predict {RUN} ../inputs/arrays.npz --device cpu --out predictions.csv"),
        Reader(
            f"train ../inputs/arrays.npz --method el2n --prune-ratio 0.5 {NOISE} --epochs 2 --device cpu --proxy {RUN} "
            "--out new"
        ),
        Reader(f"train --config {RUN}/config.json --device cpu --out new"),
    ),
)
CALIBRATING = State(
    "a base run",
    BASE,
    (
        Reader(
            f"train ../inputs/arrays.npz --method infobatch+das --prune-ratio 0.4 --reference noisy --epochs 4 "
            f"--device cpu --base-run {RUN} --out new"
        ),
    ),
)
_GOING_ON = (Reader(" ".join([*ARRAYS.words, "--resume"]), goes_on=True), _FIGURE)
INTERRUPTED = State("an interrupted run", ARRAYS, _GOING_ON, after=4)
AT_THE_END = State("a run interrupted at its end", ARRAYS, _GOING_ON, after=8)
SWEEP = State(
    "the runs of a sweep",
    TABLE,
    (
        Reader(" ".join(TABLE.words).replace("../inputs/runs", "runs")),
        Reader("runs", "faults.scenes:table_jobs"),
    ),
    inside="inputs",
)
STATES = (FINISHED, CALIBRATING, INTERRUPTED, AT_THE_END, SWEEP)


def campaign(count: int, folder: Path, state: State, *, stem: Stem, seed: int = 0) -> Outcome:
    """Damage the files of a folder, one at a time, and let everybody read it.

    Args:
        count: tries, at most; fewer than there are are drawn.
        folder: for the tries; made if absent. What is lost stays in it.
        state: what is damaged.
        stem: that forks the commands.
        seed: of the draws.
    """
    gallery = _Gallery(Stage(state.scene, folder, stem), state)
    return outcome.of(f"damaged: {state.name}", _tries(gallery, count, seed))


def _tries(gallery: _Gallery, count: int, seed: int) -> Iterator[tuple[int, Sequence[str]]]:
    every = [
        (reader, file, way, number)
        for reader in gallery.state.readers
        for file in sorted(names(gallery.whole))
        for number, way in enumerate(WAYS)
    ]
    rng = random.Random(f"{seed} {gallery.state.name}")
    for reader, file, way, number in rng.sample(every, min(count, len(every))):
        own = random.Random(f"{seed} {gallery.state.name} {file} {number}")
        losses = gallery.read(reader, file, way, own)
        yield 1, [f"{file}, {way.__name__}: {reader.words.split()[0]}: {loss}" for loss in losses]


class _Gallery:
    """Copies of a folder, and what readers make of it when it is whole."""

    def __init__(self, stage: Stage, state: State) -> None:
        self.stage, self.state, self.count = stage, state, 0
        self.whole = self._made()
        self.right = {reader: self._right(reader) for reader in state.readers}

    def _made(self) -> Path:
        whole = self.stage.folder / self.state.inside
        if self.state.after is None:
            return whole
        place = self.stage.place("interrupted")
        renames = [
            number
            for number, change in enumerate(counted(self.stage), 1)
            if change.kind == "os.rename" and change.target.name == "checkpoint.pt"
        ]
        number = renames[self.state.after - 1] + 2  # what follows the rename has been done too
        assert self.stage.meet(place, number, "die").code == -signal.SIGKILL
        return place

    def _copy(self, name: str) -> Path:
        place = self.stage.folder / name
        shutil.copytree(self.whole, place)
        return place

    def _run(self, reader: Reader, place: Path) -> Ended:
        words = reader.words.split()
        return self.stage.stem.run(words, place, function=reader.function, variables=VARIABLES)

    def _right(self, reader: Reader) -> tuple[Path, Ended]:
        place = self._copy(f"right{self.state.readers.index(reader)}")
        return place, must(self._run(reader, place))

    def read(self, reader: Reader, file: str, way: Damage, rng: random.Random) -> list[str]:
        """What is wrong with how a reader takes a damaged file."""
        self.count += 1
        place = self._copy(f"try{self.count}")
        way(place / file, rng)
        damaged = self._content(place / file)
        ended = self._run(reader, place)
        right, undisturbed = self.right[reader]
        if ended.code == 0:
            untouched = self._content(place / file) == damaged
            # Only metrics.jsonl has no seal of its own by which the next reader would see it.
            excused = untouched and not (reader.goes_on and file.endswith("metrics.jsonl"))
            losses = [line for line in differences(place, right) if not (excused and line.startswith(file))]
            if _last(ended.out) != _last(undisturbed.out):
                losses.append(f"it says {_last(ended.out)!r}, not {_last(undisturbed.out)!r}, and nothing else is told")
            if reader.goes_on and Path(file).name == "checkpoint.pt" and file not in ended.out + ended.err:
                losses.append("it goes on, and does not say that the file is damaged")
        else:
            losses = refusal(ended, {Path(file).name})
            losses += [line for line in differences(place, self.whole) if self._is_harm(line, file)]
        if not losses:
            shutil.rmtree(place)
        return [f"{place.name}: {loss}" for loss in losses]

    @staticmethod
    def _is_harm(line: str, file: str) -> bool:
        """Whether a refused command may not leave this difference: it may take away what a dead process has left, and
        get some way with a run before it meets the file."""
        name = line.partition(":")[0]
        in_run = name.startswith(f"{RUN}/")
        return not (name.startswith(file) or (in_run and (Path(name).name.startswith(".") or "stays behind" in name)))

    @staticmethod
    def _content(file: Path) -> bytes | None:
        return file.read_bytes() if file.is_file() else None


def _last(text: str) -> str:
    """The last line, without speeds and times."""
    return re.sub(r"[\d,]+ samples/s", "", text.strip().rpartition("\n")[2])

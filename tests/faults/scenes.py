"""Scenes: small commands that write files, each in a folder of its own beside what it reads.

    FOLDER/inputs   data, and finished runs, made once
    FOLDER/NAME     a try: the working folder of the command, and all that it writes

Every command names its files relative to its own folder, so that tries differ in nothing but what befell them.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alignprune.bench.commands import Which, chosen_cells, work
from alignprune.bench.grid import experiments, plan
from alignprune.bench.grid.cells import Cell, Protocol
from alignprune.errors import UserError
from faults.compare import differences
from faults.points import Action, Point
from faults.processes import COMMAND, Ended, Running, Stem, finished

RUN = "run"
VARIABLES = {"ALIGNPRUNE_CACHE": "cache"}


@dataclass(frozen=True)
class Scene:
    """A command, and how to go on with it.

    Attributes:
        name: for the table.
        words: of the command; its files are ``../inputs/...``, and `RUN` where it is a run.
        data: writes what the command reads into a folder.
        before: commands that the folder of the inputs needs first.
        before_by: what runs these.
        resumes: whether ``--resume`` goes on with it; else the same command does.
        refuses_finished: whether the command is refused where its files are whole.
        overwrites: whether it replaces what is there: tries then begin with the files of an earlier call.
        function: what runs it.
    """

    name: str
    words: tuple[str, ...]
    data: Callable[[Path], None] = lambda folder: None
    before: tuple[tuple[str, ...], ...] = ()
    before_by: str = COMMAND
    resumes: bool = True
    refuses_finished: bool = False
    overwrites: bool = False
    function: str = COMMAND

    @property
    def is_command(self) -> bool:
        """Whether a person can type it."""
        return self.function == COMMAND

    def line(self, place: Path) -> list[str]:
        """The words to begin, or to go on with what is in the folder."""
        begun = self.resumes and (place / RUN / "config.json").exists()
        return [*self.words, "--resume"] if begun else list(self.words)


class Stage:
    """A scene with its inputs, on which tries are made.

    Args:
        scene: which.
        folder: for inputs and tries; made if absent.
        stem: that forks them.
    """

    def __init__(self, scene: Scene, folder: Path, stem: Stem) -> None:
        self.scene, self.folder, self.stem = scene, folder.resolve(), stem
        inputs = self.folder / "inputs"
        inputs.mkdir(parents=True)
        scene.data(inputs)
        for words in scene.before:
            must(stem.run(words, inputs, function=scene.before_by, variables=VARIABLES))
        self.undisturbed = self.place("undisturbed", afresh=True)
        self.seconds = must(self.run(self.undisturbed)).seconds

    def place(self, name: str, *, afresh: bool = False) -> Path:
        """A new folder for a try; with what an earlier call has left, if the scene overwrites that."""
        place = self.folder / name
        if self.scene.overwrites and not afresh:
            shutil.copytree(self.undisturbed, place)
        else:
            place.mkdir()
        return place

    def start(self, place: Path, point: Point | None = None) -> Running:
        """Begin in this folder, or go on."""
        scene = self.scene
        return self.stem.start(scene.line(place), place, function=scene.function, point=point, variables=VARIABLES)

    def run(self, place: Path, point: Point | None = None) -> Ended:
        """Begin in this folder, or go on, to the end."""
        return finished(self.start(place, point))

    def meet(self, place: Path, number: int, action: Action) -> Ended:
        """Begin in this folder, or go on, with something that happens at a point; to the end."""
        diary = Path(f"{place}.diary")
        ended = self.run(place, Point(str(place), str(diary), number, action))
        diary.unlink(missing_ok=True)
        return ended

    def losses(self, place: Path) -> list[str]:
        """Go on with a try to its end; what is wrong with it then."""
        ended = self.run(place)
        if ended.hung:
            return ["it hangs when it goes on"]
        if ended.code and not (ended.code == 2 and self.scene.refuses_finished):
            return [f"it does not go on: {ended.said}"]
        return differences(place, self.undisturbed)


def must(ended: Ended) -> Ended:
    """The end of a command that nothing disturbs."""
    assert ended.code == 0, f"an undisturbed command ended with {ended.code}:\n{ended.out}\n{ended.err}"
    return ended


# -- data ------------------------------------------------------------------------------------------------------


def arrays(folder: Path) -> None:
    """Four classes in six dimensions."""
    rng = np.random.default_rng(0)
    labels = np.arange(160) % 4
    features = rng.normal(size=(160, 6)).astype(np.float32) + 2 * np.eye(4, 6, dtype=np.float32)[labels]
    np.savez(
        folder / "arrays.npz", x_train=features[:120], y_train=labels[:120], x_test=features[120:], y_test=labels[120:]
    )


def _images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 4
    images = rng.integers(0, 80, (80, 16, 16, 3), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[8 * (label // 2) :][:8, 8 * (label % 2) :][:, :8] += 120
    np.savez(folder / "images.npz", x_train=images[:60], y_train=labels[:60], x_test=images[60:], y_test=labels[60:])


def _texts(folder: Path) -> None:
    words = {"animals": "cat dog mat wet sat log", "colours": "red green blue sky grass apple"}
    rng = np.random.default_rng(0)
    rows = [
        f"{' '.join(rng.choice(list_.split(), 5))},{label},{split}"
        for split, count in (("train", 40), ("test", 10))
        for _ in range(count)
        for label, list_ in words.items()
    ]
    (folder / "texts.csv").write_text("\n".join(["text,label,split", *rows]) + "\n")


# -- the scenes ------------------------------------------------------------------------------------------------


def _words(line: str) -> tuple[str, ...]:
    return tuple(line.split())


_SMALL = f"--device cpu --out {RUN}"
NOISE = "--noise symmetric --noise-rate 0.2"

DIGITS = Scene(
    "train digits", _words(f"train digits --method infobatch+das {NOISE} --limit 200 --epochs 4 --trace {_SMALL}")
)
ARRAYS = Scene(
    "train FILE.npz", _words(f"train ../inputs/arrays.npz --method robust {NOISE} --epochs 8 {_SMALL}"), arrays
)
IMAGES = Scene(
    "train images, divbs",
    _words(
        "train ../inputs/images.npz --method divbs --model resnet-tiny --epochs 3 --recipe.batch-size 16 "
        f"--checkpoint-every 2 {_SMALL}"
    ),
    _images,
)
COLLECT = Scene(
    "train, collect and trace",
    _words(f"train digits --method full --collect --proxy-epochs 2 --trace --limit 200 --epochs 3 {_SMALL}"),
)
TEXTS = Scene(
    "train on texts, cache",
    _words(f"train ../inputs/texts.csv --features tfidf --method seta --epochs 2 {_SMALL}"),
    _texts,
)
COLLECTED = Scene(
    "train FILE.npz, collect and trace",
    _words(f"train ../inputs/arrays.npz --method full --collect --proxy-epochs 2 --trace {NOISE} --epochs 4 {_SMALL}"),
    arrays,
)
BASE = Scene("train infobatch", _words(f"train ../inputs/arrays.npz --method infobatch --epochs 4 {_SMALL}"), arrays)
FOLDS = Scene(
    "cross-validation", _words(f"train digits --method full --folds 2 {NOISE} --limit 200 --epochs 2 {_SMALL}")
)
CORESET = Scene(
    "train, proxy first", _words(f"train digits --method el2n --prune-ratio 0.5 --limit 200 --epochs 2 {_SMALL}")
)
SELF_SUPERVISED = Scene(
    "train, features first",
    _words(
        "train ../inputs/images.npz --method ssp --prune-ratio 0.5 --coreset.features self-supervised --model "
        f"resnet-tiny --epochs 2 --recipe.batch-size 16 {_SMALL}"
    ),
    _images,
)
AUDIT = Scene(
    "audit, data",
    _words("audit ../inputs/arrays.npz --noise symmetric --noise-rate 0.2 --epochs 2 --device cpu --out report"),
    arrays,
    resumes=False,
    refuses_finished=True,
)
REPORT = Scene(
    "audit, a run",
    _words("audit ../inputs/run --out report"),
    arrays,
    (_words(f"train ../inputs/arrays.npz --method robust {NOISE} --epochs 4 --trace {_SMALL}"),),
    resumes=False,
    refuses_finished=True,
)
PREDICT = Scene(
    "predict",
    _words("predict ../inputs/run ../inputs/arrays.npz --device cpu --out there/predictions.csv"),
    arrays,
    (_words(f"train ../inputs/arrays.npz --method full --epochs 1 {_SMALL}"),),
    resumes=False,
    refuses_finished=True,
)
PREDICT_PARQUET = Scene(
    "predict, Parquet",
    _words("predict ../inputs/run ../inputs/arrays.npz --device cpu --out predictions.parquet"),
    arrays,
    PREDICT.before,
    resumes=False,
    refuses_finished=True,
)
FIGURE = Scene(
    "figure",
    _words("figure ../inputs/run --out figures"),
    before=(_words(f"train digits --method infobatch {NOISE} --limit 200 --epochs 2 --trace {_SMALL}"),),
    resumes=False,
    overwrites=True,
)
JOB = Scene("jobs of a sweep, archive", ("runs",), resumes=False, function="faults.scenes:small_jobs")
TABLE = Scene(
    "table",
    _words("table label-issues --protocol cpu --runs ../inputs/runs --form csv --out table.csv"),
    before=(("runs",),),
    before_by="faults.scenes:table_jobs",
    resumes=False,
    overwrites=True,
)


def small_jobs(words: list[str]) -> int:
    """Two small jobs, one of which needs the other, under the folder that is given."""
    settings = {"dataset": "digits", "noise": "symmetric", "noise_rate": 0.2, "limit": 200, "trace": True}
    method = {"method": "infobatch+das", "recipe.epochs": 2, "prune_ratio": 0.5, "budget": "equal", "device": "cpu"}
    return _work([Cell("", "", "", settings | method)], Protocol("small", "", {}), Path(words[0]))


def table_jobs(words: list[str]) -> int:
    """The jobs behind some cells of a table, under the folder that is given."""
    protocol = experiments.protocol("cpu")
    which = Which(("label-issues",), rows=("infobatch+das",), columns=("sym_0.1",), blocks=("digits",))
    cells = [cell for _, chosen in chosen_cells(which, protocol) for cell in chosen]
    return _work(cells, protocol, Path(words[0]))


def _work(cells: list[Cell], protocol: Protocol, root: Path) -> int:
    """What a worker of a sweep does, without the sweep around it: one job after another."""
    for job in plan.jobs(cells, protocol, [0], root):
        try:
            job.folder.mkdir(parents=True, exist_ok=True)
            work(job)
        except (UserError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    return 0

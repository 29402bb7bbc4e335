"""Every command that a page shows is one that there is, with all that it names, and says what it needs.

A command of `alignprune` is typed in a folder that holds one finished run. What would train, or open data, ends when
its options have been read; all others do what they do.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytest.importorskip("altair", reason="the extra audit is not installed")

from alignprune.bench import commands, data, demo, label_report
from alignprune.bench.grid import experiments
from alignprune.bench.parsing import parse_train
from alignprune.bench.results import exports, figures
from alignprune.cli import main

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]

FOLDERS = {"FOLDER", "DATA", "photos", "pets", "path/to/folder", "path/to/photos"}
OWN = {*FOLDERS, "my.csv", "texts.csv", "reviews.csv", "features.npz", "my_data.npz", "hf:NAME_OR_PATH"}
"""What stands for the reader's own data."""

OTHERS = {"cd", "export", "git", "sort", "source", "tensorboard"}
"""Programs that are not ours to check."""

NEEDS = re.compile(r"# .*(the data sets|a GPU|a download|minutes|hours?)")


class Shown(NamedTuple):
    """A command, and where it stands."""

    page: str
    words: tuple[str, ...]
    block: str

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"


def shown() -> Iterator[Shown]:
    """The commands of all blocks, without the variables before them and what becomes of their output."""
    for page in PAGES:
        for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(re.split(r" (?:\||>>?) ", line)[0], comments=True)
                while words and ("=" in words[0] or words[0] == "srun"):
                    del words[0]
                if words:
                    yield Shown(str(page.relative_to(ROOT)), (Path(words[0]).name, *words[1:]), block)


EVERY = list(shown())
PYTHON = [one for one in EVERY if one.words[0] in ("python", "torchrun")]
MAKE = [one for one in EVERY if one.words[0] == "make"]
PIP = [one for one in EVERY if one.words[:2] == ("pip", "install")]
ALIGNPRUNE = [
    one._replace(words=one.words[1 + (one.words.index("alignprune.cli") if one.words[0] == "torchrun" else 0) :])
    for one in EVERY
    if one.words[0] == "alignprune" or "alignprune.cli" in one.words
]


def test_a_page_shows_programs_that_are_checked() -> None:
    known = {"alignprune", "python", "torchrun", "make", "pip", *OTHERS}
    assert [str(one) for one in EVERY if one.words[0] not in known] == []


@pytest.mark.parametrize("command", MAKE, ids=str)
def test_a_target_is_in_the_makefile(command: Shown) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {word for word in command.words[1:] if "=" not in word} <= targets


@pytest.mark.parametrize("command", PIP, ids=str)
def test_an_extra_is_one_of_the_package(command: Shown) -> None:
    named = ",".join(re.findall(r"(?:^|\s)(?:alignprune|\.)\[([\w,]+)\]", " ".join(command.words)))
    assert set(filter(None, named.split(","))) <= set(metadata.metadata("alignprune").get_all("Provides-Extra"))


@pytest.mark.parametrize("command", PYTHON, ids=str)
def test_a_script_is_in_the_repository(command: Shown) -> None:
    assert [word for word in command.words if word.endswith(".py") and not (ROOT / word).is_file()] == []


class Read(BaseException):
    """Raised in place of the work: the options are right."""


def known(dataset: str | Path | None) -> None:
    assert str(dataset).rstrip("/") in OWN or str(dataset) in data.DATASETS or Path(str(dataset)).is_dir()


def read_train(config: Any, *_: object) -> None:
    known(config.data.dataset)
    if config.data.dataset in data.DATASETS:
        data.refuse_unknown(config.data.dataset, config.data.noise, config.data.noise_rate)
    raise Read


def read_audit(config: Any, *_: object) -> None:
    known(config.source)
    raise Read


def read_sweep(config: Any, *_: object) -> None:
    commands.chosen_cells(config, experiments.protocol(config.protocol))
    raise Read


def read(*_: object) -> None:
    raise Read


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run, once under each of the names that pages give theirs."""
    folder = tmp_path_factory.mktemp("shown")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "digits", "--method", "full", "--epochs", "1", "--out", "runs/first"]) == 0
    for name in ("my-run", "full", "robust"):
        shutil.copytree(folder / "runs/first", folder / "runs" / name)
    return folder


@pytest.fixture
def _nothing_is_worked_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr(commands, "train", read_train)
    monkeypatch.setattr(commands, "sweep_jobs", read_sweep)
    monkeypatch.setattr(commands, "open_files", lambda dataset, *_: known(dataset) or read())
    monkeypatch.setattr(commands, "predict", read)
    monkeypatch.setattr(label_report, "run", read_audit)
    monkeypatch.setattr(demo, "run", read)
    monkeypatch.setattr(figures, "picture", read)
    monkeypatch.setattr(exports, "export", read)
    monkeypatch.setenv("ALIGNPRUNE_DATA", str(place))


@pytest.mark.usefixtures("_nothing_is_worked_on")
@pytest.mark.parametrize("command", ALIGNPRUNE, ids=str)
def test_a_command_of_alignprune_is_understood(command: Shown, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(command.words)
    except Read:
        return
    no_data_set_is_here = command.words == ("data", "check") and code == 1
    assert code == 0 or no_data_set_is_here, capsys.readouterr().err


def needs_data_or_time(words: tuple[str, ...]) -> bool:
    """Whether a command trains on a data set that has to be fetched."""
    if words[0] == "train" and "--help" not in words:
        options = [word for word in words[1:] if word != "--json"]
        record = data.DATASETS.get(str(parse_train(options).data.dataset))
        return record is not None and bool(record.files)
    return words[0] == "sweep" and "--list" not in words


def test_a_block_that_needs_data_or_time_says_so(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    silent = [str(one) for one in ALIGNPRUNE if not NEEDS.search(one.block) and needs_data_or_time(one.words)]
    assert silent == []

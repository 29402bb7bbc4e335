"""What the command line prints: JSON alone with --json, plain lines in a pipe, bars on a terminal."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignprune import presets
from alignprune.bench import displays
from alignprune.bench.data import DATASETS
from alignprune.bench.grid import experiments
from alignprune.bench.run.folder import read_result
from alignprune.cli import main

PATIENCE = 120  # seconds that a bar may take to be drawn; reached only when none is

TRAIN = ["train", "digits", "--method", "robust", "--device", "cpu", "--epochs"]


def answer(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    """What a command prints with --json, all of it parsed."""
    assert main([*words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


# -- JSON ---------------------------------------------------------------------------------------------------


def test_train_answers_with_the_result_and_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main([*TRAIN, "3", "--out", str(out), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == {"out": str(out), **read_result(out)}
    assert [line.split()[0] for line in said.err.splitlines()] == ["digits:", "epoch", "epoch", "epoch"]


def test_predict_answers_with_its_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    assert main([*TRAIN, "1", "--out", str(tmp_path / "run")]) == 0
    np.savez(tmp_path / "new.npz", x=np.zeros((3, 64)), y=["4", "4", "cat"])
    out = tmp_path / "out.csv"
    capsys.readouterr()
    found = answer(capsys, "predict", str(tmp_path / "run"), str(tmp_path / "new.npz"), "--out", str(out))
    said = {line.split(",")[1] for line in out.read_text().splitlines()[1:]}
    assert len(said) == 1  # of the same sample three times
    right = float(said == {"4"})
    expected = {"out": str(out), "part": "the array x", "samples": 3, "known": 2, "unknown": 1, "accuracy": right}
    assert found == expected


def test_methods_and_data_answer_with_their_registries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "methods") == presets.table()
    found = answer(capsys, "data", "check", "--data-root", str(tmp_path), code=1)
    assert [one["name"] for one in found] == list(DATASETS)
    assert {one["name"]: one["complete"] for one in found}["cifar100n"] is False


def test_data_check_of_a_data_set_answers_with_its_damaged_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    for label in ("ant", "bee"):
        (tmp_path / label).mkdir()
        for i in range(2):
            Image.new("RGB", (4, 4)).save(tmp_path / label / f"{i}.png")
    (tmp_path / "bee/1.png").write_bytes(b"no image")
    found = answer(capsys, "data", "check", str(tmp_path), code=1)
    assert found["counts"] == {"train": 4}
    assert [Path(one["sample"]).name for one in found["damaged"]] == ["1.png"]


def test_sweep_answers_with_its_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sweep", "--list", "--protocol", "cpu", "--runs", str(tmp_path), "--seeds", "2"]
    found = answer(capsys, *words)
    assert (found["protocol"], found["seeds"], found["complete"]) == ("cpu", 2, 0)
    assert [row["name"] for row in found["experiments"]] == list(experiments.EXPERIMENTS)
    named = {row["name"]: row for row in found["experiments"]}
    assert named["table-4"]["cells"] is None  # ImageNet is not in this protocol
    assert named["table-1"]["runs"] > named["table-1"]["cells"] > 0


def test_table_answers_with_the_rows_of_its_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import csv

    words = ["table", "table-3", "--protocol", "cpu", "--runs", str(tmp_path)]
    assert main([*words, "--form", "csv"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    found = answer(capsys, *words)
    as_text = [{name: "" if value is None else str(value) for name, value in row.items()} for row in found]
    assert as_text == [row for row in rows if row["experiment"]]
    assert main([*words, "--json", "--out", str(tmp_path / "table.csv")]) == 2
    assert "is given with --json" in capsys.readouterr().err


def test_demo_answers_with_its_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--seeds", "1", "--epochs", "4", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["rows"] == json.loads((out / "summary.json").read_text())["rows"]
    assert said.err.splitlines()[-1] == "robust, seed 0: run 6 of 6 done"


def test_a_mistake_leaves_standard_output_empty(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "nowhere.npz", "--json"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    for command in ("completion", "help"):
        assert main([command, "--json"]) == 2
        assert f"json=True is given with {command}, expected it with demo, train" in capsys.readouterr().err


# -- lines and bars -----------------------------------------------------------------------------------------


def test_in_a_pipe_an_epoch_is_a_plain_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert main([*TRAIN, "3", "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0] == "digits: robust, seed 0"
    assert [line.split()[:2] for line in lines[1:-1]] == [["epoch", f"{epoch}/3"] for epoch in (1, 2, 3)]
    assert lines[-1].startswith("accuracy ")
    assert "\x1b" not in said.out + said.err


def test_in_a_pipe_a_table_is_plain_and_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert main(["sweep", "--list", "--protocol", "cpu", "--runs", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    for experiment in experiments.EXPERIMENTS.values():  # no title is cut or broken into lines
        assert [line for line in said.splitlines() if experiment.name in line and experiment.title in line]


def test_in_a_pipe_the_demo_prints_a_line_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(tmp_path / "demo"), "--seeds", "1", "--epochs", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "full, seed 0: run 1 of 6 done"
    assert lines[5] == "robust, seed 0: run 6 of 6 done"


def texts(folder: Path) -> list[str]:
    """The words that train on a small table of texts."""
    rows = "".join(
        f"red apple {i},fruit,train\ngreen grass {i},plant,{'test' if i % 2 else 'train'}\n" for i in range(20)
    )
    (folder / "own.csv").write_text(f"text,label,split\n{rows}")
    own = ["--features", "tfidf", "--method", "full", "--epochs", "1", "--device", "cpu", "--out", str(folder / "run")]
    return ["train", str(folder / "own.csv"), *own]


def test_in_a_pipe_it_is_said_what_texts_become_and_how_far_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALIGNPRUNE_CACHE", str(tmp_path / "cache"))
    assert main(texts(tmp_path)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("word counts, weighted by rarity, along the leading directions of the training texts")
    assert lines[1:3] == ["features of 30 of 30 samples", "features of 10 of 10 samples"]
    assert lines[3].endswith("own.csv: full, seed 0")


def test_plain_lines_of_a_long_work_are_ten() -> None:
    from alignprune.bench.run.progress import Tenths

    tenths = Tenths()
    for _ in range(2):  # two parts of a data set
        assert [done for done in range(1, 1001) if tenths.passed(done, 1000)] == list(range(100, 1001, 100))
    assert tenths.passed(7, 7)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_on_a_terminal_there_are_bars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, text = on_a_terminal([*TRAIN, "2", "--out", str(tmp_path / "run")], monkeypatch)
    assert code == 0
    assert b"\x1b[" in text
    assert b"epochs" in text
    assert b"epoch   2/2  accuracy" in text


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_on_a_terminal_there_is_a_bar_for_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alignprune.bench.data.embedding import TfidfEmbedder

    embed, drawn = TfidfEmbedder.embed, threading.Event()

    def slow(self: Any, samples: Any, progress: Any = None) -> Any:
        progress(3, 30)
        assert drawn.wait(PATIENCE), "the bar is not drawn"
        return embed(self, samples, progress)

    def watch(text: bytes) -> None:
        if b"3/30" in text:
            drawn.set()

    monkeypatch.setattr(TfidfEmbedder, "embed", slow)
    monkeypatch.setenv("ALIGNPRUNE_CACHE", str(tmp_path / "cache"))
    code, text = on_a_terminal(texts(tmp_path), monkeypatch, watch)
    assert code == 0
    assert b"word counts, weighted by rarity" in text
    assert b"3/30" in text


NAMES = ("[/im].npz", "[red].npz", ":bug:.npz", "a [b] c.npz")


def arrays(file: Path) -> str:
    """A small data set in a file of that name."""
    import numpy as np

    x, y = np.random.default_rng(0).normal(size=(40, 4)), np.arange(40) % 2
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, x_train=x, y_train=y, x_test=x, y_test=y)
    return str(file)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
@pytest.mark.parametrize("name", NAMES)
def test_on_a_terminal_a_name_is_shown_as_it_is(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = arrays(Path(name))
    checked, shown = on_a_terminal(["data", "check", file], monkeypatch)
    assert checked == 0
    assert f"{file} ".encode() in shown  # of the bar
    train = ["train", file, "--method", "full", "--epochs", "1", "--device", "cpu", "--out", f"{name} run"]
    trained, shown = on_a_terminal(train, monkeypatch)
    assert trained == 0
    assert f"{file}: full, seed 0".encode() in shown
    assert f"written to {name} run".encode() in shown


@pytest.mark.parametrize("name", NAMES)
def test_in_a_table_a_name_is_shown_as_it_is(name: str) -> None:
    from rich.table import Table

    from alignprune.bench.console import console

    shown = io.StringIO()
    table = Table(name, title=name)
    table.add_row(name)
    console(shown).print(name, table)
    assert shown.getvalue().count(name) == 4


def on_a_terminal(
    words: list[str], monkeypatch: pytest.MonkeyPatch, watch: Callable[[bytes], None] = lambda text: None
) -> tuple[int, bytes]:
    """The exit code of a command, and all that it shows on a terminal; what it has shown so far goes to `watch`."""
    import pty

    reader, writer = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # how Linux says that the other end is closed
            while part := os.read(reader, 65536):
                shown.append(part)
                watch(b"".join(shown))

    watching = threading.Thread(target=read)
    watching.start()
    monkeypatch.setenv("TERM", "xterm")
    with open(writer, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        code = main(words)
    watching.join()
    os.close(reader)
    return code, b"".join(shown)


# -- warnings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("debug, begins", [([], "warning: path="), (["--debug"], str(Path(displays.__file__).parent))])
def test_a_warning_is_one_line_unless_the_code_is_asked_for(tmp_path: Path, debug: list[str], begins: str) -> None:
    table = tmp_path / "some.csv"
    table.write_text("width,colour,label\n1,red,x\n2,blue,y\n")
    command = [sys.executable, "-m", "alignprune.cli", "data", "check", str(table), *debug]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (said, *more) = done.stderr.splitlines()
    assert said.startswith(begins)
    assert "columns that nothing reads (colour)" in said
    assert len(more) == len(debug)  # the line of the code

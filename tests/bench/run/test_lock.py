"""One process at a time in a run's folder."""

from __future__ import annotations

import os
import platform
import re
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from alignprune.bench.files import write_json
from alignprune.bench.run.lock import FolderInUse, locked, refuse_in_use
from alignprune.cli import main
from launch import FORKED


def hold(folder: Path, pipe: Connection) -> None:
    """Be in the folder until told to leave."""
    with locked(folder):
        pipe.send("in")
        pipe.recv()


class Holder:
    """Another process that is in a folder, as a context."""

    def __init__(self, folder: Path) -> None:
        self.pipe, there = FORKED.Pipe()
        self.process = FORKED.Process(target=hold, args=(folder, there))

    def __enter__(self) -> Holder:
        self.process.start()
        assert self.pipe.recv() == "in"
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.is_alive():
            self.pipe.send("leave")
        self.process.join()


def test_the_second_process_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    with Holder(tmp_path) as other:
        who = rf"process {other.process.pid} on {re.escape(platform.node())} since \d{{4}}-\d\d-\d\d \d\d:\d\d"
        for attempt in (lambda: locked(tmp_path).__enter__(), lambda: refuse_in_use(tmp_path)):
            with pytest.raises(FolderInUse, match=rf"is being written by {who}.*expected nobody: wait for it"):
                attempt()
    with locked(tmp_path):  # it has left
        pass


def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path: Path) -> None:
    with Holder(tmp_path) as other:
        os.kill(other.process.pid or 0, signal.SIGKILL)
        other.process.join()
        assert (tmp_path / ".holder").exists()
        with locked(tmp_path):
            pass
    assert not (tmp_path / ".holder").exists()


def test_a_process_holds_a_folder_as_often_as_it_likes(tmp_path: Path) -> None:
    with locked(tmp_path):
        with locked(tmp_path):
            refuse_in_use(tmp_path)
        with pytest.raises(FolderInUse):
            self_as_another(tmp_path)


def self_as_another(folder: Path) -> None:
    """Raise what another process would meet."""
    with FORKED.Pool(1) as pool:
        pool.apply(refuse_in_use, (folder,))


def test_who_waits_gets_the_folder_when_it_is_left(tmp_path: Path) -> None:
    pipe, there = FORKED.Pipe()
    with locked(tmp_path):
        waiting = FORKED.Process(target=wait_for, args=(tmp_path, there))
        waiting.start()
        assert pipe.recv() == "waiting"
        (tmp_path / "made").touch()
    assert pipe.recv() == ["made"]
    waiting.join()


def wait_for(folder: Path, pipe: Connection) -> None:
    pipe.send("waiting")
    with locked(folder, wait=True):
        pipe.send([path.name for path in folder.glob("made")])


def test_half_written_files_of_earlier_holders_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".checkpoint.pt.0a1b2c.partial").write_bytes(b"half of it")
    (tmp_path / "notes.partial").write_text("mine")
    with locked(tmp_path):
        assert {path.name for path in tmp_path.glob("*partial*")} == {"notes.partial"}
        assert {path.name for path in tmp_path.glob(".*partial*")} <= {"notes.partial"}


def test_a_run_that_another_process_trains_is_left_to_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["train", "digits", "--device", "cpu", "--recipe.epochs", "1", "--out", str(tmp_path / "run")]
    (tmp_path / "run").mkdir()
    with Holder(tmp_path / "run") as other:
        assert main(line) == 2
        assert f"is being written by process {other.process.pid} on" in capsys.readouterr().err
        assert not (tmp_path / "run" / "config.json").exists()
    assert main(line) == 0


@pytest.mark.parametrize("content", ["", "{", "[]", '{"process": "x"}', '{"process": -1}'])
def test_a_damaged_note_of_the_holder_stops_nobody(tmp_path: Path, content: str) -> None:
    (tmp_path / ".holder").write_text(content)
    with locked(tmp_path):
        pass


def test_a_holder_of_another_machine_may_live(tmp_path: Path) -> None:
    write_json(tmp_path / ".holder", {"process": 2**22 + 1, "host": "elsewhere", "since": "2026-01-01"})
    with Holder(tmp_path), pytest.raises(FolderInUse):
        refuse_in_use(tmp_path)

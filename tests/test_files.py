"""Files that are whole or absent, and that say when they have been changed."""

from __future__ import annotations

import errno
import json
import os
import time
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch

from alignprune._files import (
    Kind,
    check_seal,
    read_arrays,
    read_tensors,
    remove_partial_files,
    replace_file,
    write_arrays,
    write_sealed,
    write_tensors,
)
from alignprune.errors import DamagedFile, MissingFile, ValueMistake

KIND = Kind("sample", 3, "make it again")
ARRAYS = {"a": np.arange(300, dtype=np.float32), "b": np.array("text")}
STATE = {"weights": torch.linspace(0, 1, 500), "epoch": 4, "inner": [None, 1.5, "x"]}


def json_file(path: Path) -> None:
    text = json.dumps({"value": list(range(50)), "seal": KIND.blank}).encode()
    write_sealed(path, KIND, lambda file: file.write(text))


WRITERS = {
    "arrays": lambda path: write_arrays(path, KIND, ARRAYS, compressed=False),
    "compressed": lambda path: write_arrays(path, KIND, ARRAYS, compressed=True),
    "tensors": lambda path: write_tensors(path, KIND, STATE),
    "json": json_file,
}


@pytest.fixture(params=WRITERS)
def sealed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "file"
    WRITERS[request.param](path)
    return path


def test_the_seal_is_the_digest_of_the_file_with_its_digits_as_zeros(sealed: Path) -> None:
    import hashlib

    content = sealed.read_bytes()
    start = content.rindex(b"alignprune sample 3 sha256 ") + len(b"alignprune sample 3 sha256 ")
    blank = content[:start] + b"0" * 64 + content[start + 64 :]
    assert content[start : start + 64].decode() == hashlib.sha256(blank).hexdigest()
    check_seal(sealed, KIND)


def test_other_programs_read_what_is_sealed(tmp_path: Path) -> None:
    for name in ("arrays", "compressed"):
        WRITERS[name](tmp_path / name)
        with np.load(tmp_path / name) as found:
            assert {key: found[key].tolist() for key in found} == {key: ARRAYS[key].tolist() for key in ARRAYS}
        assert zipfile.ZipFile(tmp_path / name).testzip() is None
    WRITERS["tensors"](tmp_path / "tensors")
    for mapped in (False, True):
        found = torch.load(tmp_path / "tensors", weights_only=True, mmap=mapped)
        assert torch.equal(found["weights"], STATE["weights"])
    json_file(tmp_path / "json")
    assert json.loads((tmp_path / "json").read_text())["value"] == list(range(50))


def test_what_was_written_is_read(tmp_path: Path) -> None:
    WRITERS["arrays"](tmp_path / "a.npz")
    found = read_arrays(tmp_path / "a.npz", KIND, needed=("a", "b"))
    assert all(np.array_equal(found[name], ARRAYS[name]) for name in ARRAYS)
    with pytest.raises(ValueMistake, match=r"a.npz' is without the array .c. .*, expected a sample file"):
        read_arrays(tmp_path / "a.npz", KIND, needed=("c",))
    WRITERS["tensors"](tmp_path / "t.pt")
    state = read_tensors(tmp_path / "t.pt", KIND)
    assert torch.equal(state["weights"], STATE["weights"])
    assert state["inner"] == STATE["inner"]


def test_every_flipped_bit_is_found(sealed: Path) -> None:
    content = sealed.read_bytes()
    places = np.random.default_rng(0).choice(8 * len(content), 400, replace=False).tolist()
    for place in [*range(0, 64), *range(8 * len(content) - 8 * 100, 8 * len(content)), *places]:
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        sealed.write_bytes(changed)
        with pytest.raises((DamagedFile, ValueMistake), match="file'"):
            check_seal(sealed, KIND)


def test_every_part_of_a_file_is_found(sealed: Path) -> None:
    content = sealed.read_bytes()
    for length in sorted({0, 1, 22, 64, len(content) // 2, *range(len(content) - 150, len(content))}):
        sealed.write_bytes(content[:length])
        with pytest.raises(DamagedFile, match="is damaged"):
            check_seal(sealed, KIND)
    sealed.write_bytes(content + b"more")
    with pytest.raises(DamagedFile, match="is damaged"):
        check_seal(sealed, KIND)


def test_what_is_no_such_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=r"none' is not there, expected a sample file: make it again"):
        check_seal(tmp_path / "none", KIND)
    with pytest.raises(DamagedFile, match=r"' is a folder, expected a sample file: make it again"):
        check_seal(tmp_path, KIND)
    (tmp_path / "empty").touch()
    with pytest.raises(DamagedFile, match=r"empty' is damaged \(it is empty\), expected a sample file: make it again"):
        check_seal(tmp_path / "empty", KIND)
    np.savez(tmp_path / "foreign.npz", a=np.zeros(3))
    with pytest.raises(DamagedFile, match=r"foreign.npz' is damaged \(its seal is missing\)"):
        read_arrays(tmp_path / "foreign.npz", KIND)


def test_another_kind_or_version_is_told_apart_from_damage(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.npz", Kind("sample", 2, ""), ARRAYS, compressed=False)
    with pytest.raises(
        ValueMistake, match="holds 'sample' in version 2, expected 'sample' in version 3: use the version of alignprune"
    ):
        read_arrays(tmp_path / "a.npz", KIND)
    write_arrays(tmp_path / "b.npz", Kind("other", 3, ""), ARRAYS, compressed=False)
    with pytest.raises(
        ValueMistake, match="holds 'other' in version 3, expected 'sample' in version 3: check the path"
    ):
        read_arrays(tmp_path / "b.npz", KIND)


class Full(Exception):
    """Stands for any error that a library makes of the system's."""


@pytest.mark.parametrize("library", [None, Full, RuntimeError])
def test_a_full_disk_is_reported_with_the_name_and_the_old_file_stays(tmp_path: Path, library: Any) -> None:
    path = tmp_path / "kept"
    path.write_bytes(b"old")

    def write(file: IO[bytes]) -> None:
        file.write(b"half of it")
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            if library is None:
                raise
            raise library("unexpected pos 46 vs 0") from error

    with pytest.raises(OSError, match="No space left on device.*kept'"):
        replace_file(path, write)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["kept"]


def test_a_full_disk_under_torch_is_reported_as_what_it_is(tmp_path: Path) -> None:
    class Disk:
        """A file on a disk with little room."""

        def __init__(self, file: IO[bytes]) -> None:
            self.file, self.room = file, 1000

        def write(self, content: bytes) -> int:
            self.room -= len(content)
            if self.room < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.file.write(content)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    for save in (lambda file: torch.save(STATE, file), lambda file: np.savez(file, **ARRAYS)):
        with pytest.raises(OSError, match="No space left on device.*kept'"):
            replace_file(tmp_path / "kept", lambda file, save=save: save(Disk(file)))
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_writer_is_its_own(tmp_path: Path) -> None:
    def write(file: IO[bytes]) -> None:
        raise ZeroDivisionError("no number")

    with pytest.raises(ZeroDivisionError):
        replace_file(tmp_path / "kept", write)
    assert not list(tmp_path.iterdir())


def test_what_the_caller_was_handling_is_not_taken_for_the_disks_error(tmp_path: Path) -> None:
    def write(file: IO[bytes]) -> None:
        raise ZeroDivisionError("no number")

    try:
        (tmp_path / "nowhere").read_bytes()
    except OSError:
        with pytest.raises(ZeroDivisionError):
            replace_file(tmp_path / "kept", write)


def test_what_a_dead_process_left_is_removed_and_what_is_being_written_stays(tmp_path: Path) -> None:
    names = [".kept.0a1b2c.partial", ".other.0a1b2c.partial"]
    for name in names:
        (tmp_path / name).write_bytes(b"half of it")

    def write(file: IO[bytes]) -> None:
        replace_file(tmp_path / "kept", lambda other: other.write(b"of another, meanwhile"))
        remove_partial_files(tmp_path, "kept")
        file.write(b"new")

    replace_file(tmp_path / "kept", write)
    assert sorted(path.name for path in tmp_path.iterdir()) == [names[1], "kept"]
    assert (tmp_path / "kept").read_bytes() == b"new"
    remove_partial_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_file_that_is_taken_for_left_before_it_has_its_lock_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl, tries = pytest.importorskip("fcntl", reason="no such locks on Windows"), []

    def late(file: IO[bytes], how: int) -> None:
        tries.append(file.name)
        if len(tries) == 1:
            Path(file.name).unlink()

    monkeypatch.setattr(fcntl, "flock", late)
    replace_file(tmp_path / "kept", lambda file: file.write(b"new"))
    assert len(tries) == 2
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"new"]


def test_a_whole_file_is_not_taken_for_left_before_it_is_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def late(source: Path, target: Path) -> None:
        remove_partial_files(tmp_path)
        replace(source, target)

    monkeypatch.setattr(os, "replace", late)
    replace_file(tmp_path / "kept", lambda file: file.write(b"new"))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"new"]


def test_without_locks_a_partial_file_is_left_alone_for_an_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alignprune._files.fcntl", None)
    names = [".kept.0a1b2c.partial", ".kept.3d4e5f.partial"]
    for name in names:
        (tmp_path / name).write_bytes(b"half of it")
    long_ago = time.time() - 7200
    os.utime(tmp_path / names[0], (long_ago, long_ago))
    replace_file(tmp_path / "kept", lambda file: file.write(b"new"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [names[1], "kept"]


def test_names_with_signs_of_patterns(tmp_path: Path) -> None:
    (tmp_path / ".kept [1]*.0a.partial").touch()
    (tmp_path / ".kept 1x.0a.partial").touch()
    remove_partial_files(tmp_path, "kept [1]*")
    assert [path.name for path in tmp_path.iterdir()] == [".kept 1x.0a.partial"]

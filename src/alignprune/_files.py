"""Files that are whole or absent, and that know when they have been changed.

A file is written under another name and put in its place at once: readers see the old one or the new one, never a
part. A sealed file holds a line of text, its seal,

    alignprune <kind> <version> sha256 <64 hexadecimal digits>

with the SHA-256 of the file itself, in which the digits count as zeros. The seal stands where the format has room for
it: the comment of a zip archive (.npz, .pt), the metadata of a Parquet or safetensors file, a field of a JSON object.
Other programs read such files as ever; here a file is read only after its seal.

Torch is imported by what reads or writes tensors, so that a look at other files does not wait for it.
"""

from __future__ import annotations

import glob
import hashlib
import mmap
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alignprune.errors import DamagedFile, MissingFile, ValueMistake

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_BLANK = b"0" * 64
_SEAL = re.compile(rb"alignprune ([a-z]+) (\d+) sha256 ([0-9a-f]{64})")
_PARTIAL = ".partial"
_LONGEST = 160  # bytes of a seal, at most
_FORGOTTEN = 3600.0  # seconds without a change after which, where there are no locks, nobody writes a partial file


@dataclass(frozen=True)
class Kind:
    """What a sealed file is.

    Attributes:
        name: a word of small letters, such as "checkpoint".
        version: of its format; raised when older files cannot be read as they were meant.
        remedy: what a user does about a file that is damaged.
    """

    name: str
    version: int
    remedy: str

    @property
    def noun(self) -> str:
        """What a message calls such a file."""
        return f"{'an' if self.name[0] in 'aeiou' else 'a'} {self.name} file"

    @property
    def blank(self) -> str:
        """The seal of a file that is not closed yet, to be written into it where its format has room."""
        return f"alignprune {self.name} {self.version} sha256 {_BLANK.decode()}"


# -- whole or absent ---------------------------------------------------------------------------------------


def replace_file(path: str | os.PathLike[str], write: Callable[[IO[bytes]], object]) -> None:
    """Let ``write`` fill a new file, then put it in the place of the one at ``path``; its folder must exist.

    Raises:
        OSError: with the name of the file, if it cannot be written; what was there is left.
    """
    target, handled = Path(path), sys.exc_info()[1]
    remove_partial_files(target.parent, target.name)
    # In the same folder, because os.replace is atomic only inside one file system.
    partial = target.with_name(f".{target.name}.{secrets.token_hex(6)}{_PARTIAL}")
    try:
        with _new(partial) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            if fcntl is None:
                file.close()  # Windows renames no open file
            os.replace(partial, target)  # under the lock, or somebody might take it for left at the last moment
    except Exception as error:
        found = _system_error(error, handled)
        if found is None:
            raise
        raise OSError(found.errno, found.strerror, str(target)) from error
    finally:
        partial.unlink(missing_ok=True)


def remove_partial_files(folder: Path, name: str = "*") -> None:
    """Remove what a process has left that died while it wrote a file of that name; what is being written stays.

    Args:
        folder: where to look; need not exist.
        name: of the file; "*" for every one.
    """
    pattern = f".{name if name == '*' else glob.escape(name)}.*{_PARTIAL}"
    for partial in folder.glob(pattern):
        with suppress(OSError):  # removed by another process meanwhile, or another user's
            _remove_if_left(partial)


def _new(partial: Path) -> IO[bytes]:
    """A new file whose lock says that it is being written, for as long as this process lives and has it open."""
    while True:
        file = open(partial, "x+b")  # noqa: SIM115  # the caller closes it
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
        if partial.exists():
            return file
        file.close()  # somebody took it for left before it had its lock


def _remove_if_left(partial: Path) -> None:
    """Remove a file that nobody writes any more."""
    if fcntl is None:
        if _is_forgotten(partial):
            partial.unlink()
        return
    with open(partial, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        except OSError:  # a file system without locks
            if not _is_forgotten(partial):
                return
        partial.unlink()  # under the lock, so that who has just made it sees that it is gone


def _is_forgotten(partial: Path) -> bool:
    return time.time() - partial.stat().st_mtime >= _FORGOTTEN


def _system_error(error: BaseException, handled: BaseException | None) -> OSError | None:
    """What the system said, behind what torch or zipfile make of it.

    Args:
        error: of the writer.
        handled: what the caller was handling before it wrote, which is behind the error too and has no part in it.
    """
    found: BaseException | None = error
    while found is not None and found is not handled:
        if isinstance(found, OSError) and found.errno is not None:
            return found
        found = found.__cause__ or found.__context__
    return None


# -- sealed ------------------------------------------------------------------------------------------------


def write_sealed(path: Path, kind: Kind, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file whose content holds ``kind.blank``, once, and fill the digits in."""

    def sealed(file: IO[bytes]) -> None:
        write(file)
        _fill_in(file, kind)

    replace_file(path, sealed)


def write_arrays(path: str | os.PathLike[str], kind: Kind, arrays: Mapping[str, Any], *, compressed: bool) -> None:
    """Write a sealed .npz file.

    Args:
        path: file to write; its folder must exist.
        kind: of the file.
        arrays: by name; what numpy makes an array of, without Python objects.
        compressed: whether to spend time on a smaller file.
    """
    save: Any = np.savez_compressed if compressed else np.savez  # their stubs take every name for their own options

    def write(file: IO[bytes]) -> None:
        save(file, **arrays)
        _comment(file, kind.blank)

    write_sealed(Path(path), kind, write)


def write_tensors(path: Path, kind: Kind, value: Any) -> None:
    """Write a sealed file of tensors and plain values, by torch.save."""
    import torch

    def write(file: IO[bytes]) -> None:
        torch.save(value, file)
        _comment(file, kind.blank)

    write_sealed(path, kind, write)


def read_arrays(path: str | os.PathLike[str], kind: Kind, needed: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
    """The arrays of a sealed .npz file, by name.

    Args:
        path: file that `write_arrays` wrote.
        kind: that it has to be of.
        needed: names that have to be there.

    Raises:
        MissingFile, DamagedFile, ValueMistake: as `check_seal`; ValueMistake where a name is missing.
    """
    file = Path(path)
    check_seal(file, kind)
    try:
        with np.load(file, allow_pickle=False) as stored:
            found = dict(stored)
    except Exception as error:  # numpy raises BadZipFile, EOFError, ValueError, zlib.error, ...
        raise _unreadable(file, kind, error) from error
    for name in needed:
        if name not in found:
            raise ValueMistake(
                f"path={str(file)!r} is without the array {name!r} (it holds {', '.join(found)}), expected "
                f"{kind.noun} with {', '.join(needed)}: {kind.remedy}"
            )
    return found


def read_tensors(path: Path, kind: Kind) -> Any:
    """What `write_tensors` wrote, tensors on the CPU.

    Raises:
        MissingFile, DamagedFile, ValueMistake: as `check_seal`.
    """
    import torch

    check_seal(path, kind)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, ...
        raise _unreadable(path, kind, error) from error


def check_seal(path: Path, kind: Kind) -> None:
    """Refuse a file that is not, bit for bit, what was written as one of that kind.

    Raises:
        MissingFile: if there is none.
        DamagedFile: if it is no file, has no seal, or is not what its seal says.
        ValueMistake: if it is a sound file of another kind or version.
    """
    if not path.exists():
        raise MissingFile(f"path={str(path)!r} is not there, expected {kind.noun}: {kind.remedy}")
    if not path.is_file():
        raise DamagedFile(f"path={str(path)!r} is a folder, expected {kind.noun}: {kind.remedy}")
    with open(path, "rb") as file:
        seal = _seal_of(file)
    if seal is None:
        reason = "it is empty" if not path.stat().st_size else "its seal is missing"
        raise DamagedFile(f"path={str(path)!r} is damaged ({reason}), expected {kind.noun}: {kind.remedy}")
    if seal.digest != seal.actual:
        raise DamagedFile(
            f"path={str(path)!r} is damaged or was changed by hand (SHA-256 {seal.actual[:12]}..., when it was written "
            f"{seal.digest[:12]}...), expected the {kind.name} file as it was: {kind.remedy}"
        )
    if (seal.name, seal.version) != (kind.name, kind.version):
        same = seal.name == kind.name
        raise ValueMistake(
            f"path={str(path)!r} holds {seal.name!r} in version {seal.version}, expected {kind.name!r} in version "
            f"{kind.version}: {'use the version of alignprune that wrote it' if same else 'check the path'}"
        )


def _unreadable(path: Path, kind: Kind, error: Exception) -> DamagedFile:
    reason = str(error).partition("\n")[0]
    return DamagedFile(
        f"path={str(path)!r} cannot be read ({type(error).__name__}: {reason}), expected {kind.noun}: {kind.remedy}"
    )


def _comment(file: IO[bytes], text: str) -> None:
    """Give a zip archive that has just been written, and has no comment, this one."""
    comment = text.encode()
    file.seek(-2, os.SEEK_END)
    assert file.read() == bytes(2), "a zip archive without a comment ends in the length of the comment, 0"
    file.seek(-2, os.SEEK_END)
    file.write(len(comment).to_bytes(2, "little") + comment)


class _Seal(NamedTuple):
    """What a file says of itself, where the digits stand in it, and the digits that it should have."""

    name: str
    version: int
    digest: str
    place: int
    actual: str


def _fill_in(file: IO[bytes], kind: Kind) -> None:
    """Give the digits to a file that holds the blank seal."""
    file.flush()
    seal = _seal_of(file)
    assert seal is not None, f"the writer of a {kind.name} leaves room for its seal"
    file.seek(seal.place)
    file.write(seal.actual.encode())


def _seal_of(file: IO[bytes]) -> _Seal | None:
    """The last seal in a file; None if there is none."""
    if not os.fstat(file.fileno()).st_size:  # what is empty cannot be mapped
        return None
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = max(content.rfind(b"alignprune "), 0)
        found = _SEAL.match(content[start : start + _LONGEST])
        if found is None:
            return None
        place = start + found.start(3)
        total = hashlib.sha256()
        with memoryview(content) as view, view[:place] as before, view[place + len(_BLANK) :] as after:
            for part in (before, _BLANK, after):
                total.update(part)
    name, version, digest = (part.decode() for part in found.groups())
    return _Seal(name, int(version), digest, place, total.hexdigest())

"""Points in the life of a process: each time that it is about to change the file system below a folder.

Counted are making a folder, opening a file to write, every write that reaches the operating system, fsync, renaming
and removing. At one of them the process dies as if the power went, or is told that the disk is full. What native code
writes past Python is not seen here: `crashes` says of every file whether a rename has put it in its place.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import resource
import signal
import sys
from dataclasses import dataclass
from typing import IO, Any, Literal

Action = Literal["count", "die", "full", "full once", "size"]

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_NEED_NO_ROOM = ("os.remove", "os.rmdir")


@dataclass(frozen=True)
class Point:
    """One point, and what happens there.

    Attributes:
        folder: below which changes are counted.
        diary: file, elsewhere, that gets a line a change: its kind, and the paths.
        number: of the change, from 1; for "size" the bytes.
        action: "die" ends the process before the change, in the middle of it for a write; "full" lets this and every
            later change fail that needs room on the disk, "full once" this one alone; "size" has the operating system
            let no file grow past so many bytes.
    """

    folder: str
    diary: str
    number: int = 0
    action: Action = "count"


def arm(point: Point) -> None:
    """Count the changes that this process makes from now on, and let it meet the point. For a child: there is no way
    back."""
    if point.action == "size":
        resource.setrlimit(resource.RLIMIT_FSIZE, (point.number, point.number))  # Python ignores the signal
        return
    watch = _Watch(point)
    sys.addaudithook(watch.hear)
    builtins.open = io.open = watch.open  # type: ignore[assignment]  # for what no audit event tells: the writes
    os.fsync = watch.fsync


class _Watch:
    def __init__(self, point: Point) -> None:
        self.point, self.count, self.is_full = point, 0, False
        self.diary = os.open(point.diary, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.files: dict[int, str] = {}
        self._open, self._fsync = open, os.fsync

    def hear(self, event: str, given: tuple[Any, ...]) -> None:
        """What Python is about to do, by an audit event."""
        if event == "open":
            path, _, flags = given
            if flags & _WRITING:
                self.change("open", path)
        elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate"):
            self.change(event, given[0])
        elif event in ("os.rename", "os.link", "os.symlink"):
            self.change(event, given[0], given[1])

    def open(self, file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **options: Any) -> IO[Any]:
        """As `open`, over a raw file whose writes are changes."""
        if not self._is_below(file) or set(mode).isdisjoint("wax+") or options.get("opener"):
            return self._open(file, mode, buffering, *rest, **options)
        raw = _Raw(self, os.fspath(file), mode.replace("b", "").replace("t", ""))
        self.files[raw.fileno()] = raw.name
        if not buffering:
            return raw  # type: ignore[return-value]
        buffered = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)  # type: ignore[type-var]
        if "b" in mode:
            return buffered  # type: ignore[return-value]
        return io.TextIOWrapper(buffered, *rest, line_buffering=buffering == 1, **options)

    def fsync(self, file: Any) -> None:
        """As `os.fsync`."""
        number = file if isinstance(file, int) else file.fileno()
        if number in self.files:
            self.change("fsync", self.files[number])
        self._fsync(number)

    def change(self, kind: str, *paths: Any, middle: Any = None) -> None:
        """Count a change; `middle` does the half of it."""
        if not any(self._is_below(path) for path in paths):
            return
        self.count += 1
        names = [os.path.abspath(os.fsdecode(path)) for path in paths]
        os.write(self.diary, ("\t".join([kind, *names]) + "\n").encode())
        here = self.count == self.point.number
        if here and self.point.action == "die":
            if middle is not None:
                middle()
            os.kill(os.getpid(), signal.SIGKILL)
        self.is_full = self.is_full or (here and self.point.action == "full")
        if (self.is_full or (here and self.point.action == "full once")) and kind not in _NEED_NO_ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *_named(kind, names))

    def _is_below(self, path: Any) -> bool:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return False
        return os.path.abspath(os.fsdecode(path)).startswith(self.point.folder + os.sep)


def _named(kind: str, names: list[str]) -> list[Any]:
    """The paths in an error, as the operating system's has them: none where a file is told by its number."""
    if kind in ("write", "fsync"):
        return []
    return names if len(names) == 1 else [names[0], None, names[1]]


class _Raw(io.FileIO):
    """A file each of whose writes is a change."""

    def __init__(self, watch: _Watch, path: str, mode: str) -> None:
        super().__init__(path, mode)
        self._watch = watch

    def write(self, content: Any) -> int:
        half = memoryview(content).cast("B")[: max(1, memoryview(content).nbytes // 2)]
        self._watch.change("write", self.name, middle=lambda: super(_Raw, self).write(half))
        return super().write(content)

    def close(self) -> None:
        if not self.closed:
            self._watch.files.pop(self.fileno(), None)
        super().close()

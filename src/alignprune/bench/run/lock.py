"""One process at a time in a run's folder: what trains, sweeps or writes reports there holds its lock.

.lock   held, by the operating system, as long as the process that holds it lives
.holder who that is, for the others to be told
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from alignprune._files import remove_partial_files
from alignprune.bench.files import write_json
from alignprune.errors import CallMistake

HOLDER = ".holder"
"""Who holds the lock."""

GRACE = 10.0
"""Seconds for what a dead process has forked to see that it is alone: a loader's workers hold the lock, too."""


class FolderInUse(CallMistake):
    """The folder is another process' at the moment."""


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a folder, which is made if absent; a process may hold it several times over.

    What earlier holders have half written is removed.

    Args:
        folder: to be alone in.
        wait: whether to wait for as long as another process is in it.

    Raises:
        FolderInUse: if another process is in it: who, and since when.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = _lock(folder)
    again = lock.is_locked
    _acquire(lock, folder, wait)
    try:
        if not again:
            remove_partial_files(folder)
            write_json(folder / HOLDER, _this_process())
        yield
    finally:
        if not again:
            with suppress(OSError):  # of a folder that was removed, or a disk that has gone: the lock itself goes
                (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def refuse_in_use(folder: Path) -> None:
    """Raise what `locked` would raise, and leave the folder as it is."""
    if (folder / ".lock").exists():
        lock = _lock(folder)
        _acquire(lock, folder, wait=False)
        lock.release()


def is_held(folder: Path) -> bool:
    """Whether a process is in a folder, which is left as it is; who left without a word is not waited for."""
    if not (folder / HOLDER).exists():
        return False
    lock = _lock(folder)
    if lock.is_locked:  # by this process, which could take it again
        return True
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # another user's folder, whose lock cannot be tried
        return not _has_died(folder)
    lock.release()
    return False


def _lock(folder: Path) -> FileLock:
    return FileLock(os.path.abspath(folder / ".lock"), is_singleton=True)


def _acquire(lock: FileLock, folder: Path, wait: bool) -> None:
    try:
        lock.acquire(timeout=-1 if wait else GRACE if _has_died(folder) else 0)
    except Timeout:
        raise FolderInUse(_in_use(folder)) from None


def _in_use(folder: Path) -> str:
    holder = _holder(folder)
    who = (
        f"process {holder.get('process')} on {holder.get('host')} since {holder.get('since')}"
        if holder
        else "another process"
    )
    return (
        f"out={str(folder)!r} is being written by {who}, expected nobody: wait for it, stop it, or choose another "
        f"folder with --out"
    )


def _this_process() -> dict[str, Any]:
    since = datetime.now(timezone.utc).isoformat(sep=" ", timespec="seconds")
    return {"process": os.getpid(), "host": platform.node(), "since": since}


def _holder(folder: Path) -> dict[str, Any]:
    """Who holds the lock; empty where that is not known."""
    try:
        found = json.loads((folder / HOLDER).read_bytes())
    except (OSError, ValueError):  # it has just come or gone
        return {}
    return found if isinstance(found, dict) else {}


def _has_died(folder: Path) -> bool:
    """Whether the holder was a process of this machine that is no more."""
    holder = _holder(folder)
    process = holder.get("process")
    if os.name != "posix" or holder.get("host") != platform.node() or not isinstance(process, int) or process <= 0:
        return False
    try:
        os.kill(process, 0)  # no signal, only whether one could be sent
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False

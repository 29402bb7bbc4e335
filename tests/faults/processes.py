"""Starts `alignprune` in a process of its own, to be left alone, sent signals, or led to a point where it dies.

From a stem (`stem`), within milliseconds; or as a person starts it, which takes seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import alignprune
from faults.points import Point

PATIENCE = 300.0  # seconds after which a process that takes one is taken to hang, however busy the machine is

COMMAND = "alignprune.cli:main"


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: its exit code, below 0 for a signal.
        out, err: what it printed.
        seconds: that it took.
        hung: whether it had to be killed after `PATIENCE`.
    """

    code: int
    out: str
    err: str
    seconds: float
    hung: bool = False

    @property
    def said(self) -> str:
        """The end of what it printed, for a note."""
        text = (self.err.strip() or self.out.strip()).splitlines()
        return text[-1] if text else "it printed nothing"

    @property
    def cause(self) -> str:
        """The exception at the end of its traceback."""
        lines = self.err.rpartition("Traceback")[2].splitlines()
        return next((line for line in lines[1:] if line and not line.startswith((" ", "error: "))), self.said)


class Running(Protocol):
    """A process that runs.

    Attributes:
        pid: its number.
    """

    pid: int

    def wait(self, seconds: float) -> Ended | None:
        """How it ended; None if it still runs after so many seconds."""

    def signal(self, number: int) -> None:
        """Send it a signal."""


def finished(running: Running) -> Ended:
    """Wait for a process, and kill it when it hangs."""
    ended = running.wait(PATIENCE)
    if ended is not None:
        return ended
    running.signal(signal.SIGKILL)
    ended = running.wait(PATIENCE)
    assert ended is not None, "a killed process goes on"
    return Ended(ended.code, ended.out, ended.err, ended.seconds, hung=True)


def environment() -> dict[str, str]:
    """Of all processes: this package, the tests' modules, and no thread beside the first, which forks."""
    paths = [Path(alignprune.__file__).parents[1], Path(__file__).parents[1], os.environ.get("PYTHONPATH")]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    pool = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
    local = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    return os.environ | threads | pool | local | {"PYTHONPATH": os.pathsep.join(str(path) for path in paths if path)}


class Stem:
    """Forks commands; one runs at a time. To be entered."""

    def __enter__(self) -> Stem:
        self.folder = Path(tempfile.mkdtemp(prefix="stem-"))
        self.count = 0
        self.process = subprocess.Popen(
            [sys.executable, "-m", "faults.stem"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # what `select` does not see may not lie in a buffer
            env=environment(),
        )
        self._answer(PATIENCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        shutil.rmtree(self.folder)

    def start(
        self,
        words: Sequence[str],
        folder: Path,
        *,
        function: str = COMMAND,
        point: Point | None = None,
        variables: dict[str, str] | None = None,
    ) -> Running:
        """Fork a command.

        Args:
            words: its arguments.
            folder: to work in.
            function: "module:name" of what gets the words and returns the exit code.
            point: where something happens to it.
            variables: of its environment, beside the common ones.
        """
        self.count += 1
        out, err = (self.folder / f"{self.count}.{name}" for name in ("out", "err"))
        request = {
            "words": list(words),
            "folder": str(folder),
            "function": function,
            "point": None if point is None else asdict(point),
            "variables": variables or {},
            "out": str(out),
            "err": str(err),
        }
        self._send(json.dumps(request))
        child = self._answer(PATIENCE)
        assert child is not None, "the stem does not answer"
        return _Forked(self, int(child), out, err)

    def run(self, words: Sequence[str], folder: Path, **options: Any) -> Ended:
        """Fork a command, and wait for its end; arguments as of `start`."""
        return finished(self.start(words, folder, **options))

    def _send(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")

    def _answer(self, seconds: float) -> str | None:
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], seconds)
        if not readable:
            return None
        line = self.process.stdout.readline().decode()
        if not line:
            raise RuntimeError(f"the stem has ended with {self.process.wait()}; what it said stands above")
        return line


class _Forked:
    def __init__(self, stem: Stem, pid: int, out: Path, err: Path) -> None:
        self.stem, self.pid, self.out, self.err, self.started = stem, pid, out, err, time.monotonic()

    def wait(self, seconds: float) -> Ended | None:
        answer = self.stem._answer(seconds)
        if answer is None:
            return None
        taken = time.monotonic() - self.started
        said = [file.read_text(errors="replace") if file.exists() else "" for file in (self.out, self.err)]
        for file in (self.out, self.err):
            file.unlink(missing_ok=True)
        return Ended(int(answer), *said, taken)

    def signal(self, number: int) -> None:
        self.stem._send(str(int(number)))


class Plain:
    """A new process, in a group of its own.

    Args:
        words: after the interpreter's name: ``-m alignprune.cli train ...``
        folder: to work in.
        variables: of its environment, beside the common ones.
    """

    def __init__(self, words: Sequence[str], folder: Path, variables: dict[str, str] | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="plain-")
        self._files = [Path(self._folder.name) / name for name in ("out", "err")]
        self.started = time.monotonic()
        with self._files[0].open("w") as out, self._files[1].open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, *words],
                cwd=folder,
                env=environment() | (variables or {}),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self.pid = self.process.pid

    def wait(self, seconds: float) -> Ended | None:
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        taken = time.monotonic() - self.started
        said = [file.read_text(errors="replace") for file in self._files]
        self._folder.cleanup()
        return Ended(code, *said, taken)

    def signal(self, number: int) -> None:
        """Send it to the process alone; what it has started is its to end."""
        self.process.send_signal(number)

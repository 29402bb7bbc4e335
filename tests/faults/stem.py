"""The stem of commands: a process that has imported everything and is forked for each try.

Importing torch takes seconds, a run of a campaign a tenth of one. The stem imports, and runs nothing itself: it has no
thread at a fork, so a child is what a new process is after its imports. Requests come on its standard input, a line of
JSON each; a line that is a number is a signal for the child that runs. Its standard output gets the child's number, and
in the end its exit code.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import sys
import traceback
import warnings
from importlib import import_module
from typing import Any

from faults import points

_IMPORTS = (
    "altair",
    "lightning_fabric.plugins",
    "pandas",
    "pyarrow.parquet",
    "safetensors.torch",
    "sklearn.datasets",
    "alignprune.cli",
    "alignprune.bench.commands",
    "alignprune.bench.label_report",
    "alignprune.bench.results.figures",
    "alignprune.bench.results.one_run",
    "alignprune.bench.results.store",
    "alignprune.bench.results.tables",
    "alignprune.bench.run.cross_validation",
    "alignprune.bench.run.prediction",
    "alignprune.bench.run.training",
)
_THREADS = "/proc/self/task"
_LOOK = 0.002  # seconds between two looks at a child


def main() -> None:
    """Import, then fork for each request until the input ends."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for name in _IMPORTS:
            import_module(name)
    requests, answers = os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    answers.write("ready\n")
    while line := requests.readline():
        request = json.loads(line)
        if isinstance(request, int):  # a signal for one who has just ended
            continue
        if os.path.exists(_THREADS) and len(os.listdir(_THREADS)) > 1:
            raise RuntimeError("the stem has threads, which a child would miss: no fork is sound any more")
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until the child can answer it
        child = os.fork()
        if not child:
            requests.close()
            answers.close()
            _be(request)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        answers.write(f"{child}\n")
        answers.write(f"{_watched(child, requests)}\n")
    _end(0)


def _be(request: dict[str, Any]) -> None:
    """Become the command, and end as it ends."""
    try:
        code = _called(request)
    except KeyboardInterrupt:  # before the command was reached, or after its end
        code = 128 + signal.SIGINT
    except Exception:
        traceback.print_exc()
        code = 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command has ended, and Python would answer from its own clearing
    _end(code)


def _called(request: dict[str, Any]) -> int:
    """Call what the request asks for, in its folder; the exit code."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.setsid()
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), descriptor)
    os.chdir(request["folder"])
    os.environ.update(request["variables"])
    sys.argv = ["alignprune", *request["words"]]
    module, _, name = request["function"].partition(":")
    function = getattr(import_module(module), name)
    if request["point"] is not None:
        points.arm(points.Point(**request["point"]))
    code: int = function(request["words"])
    return code


def _end(code: int) -> None:
    """End without taking the interpreter apart, which costs a child ten times as much as a run."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _watched(child: int, requests: Any) -> int:
    """Hand signals on until the child has ended; its exit code, below 0 for a signal."""
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        readable, _, _ = select.select([requests], [], [], _LOOK)
        if readable:
            os.kill(child, int(requests.readline() or signal.SIGKILL))


if __name__ == "__main__":
    main()

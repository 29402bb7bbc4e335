"""Starts the ranks of a distributed test: every rank is a process that runs the test module as a program.

The module calls `write` at the end of its ``main``, and reads what its ranks wrote through `results`. Its imports take
longer than what it does, so one process imports for all ranks: this file as a program, which then forks them.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from faults.processes import environment

PATIENCE = 600  # seconds after which ranks that take five are taken to hang, however busy the machine is

FORKED = multiprocessing.get_context("forkserver")
"""Of processes that begin with what most of them import first, and with nothing of the tests' own process."""

FORKED.set_forkserver_preload(["torch._dynamo", "sklearn.datasets"])

_THREADS = "/proc/self/task"


def join(folder: Path, rank: int, world: int) -> None:
    """Join the group of the ranks, on gloo."""
    faulthandler.dump_traceback_later(PATIENCE, exit=True)  # a rank that hangs says where
    torch.distributed.init_process_group(
        "gloo", f"file://{folder / 'store'}", timedelta(seconds=PATIENCE), world_size=world, rank=rank
    )


def save(folder: Path, rank: int, world: int, found: dict[str, Any]) -> None:
    """Leave what a rank found for `results`, and wait until all have left theirs."""
    torch.save(found, folder / f"writing{rank}")
    (folder / f"writing{rank}").rename(folder / f"rank{rank}.pt")
    while not all((folder / f"rank{peer}.pt").exists() for peer in range(world)):
        time.sleep(0.01)


def write(folder: Path, rank: int, world: int, found: dict[str, Any]) -> None:
    """Leave what a rank found for `results`, and end its process."""
    # Gloo can wait for ever for a peer that has closed its end first: nobody leaves before everybody has finished, and
    # nobody closes anything.
    save(folder, rank, world, found)
    os._exit(0)


def results(module: str, folders: pytest.TempPathFactory, world: int) -> list[dict[str, Any]]:
    """Run a test module as ``python MODULE FOLDER RANK`` on every rank; what each wrote."""
    folder = folders.mktemp("ranks")
    codes, said = started(module, folder, world)
    if any(codes) and "Timeout (" in said:  # gloo of torch 2.4 was seen to hang once; what hangs twice is our fault
        warnings.warn(f"the ranks hung and were started again:\n{said}", stacklevel=2)
        folder = folders.mktemp("again")
        codes, said = started(module, folder, world)
    assert codes == [0] * world, said
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(world)]


def started(
    module: str, folder: Path, world: int, *words: str, environments: Sequence[Mapping[str, str]] = ()
) -> tuple[list[int], str]:
    """Runs ``python MODULE FOLDER RANK WORDS`` on every rank to its end: what each returned, and what they printed.

    Args:
        module: the program.
        folder: where the ranks meet.
        world: number of ranks.
        words: further words of the program.
        environments: what to add to the environment of each rank.
    """
    own = [dict(environment) for environment in environments or [{}] * world]
    code, said = _head(folder, "fork", module, str(folder), words, own)
    assert code == 0, said
    return json.loads((folder / "codes.json").read_text()), said


def torchrun(module: str, folder: Path, world: int, *words: str, restarts: int = 0) -> tuple[int, str]:
    """Runs ``torchrun MODULE FOLDER WORDS`` to its end: what it returned, and what it and the ranks printed."""
    return _head(folder, "torchrun", module, str(folder), words, world, restarts)


# -- the process that imports for the ranks ------------------------------------------------------------------


def _head(folder: Path, *request: Any) -> tuple[int, str]:
    """Runs this file to its end, and ends what it has left behind: what it returned, and what was printed."""
    with (folder / "log").open("w+") as log:
        head = subprocess.Popen(
            [sys.executable, __file__, json.dumps(request)],
            env=environment(),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = head.wait(timeout=PATIENCE + 60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(head.pid, signal.SIGKILL)
            head.wait()
        log.seek(0)
        return code, log.read()


def _import(module: str) -> None:
    """Import what a module imports, and what the first optimizer of each rank would."""
    runpy.run_path(module, run_name="imports")
    importlib.import_module("torch._dynamo")
    if os.path.exists(_THREADS):
        assert len(os.listdir(_THREADS)) == 1, "the process has threads, which a rank would miss: no fork is sound"


def _be(module: str, *words: str) -> None:
    """Run a module as a program."""
    sys.argv = [module, *words]
    runpy.run_path(module, run_name="__main__")


def _fork(module: str, folder: str, words: list[str], environments: list[dict[str, str]]) -> None:
    """Fork ranks and wait for them; their exit codes are written to the folder."""
    ranks = []
    for rank, own in enumerate(environments):
        ranks.append(os.fork())
        if not ranks[-1]:
            os.environ.update(own)
            return _be(module, folder, str(rank), *words)
    codes = [os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks]
    Path(folder, "codes.json").write_text(json.dumps(codes))


def _torchrun(module: str, folder: str, words: list[str], world: int, restarts: int) -> None:
    """What ``torchrun --standalone`` does, with ranks that are forked."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    where = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": "ranks", "start_method": "fork"}
    elastic_launch(LaunchConfig(1, 1, world, max_restarts=restarts, **where), _rank)(module, folder, *words)


def _rank(module: str, *words: str) -> None:
    """A rank of torchrun, which waits for the answer of each that has ended well."""
    try:
        _be(module, *words)
    except SystemExit as end:
        if end.code:
            raise


if __name__ == "__main__":
    kind, program, *request = json.loads(sys.argv[1])
    _import(program)
    {"fork": _fork, "torchrun": _torchrun}[kind](program, *request)

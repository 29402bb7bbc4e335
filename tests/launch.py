"""Starts the ranks of a distributed test: every rank is a process that runs the test module as a program.

The module calls `write` at the end of its ``main``, and reads what its ranks wrote through `results`.
"""

from __future__ import annotations

import faulthandler
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

import alignprune as ap

PATIENCE = 600  # seconds after which ranks that take five are taken to hang, however busy the machine is


def join(folder: Path, rank: int, world: int) -> None:
    """Join the group of the ranks, on gloo."""
    faulthandler.dump_traceback_later(PATIENCE, exit=True)  # a rank that hangs says where
    torch.distributed.init_process_group(
        "gloo", f"file://{folder / 'store'}", timedelta(seconds=PATIENCE), world_size=world, rank=rank
    )


def write(folder: Path, rank: int, world: int, found: dict[str, Any]) -> None:
    """Leave what a rank found for `results`, and end its process."""
    torch.save(found, folder / f"writing{rank}")
    (folder / f"writing{rank}").rename(folder / f"rank{rank}.pt")
    # Gloo can wait for ever for a peer that has closed its end first: nobody leaves before everybody has finished, and
    # nobody closes anything.
    while not all((folder / f"rank{peer}.pt").exists() for peer in range(world)):
        time.sleep(0.01)
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
    with (folder / "log").open("w+") as log:
        processes = [
            subprocess.Popen(
                [sys.executable, module, str(folder), str(rank), *words],
                env=_environment() | dict(environments[rank] if environments else {}),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            for rank in range(world)
        ]
        try:
            codes = [process.wait(timeout=PATIENCE + 60) for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        log.seek(0)
        return codes, log.read()


def torchrun(module: str, folder: Path, world: int, *words: str, restarts: int = 0) -> tuple[int, str]:
    """Runs ``torchrun MODULE FOLDER WORDS`` to its end: what it returned, and what it and the ranks printed."""
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    done = subprocess.run(
        [*run, f"--max-restarts={restarts}", module, str(folder), *words],
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE + 60,
    )
    return done.returncode, done.stdout


def _environment() -> dict[str, str]:
    paths = [
        str(Path(ap.__file__).parents[1]),
        str(Path(__file__).parent),
        *filter(None, [os.environ.get("PYTHONPATH")]),
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    if sys.platform == "linux":
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return environment

"""Processes of their own: what needs much memory, or several ranks, is measured where nothing else is.

They are forked from a server that has imported the library and done nothing else, so that each starts clean and soon.
Linux says in /proc what a process holds.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch

Value = TypeVar("Value")

_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(["alignprune.pruner", "torch._dynamo"])  # the second is what the first step imports

_EVERY = 0.005  # seconds between two looks at the memory


def alone(function: Callable[..., Value], *arguments: Any) -> Value:
    """What a function returns in a process of its own."""
    with ProcessPoolExecutor(1, _FORKED) as pool:
        return pool.submit(function, *arguments).result()


def ranked(world: int, function: Callable[..., Value], *arguments: Any) -> list[Value]:
    """What a function returns on each of several ranks, one thread each, on gloo."""
    with TemporaryDirectory() as folder, ProcessPoolExecutor(world, _FORKED) as pool:
        ranks = [pool.submit(_as_rank, folder, rank, world, function, arguments) for rank in range(world)]
        return [rank.result() for rank in ranks]


def _as_rank(folder: str, rank: int, world: int, function: Callable[..., Value], arguments: tuple[Any, ...]) -> Value:
    torch.set_num_threads(1)
    store, patience = f"file://{folder}/store", timedelta(minutes=10)
    torch.distributed.init_process_group("gloo", store, patience, world_size=world, rank=rank)
    found = function(*arguments)
    torch.distributed.barrier()  # nobody closes its end while another waits for it
    torch.distributed.destroy_process_group()
    return found


def held(name: str) -> int:
    """Bytes that this process holds: "VmRSS" now, "VmHWM" at most so far, "RssAnon" of now without mapped files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {name}: this is measured on Linux")


class AnonymousPeak:
    """Looks again and again at what the process holds beside mapped files, for which Linux keeps no maximum.

    Attributes:
        bytes: the most that was held inside of the block, less what was held before it.
        looks: how often it has looked; what is let go between two looks is not seen.
    """

    def __enter__(self) -> AnonymousPeak:
        self._before, self.bytes, self.looks, self._ended = held("RssAnon"), 0, 0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._ended.wait(_EVERY):
            self.bytes = max(self.bytes, held("RssAnon") - self._before)
            self.looks += 1

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

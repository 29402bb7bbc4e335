"""What a bank in a file costs, as ratios to a sequential read of the file, and what the process holds of it.

    python benchmarks/on_disk.py --folder /path/on/the/disk

The file is pushed out of the system's cache before each cold turn, which Linux alone can be asked for.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch

import alignprune as ap

WINDOW, TURNS = 25, 3


def seconds(work: Callable[[], object]) -> float:
    """How long a piece of work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def push_out(path: Path) -> None:
    """Write what is not written yet, and let the system's cache forget the file."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(path: Path) -> None:
    """Read the file from its beginning to its end, a mebibyte at a time."""
    buffer = bytearray(1 << 20)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def peak() -> float:
    """The most memory that this process has held, in MB; Linux counts in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main() -> None:
    """Fill a bank, score it cold and warm, print what that took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=20_000_000)
    parser.add_argument("--precision", choices=["float32", "bfloat16", "float16"], default="float16")
    parser.add_argument("--folder", type=Path, help="on the disk to measure (default: that of temporary files)")
    options = parser.parse_args()
    size = options.samples
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path, source = Path(folder) / "bank", torch.Generator().manual_seed(0)
        losses = torch.ones(size)
        before = peak()
        bank = ap.TrajectoryBank(size, WINDOW, precision=options.precision, path=path)
        stores = []
        for epoch in range(WINDOW + TURNS):
            losses.uniform_(generator=source)[epoch % 3 :: 3] = torch.nan
            stores.append(seconds(partial(bank.store, epoch, losses)))
        score = ap.scores.Alignment(window=WINDOW)
        history = ap.History(torch.rand(WINDOW + TURNS + 1, generator=source, dtype=torch.float64), (bank,))
        cold: list[tuple[float, float]] = []
        for _ in range(TURNS):
            push_out(path)
            by_itself = seconds(lambda: read(path))
            push_out(path)
            cold.append((seconds(lambda: score(history)), by_itself))
        kept = bank.seen.nbytes + bank.squares.nbytes + bank.squares_low.nbytes + score(history).nbytes
        held = peak() - before - kept / 1e6
        print(f"{size:,} samples, window {WINDOW}, {options.precision}: {path.stat().st_size / 1e9:.1f} GB in the file")
        print(f"store an epoch           {median(stores[WINDOW + 1 :]):8.2f} s")
        print(f"read the file, cold      {median(alone for _, alone in cold):8.2f} s")
        print(f"score, cold              {median(took for took, _ in cold):8.2f} s")
        print(f"score over read          {median(took / alone for took, alone in cold):8.2f}")
        print(f"score, warm              {min(seconds(lambda: score(history)) for _ in range(TURNS)):8.2f} s")
        print(f"memory beside {kept / 1e6:,.0f} MB of tables and scores {held:6.0f} MB")


if __name__ == "__main__":
    main()

"""A run over a stream of many shards, each rank owning those that it reads: its memory, its time, what it sends.

    python benchmarks/streams.py

Simulated: the ranks are processes of this machine, shards are ranges of ids that pass the stream filter, and losses
are drawn instead of computed. Prints, by epoch, what the slowest rank took and what the largest one held.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as processes

import alignprune as ap

BATCH = 65_536


def resident() -> float:
    """The most memory that this process has held, in GiB."""
    with open("/proc/self/status") as status:
        peak = next(line for line in status if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 2**20


def losses_of(samples: np.ndarray[Any, Any], epoch: int) -> torch.Tensor:
    """Losses that fall at every sample's own pace, a function of the sample and the epoch alone."""
    draws = ap.Draws(0, 0)
    pace, noise = draws.uniform("pace", samples), ap.Draws(0, epoch).uniform("noise", samples)
    return torch.from_numpy(4.6 * np.exp(-pace * epoch / 3) + 0.3 * noise)


def counting_bytes() -> list[int]:
    """A list that every collective of this process adds its bytes to, from here on."""
    sent: list[int] = []

    def counted(name: str) -> None:
        call = getattr(dist, name)

        def counting(first: Any, *rest: Any, **settings: Any) -> Any:
            tensor = rest[0] if isinstance(first, list) else first
            sent.append(tensor.nbytes if isinstance(tensor, torch.Tensor) else 0)
            return call(first, *rest, **settings)

        setattr(dist, name, counting)

    for name in ("all_reduce", "all_gather", "all_gather_object"):
        counted(name)
    return sent


def run(rank: int, world: int, options: argparse.Namespace, folder: str) -> None:
    """One rank: reads its shards, an epoch after the other."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", world_size=world, rank=rank)
    edges = np.linspace(0, options.samples, options.shards + 1).astype(int).tolist()
    shards = list(itertools.pairwise(edges))
    ranges = [shards[own::world] for own in range(world)]
    settings = {"window": options.window} if "das" in options.method else {}
    started = time.perf_counter()
    pruner = ap.Pruner.from_preset(
        options.method, num_samples=options.samples, epochs=options.epochs, ownership=ranges, delta=1.0, **settings
    )
    stream, sent = pruner.stream, counting_bytes()
    made = time.perf_counter() - started
    out = []
    for epoch in range(options.epochs):
        started = time.perf_counter()
        for start, stop in ranges[rank]:
            ids = np.arange(start, stop)
            chosen = torch.from_numpy(ids[stream.of(ids)])
            for index in chosen.split(BATCH):
                pruner.reduce(index, losses_of(index.numpy(), epoch))
        read, before = time.perf_counter() - started, len(sent)
        selected = pruner.metrics()["selected"]
        started = time.perf_counter()
        pruner.end_epoch(4.6 * 0.9**epoch if pruner.needs_reference else None)
        ended = time.perf_counter() - started
        out.append((selected, read, ended, resident(), len(sent) - before, sum(sent[before:]) / 1e6))
    Path(folder, f"{rank}.json").write_text(json.dumps([made, out]))
    dist.barrier()


def main() -> None:
    """Start the ranks and print what they found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=100_000_000)
    parser.add_argument("--shards", type=int, default=1_000)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--method", default="infobatch")
    parser.add_argument("--window", type=int, default=3, help="of a method that aligns")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        processes.spawn(run, (options.ranks, options, folder), nprocs=options.ranks)
        found = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(options.ranks)]
    print(
        f"{options.samples:,} samples in {options.shards:,} shards, {options.ranks} ranks on {os.cpu_count()} cores, "
        f"{options.method}; made in {max(made for made, _ in found):.1f} s"
    )
    print(f"{'epoch':>5}{'selected':>14}{'read s':>9}{'end_epoch s':>13}{'GiB a rank':>12}{'calls':>7}{'MB sent':>9}")
    for epoch, ranks in enumerate(zip(*(epochs for _, epochs in found), strict=True)):
        selected, read, ended, held, calls, sent = (max(values) for values in zip(*ranks, strict=True))
        print(f"{epoch:>5}{selected:>14,}{read:>9.1f}{ended:>13.2f}{held:>12.2f}{calls:>7}{sent:>9.2f}")


if __name__ == "__main__":
    main()

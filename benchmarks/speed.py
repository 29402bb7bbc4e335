"""What pruning costs, as ratios to a simple operation on the same data in the same run.

    make bench

Absolute times depend on the machine and its mood; a ratio of two operations that take turns does not. Prints goal and
figure of every line and exits with 1 where a goal is missed. ImageNet's size, window 25, float32.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

import alignprune as ap

WINDOW = 25
BATCH, CLASSES = 128, 100


def ratio(work: Callable[[], object], unit: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median over turns of the time of ``work`` over that of ``unit``, and the median time of ``work`` in ms."""
    work(), unit()
    ratios, times = [], []
    for _ in range(repeats):
        started = time.perf_counter()
        unit()
        between = time.perf_counter()
        work()
        ended = time.perf_counter()
        ratios.append((ended - between) / (between - started))
        times.append(ended - between)
    return median(ratios), median(times) * 1e3


def losses_of_epoch(epoch: int, pace: Tensor, generator: torch.Generator) -> Tensor:
    """Losses that fall from ln(100) at every sample's own pace, with noise."""
    noise = torch.rand(len(pace), generator=generator)
    return 4.6 * torch.exp(-pace * epoch / 10) + 0.3 * noise


def filled_bank(num_samples: int, missing: float) -> tuple[ap.TrajectoryBank, Tensor]:
    """A full window, a share of it missing, and the reference history."""
    generator = torch.Generator().manual_seed(0)
    pace = torch.rand(num_samples, generator=generator)
    bank = ap.TrajectoryBank(num_samples, WINDOW)
    for epoch in range(WINDOW):
        row = losses_of_epoch(epoch, pace, generator)
        if missing:
            row.masked_fill_(torch.rand(num_samples, generator=generator) < missing, torch.nan)
        bank.store(epoch, row)
    reference = 4.6 * torch.exp(-0.05 * torch.arange(WINDOW + 1, dtype=torch.float64))
    return bank, reference


def alignment(num_samples: int, missing: float, repeats: int) -> tuple[float, float]:
    """One scoring of all samples against one read of the bank."""
    bank, reference = filled_bank(num_samples, missing)
    score, history = ap.scores.Alignment(window=WINDOW), ap.History(reference, (bank,))
    return ratio(lambda: score(history), lambda: bank.rows.sum(0), repeats)


def end_epoch(num_samples: int, method: str, repeats: int) -> tuple[float, float]:
    """A whole `end_epoch` in steady state, gaps and all, against one read of the bank."""
    generator = torch.Generator().manual_seed(0)
    pace = torch.rand(num_samples, generator=generator)
    epochs = WINDOW + repeats + 2
    pruner = ap.Pruner.from_preset(method, num_samples=num_samples, epochs=epochs, delta=1.0)
    bank = pruner.memory(ap.TrajectoryBank)
    ratios, times = [], []
    for epoch in range(epochs):
        indices = pruner.selection.indices
        pruner.reduce(indices, losses_of_epoch(epoch, pace, generator)[indices])
        started = time.perf_counter()
        bank.rows.sum(0)
        between = time.perf_counter()
        pruner.end_epoch(reference_loss=4.6 * 0.95**epoch)
        ended = time.perf_counter()
        if epoch >= WINDOW + 2:
            ratios.append((ended - between) / (between - started))
            times.append(ended - between)
    return median(ratios), median(times) * 1e3


def end_epoch_robust(num_samples: int, repeats: int) -> tuple[float, float]:
    """A whole `end_epoch` of `robust`, with labels and suspects, against a sort of as many numbers."""
    generator = torch.Generator().manual_seed(0)
    wrong = torch.rand(num_samples, generator=generator) < 0.3
    labels = torch.randint(0, 1000, (num_samples,), generator=generator)
    pruner = ap.Pruner.from_preset(
        "robust", num_samples=num_samples, epochs=repeats + 4, labels=labels, noise_rate=0.3, ramp=1
    )
    trained = torch.zeros(num_samples)
    ratios, times = [], []
    for epoch in range(repeats + 4):
        indices = pruner.selection.indices
        level = torch.where(wrong[indices], 7.0, 3.0) * torch.exp(-0.2 * trained[indices])
        pruner.reduce(indices, level + torch.rand(len(indices), generator=generator))
        trained[indices] += 1
        numbers = torch.rand(num_samples, generator=generator)
        started = time.perf_counter()
        numbers.sort()
        between = time.perf_counter()
        pruner.end_epoch()
        ended = time.perf_counter()
        if epoch >= 4:
            ratios.append((ended - between) / (between - started))
            times.append(ended - between)
    return median(ratios), median(times) * 1e3


def sampler(num_samples: int, repeats: int) -> tuple[float, float]:
    """From the start of an epoch to its first index, which draws the order, against one read of a bank."""
    bank, _ = filled_bank(num_samples, 0.0)
    indices, epochs = torch.arange(num_samples), itertools.count()
    reader = ap.EpochSampler(0)

    def first() -> None:
        reader.plan(next(epochs), indices)
        next(iter(reader))

    return ratio(first, lambda: bank.rows.sum(0), repeats)


def weighted(num_samples: int) -> ap.Pruner:
    """A pruner in its second epoch, with weights."""
    pruner = ap.Pruner.from_preset("infobatch", num_samples=num_samples, epochs=3, delta=1.0)
    everything = torch.arange(num_samples)
    pruner.reduce(everything, torch.rand(num_samples))
    pruner.end_epoch()
    return pruner


def reduce(num_samples: int, repeats: int) -> tuple[float, float]:
    """`reduce` of a weighted batch against the cross-entropy that made its losses."""
    pruner = weighted(num_samples)
    logits = torch.randn(BATCH, CLASSES, requires_grad=True)
    labels = torch.randint(0, CLASSES, (BATCH,))
    batches = iter(pruner.selection.indices.split(BATCH))
    losses = F.cross_entropy(logits, labels, reduction="none")

    def steps() -> None:
        for _ in range(100):
            pruner.reduce(next(batches), losses)

    def cross_entropies() -> None:
        for _ in range(100):
            F.cross_entropy(logits, labels, reduction="none")

    found, milliseconds = ratio(steps, cross_entropies, min(repeats, num_samples // (3 * 100 * BATCH)))
    return found, milliseconds / 100


def reduce_in_training(num_samples: int) -> tuple[float, float]:
    """`reduce` of a weighted batch against a whole training step of a ResNet-18 on CIFAR-sized images."""
    from alignprune.bench import models

    pruner, model = weighted(num_samples), models.create("resnet18", CLASSES, (3, 32, 32))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    images, labels = torch.randn(BATCH, 3, 32, 32), torch.randint(0, CLASSES, (BATCH,))
    batches = iter(pruner.selection.indices.split(BATCH))
    losses = F.cross_entropy(model(images), labels, reduction="none")

    def steps() -> None:
        for _ in range(100):
            pruner.reduce(next(batches), losses)

    def training() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    found, milliseconds = ratio(steps, training, 5)
    return found / 100, milliseconds / 100


def memory(num_samples: int) -> float:
    """Bytes of all of the bank's tensors over samples x window x element size."""
    bank = ap.TrajectoryBank(num_samples, WINDOW)
    held = sum(value.nbytes for value in vars(bank).values() if isinstance(value, Tensor))
    return held / (num_samples * WINDOW * bank.rows.element_size())


def main() -> int:
    """Measure everything, print the table, tell by the exit code whether every goal was reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_281_167, help="size of the data set (default: ImageNet-1K)")
    parser.add_argument("--repeats", type=int, default=15, help="turns per line (default: 15)")
    options = parser.parse_args()
    size, repeats = options.samples, options.repeats

    lines: list[tuple[str, str, float, Callable[[], tuple[float, float]]]] = [
        ("DAS, no gaps", "one read of the bank", 2.0, lambda: alignment(size, 0.0, repeats)),
        ("DAS, 30 % of the observations missing", "one read of the bank", 4.0, lambda: alignment(size, 0.3, repeats)),
        ("end_epoch, infobatch+das", "one read of the bank", 10.0, lambda: end_epoch(size, "infobatch+das", repeats)),
        ("end_epoch, seta+das", "one read of the bank", 60.0, lambda: end_epoch(size, "seta+das", repeats)),
        ("end_epoch, robust", "sorting the scores", 10.0, lambda: end_epoch_robust(size, repeats)),
        ("reduce, batch of 128", "cross-entropy forward", 2.0, lambda: reduce(size, repeats)),
        ("reduce, batch of 128", "ResNet-18 training step", 0.005, lambda: reduce_in_training(size)),
        ("first index of an epoch", "one read of the bank", 5.0, lambda: sampler(size, repeats)),
        ("bank memory", "samples x window x 4 bytes", 1.1, lambda: (memory(size), float("nan"))),
    ]
    print(f"{size:,} samples, window {WINDOW}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{'what':<40}{'against':<28}{'goal':>8}{'ratio':>8}{'ms':>10}")
    missed = 0
    for what, against, goal, measure in lines:
        found, milliseconds = measure()
        missed += found > goal
        mark = "" if found <= goal else "  MISSED"
        print(f"{what:<40}{against:<28}{goal:>7g}x{found:>7.3g}x{milliseconds:>10.3f}{mark}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

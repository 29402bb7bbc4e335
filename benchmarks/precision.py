"""What a half precision of the bank does to the alignment score, against float32.

    python benchmarks/precision.py

Prints, for each kind of trajectories, the largest and the root mean square difference of the score, the rank
correlation, and the share of samples that InfoBatch would put on the other side of the mean.
"""

from __future__ import annotations

import math

import torch
from scipy import stats
from torch import Tensor

import alignprune as ap
from alignprune.bench import demo

WINDOW, SAMPLES = 25, 200_000
EPOCHS = torch.arange(WINDOW, dtype=torch.float32).unsqueeze(1)


def falling(source: torch.Generator) -> Tensor:
    """From ln(100) at every sample's own pace, with noise."""
    pace, noise = torch.rand(SAMPLES, generator=source), torch.rand(WINDOW, SAMPLES, generator=source)
    return 4.6 * torch.exp(-pace * EPOCHS / 10) + 0.3 * noise


def late(source: torch.Generator) -> Tensor:
    """From 0.0001 to 5, each around a slow fall of its own, with noise in proportion."""
    level, slope, spread = torch.rand(3, SAMPLES, generator=source)
    noise = torch.randn(WINDOW, SAMPLES, generator=source) * (0.05 + 0.75 * spread)
    return 10 ** (4.7 * level - 4) * torch.exp(noise - 0.04 * slope * EPOCHS)


def standing(source: torch.Generator) -> Tensor:
    """Around ln(100), with a noise of 1 %: hardly a trend to see."""
    slope, noise = torch.rand(SAMPLES, generator=source), torch.randn(WINDOW, SAMPLES, generator=source)
    return 4.6 * (1 - 0.002 * (2 * slope - 1) * EPOCHS + 0.01 * noise)


def digits() -> tuple[Tensor, Tensor]:
    """The last 25 of 60 epochs of a training on digits, 40 % of the labels wrong."""
    data = demo.digits(0)
    pruner = ap.Pruner.from_preset("infobatch+das", num_samples=len(data.train), epochs=60)
    demo.train(data, pruner, 0, lambda: None)
    return pruner.memory(ap.TrajectoryBank).losses, pruner.reference[-WINDOW:]


HALVES: tuple[ap.memory.Precision, ...] = ("bfloat16", "float16")


def scored(losses: Tensor, reference: Tensor, precision: ap.memory.Precision) -> Tensor:
    """The score of a bank that keeps the losses in a precision, of the samples that have one."""
    bank = ap.TrajectoryBank(losses.shape[1], WINDOW, precision=precision)
    for epoch, row in enumerate(losses):
        bank.store(epoch, row)
    before = torch.tensor([math.nan], dtype=torch.float64)
    score = ap.scores.Alignment(window=WINDOW)(ap.History(torch.cat([before, reference]), (bank,)))
    return score[~score.isnan()].double()


def main() -> None:
    """Print the table."""
    source = torch.Generator().manual_seed(0)
    smooth = 4.6 * torch.exp(-0.05 * EPOCHS.squeeze().double())
    kinds: dict[str, tuple[Tensor, Tensor]] = {}
    for name, made in (("falling", falling), ("late", late), ("standing", standing)):
        losses = made(source)
        kinds[name] = (losses, smooth)
        missing = torch.rand(losses.shape, generator=source) < 0.3
        kinds[f"{name}, 30 % missing"] = (losses.masked_fill(missing, math.nan), smooth)
    kinds["digits"] = digits()
    print("| trajectories | precision | largest | rms | rank correlation | other side of the mean % |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, (losses, reference) in kinds.items():
        exact = scored(losses, reference, "float32")
        for precision in HALVES:
            score = scored(losses, reference, precision)
            apart = (score - exact).abs()
            crossed = ((score < score.mean()) != (exact < exact.mean())).double().mean()
            print(
                f"| {name} | {precision} | {apart.max():.1e} | {apart.square().mean().sqrt():.1e} | "
                f"{stats.spearmanr(exact, score)[0]:.6f} | {100 * crossed:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

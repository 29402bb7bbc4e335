"""What the end of an epoch costs: scores, choices, memories."""

from __future__ import annotations

from functools import partial

import torch

import alignprune as ap
from lines.formula import Falling, Memorising, falling
from lines.line import Found, Line, Sizes, in_turns


def alignment(missing: float, sizes: Sizes) -> Found:
    """One scoring of all samples, a share of whose losses is missing."""
    bank, generator = ap.TrajectoryBank(sizes.samples, sizes.window), torch.Generator().manual_seed(0)
    everything = torch.arange(sizes.samples)
    for epoch in range(sizes.window):
        row = falling(everything, epoch)
        bank.store(epoch, row.masked_fill_(torch.rand(sizes.samples, generator=generator) < missing, torch.nan))
    reference = 4.6 * torch.exp(-0.05 * torch.arange(sizes.window + 1, dtype=torch.float64))
    score, history = ap.scores.Alignment(window=sizes.window), ap.History(reference, (bank,))
    return in_turns(lambda: score(history), lambda: bank.rows.sum(0), sizes.samples, sizes.repeats)


def aligned(method: str, sizes: Sizes) -> Found:
    """A whole `end_epoch` of a method that compares trajectories, pruned samples missing."""
    training = Falling.begin(method, sizes.samples, sizes.window, sizes.repeats)
    rows = training.pruner.memory(ap.TrajectoryBank).rows
    return in_turns(training.end, lambda: rows.sum(0), sizes.samples, sizes.repeats, training.read)


def robust(sizes: Sizes) -> Found:
    """A whole `end_epoch` of `robust`."""
    training = Memorising.begin(sizes.samples, sizes.repeats)
    scores = torch.rand(sizes.samples)
    return in_turns(training.end, scores.sort, sizes.samples, sizes.repeats, training.read)


def robust_against_aligned(sizes: Sizes) -> Found:
    """`end_epoch` of `robust` against that of `infobatch+das`, on a small data set."""
    work = Memorising.begin(sizes.few, sizes.repeats)
    unit = Falling.begin("infobatch+das", sizes.few, sizes.window, sizes.repeats)

    def read() -> None:
        work.read()
        unit.read()

    return in_turns(work.end, unit.end, sizes.few, sizes.repeats, read)


_READ, _ROBUST = "one read of the bank", "end_epoch, robust: labels, suspects, estimated rate"
LINES = (
    Line("DAS, no gaps", _READ, 1.5, partial(alignment, 0.0)),
    Line("DAS, 30 % of the losses missing", _READ, 3.0, partial(alignment, 0.3)),
    Line("end_epoch, infobatch+das", _READ, 6.0, partial(aligned, "infobatch+das")),
    Line("end_epoch, seta+das", _READ, 12.0, partial(aligned, "seta+das")),
    Line(_ROBUST, "a sort of as many scores", 1.5, robust),
    Line(_ROBUST, "end_epoch, infobatch+das", 2.0, robust_against_aligned),
)

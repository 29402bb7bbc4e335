"""What a campaign reports: one row of the table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """What came of one kind of fault.

    Attributes:
        fault: what was done.
        tried: how often.
        survived: how often nothing was lost.
        lost: how often a run could not go on or ended otherwise, a file stayed behind, something hung, said less than
            it should, or was wrong in silence.
        notes: a line for each loss: what was done, and what is wrong then.
    """

    fault: str
    tried: int
    survived: int
    lost: int
    notes: tuple[str, ...] = ()


def of(fault: str, tries: Iterable[tuple[int, Sequence[str]]]) -> Outcome:
    """Count tries.

    Args:
        fault: what was done.
        tries: of each, how many faults it held, and what is wrong after them.
    """
    tried = lost = 0
    notes: list[str] = []
    for faults, losses in tries:
        tried += faults
        lost += faults if losses else 0
        notes += losses
    return Outcome(fault, tried, tried - lost, lost, tuple(notes))


def table(outcomes: Sequence[Outcome]) -> str:
    """The rows as a Markdown table, and their sum."""
    total = Outcome("all", *(sum(getattr(row, name) for row in outcomes) for name in ("tried", "survived", "lost")))
    cells = [[row.fault, *(f"{number:,}" for number in (row.tried, row.survived, row.lost))] for row in outcomes]
    cells = [
        ["fault", "tried", "survived", "lost"],
        *cells,
        ["all", f"{total.tried:,}", f"{total.survived:,}", f"{total.lost:,}"],
    ]
    first, *others = (max(len(row[column]) for row in cells) for column in range(4))
    lines = [
        " | ".join([row[0].ljust(first), *(cell.rjust(width) for cell, width in zip(row[1:], others, strict=True))])
        for row in cells
    ]
    rule = " | ".join(["-" * first, *("-" * (width - 1) + ":" for width in others)])
    return "\n".join(f"| {line} |" for line in [lines[0], rule, *lines[1:]])

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
    rows = [("fault", "tried", "survived", "lost")]
    rows += [(row.fault, f"{row.tried:,}", f"{row.survived:,}", f"{row.lost:,}") for row in (*outcomes, total)]
    wide = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "| " + " | ".join([row[0].ljust(wide[0]), *(cell.rjust(width) for cell, width in zip(row[1:], wide[1:]))]) + " |"
        for row in rows
    ]
    rule = "|-" + "-|-".join(["-" * wide[0], *("-" * (width - 1) + ":" for width in wide[1:])]).replace(":-|", ": |") + " |"
    return "\n".join([lines[0], rule, *lines[1:]])

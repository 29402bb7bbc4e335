"""Memories: what happened. Losses go in, epoch by epoch, and stay as plain facts."""

from alignprune.memory.average import AverageSpec, RunningAverage
from alignprune.memory.bank import BankSpec, Gaps, Precision, TrajectoryBank
from alignprune.memory.contract import Memory, MemorySpec, Observed, Room
from alignprune.memory.journal import Journal, JournalSpec
from alignprune.memory.ledger import Ledger, LedgerSpec
from alignprune.memory.readings import Readings, ReadingsSpec

__all__ = [
    "AverageSpec",
    "BankSpec",
    "Gaps",
    "Journal",
    "JournalSpec",
    "Ledger",
    "LedgerSpec",
    "Memory",
    "MemorySpec",
    "Observed",
    "Precision",
    "Readings",
    "ReadingsSpec",
    "Room",
    "RunningAverage",
    "TrajectoryBank",
]

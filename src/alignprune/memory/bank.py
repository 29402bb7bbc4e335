"""The trajectory bank: what happened. Losses [window, num_samples], one row an epoch, in a ring.

Rows by epoch, not by sample: an epoch is then one contiguous write and a score one pass of long vector operations.
A gap (the sample was not seen in that epoch) is shown as NaN; it is stored as 0, which adds nothing to any sum, with
a bit that tells it from a loss. Paper section 3.2, equation 3; what a gap means is the choice ``gaps``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from alignprune._checks import described, integer
from alignprune._tensors import DAMAGED, check_finite, check_tensors
from alignprune.errors import ValueMistake
from alignprune.memory.contract import Memory, MemorySpec, Observed, Room
from alignprune.memory.packing import packed_words, set_packed, uninitialised, unpacked

try:
    import fcntl
except ImportError:  # no such locks on Windows, which itself refuses to map a file anew that is mapped
    fcntl = None  # type: ignore[assignment]

Gaps = Literal["paired", "carry", "last_obs"]
GAPS: tuple[str, ...] = get_args(Gaps)

_COLUMNS = 65_536  # samples per chunk of an update, so that its float64 temporaries stay in cache
_LOW = 2.0**-38  # unit of `squares_low`, relative to `squares`: a float32 rounds by at most 2^-24


class TrajectoryBank(Memory):
    """The last ``window`` epochs of every sample's training loss.

    Memory: ``num_samples * (4 * window + 10)`` bytes, 1.1 times the losses at window 25: beside them a bit for every
    epoch (4 bytes up to window 26) and the running sum of squares (6 bytes), so that a score needs a single pass.
    "last_obs" keeps the epoch of every loss instead, 8 bytes an entry.

    Args:
        num_samples: samples in the data set.
        window: epochs kept, the paper's N.
        gaps: "paired" leaves a gap (NaN) where a sample was not seen; "carry" repeats its last loss; "last_obs" keeps
            the last ``window`` losses that were seen, however old, each with its epoch.
        device: where the bank lives.
        path: a file to memory-map the losses in, for banks past the RAM; created, or overwritten unless another bank
            uses it.

    Raises:
        ValueMistake: for unknown gaps, and for a path that is used by another bank or goes with no CPU.

    Source: paper section 3.2, equation 3 and "memory bank of window size N".
    """

    def __init__(
        self,
        num_samples: int,
        window: int,
        *,
        gaps: Gaps = "paired",
        device: torch.device | str = "cpu",
        path: str | Path | None = None,
    ) -> None:
        if gaps not in GAPS:
            raise ValueMistake(f"gaps={gaps!r} is unknown, expected one of {', '.join(GAPS)}: choose one of them")
        self.num_samples, self.window, self.gaps = num_samples, window, gaps
        self.device = torch.device(device)
        self._lock: IO[bytes] | None = None
        self.rows = self._allocate(path)
        self.row_epochs: list[int] = []
        self.row_has_gaps: list[bool] = []
        self.written = 0
        if gaps == "last_obs":
            self.seen_at = self._zeros(window, num_samples, dtype=torch.int32).sub_(1)
            self.seen_count = self._zeros(num_samples, dtype=torch.int32)
        else:
            self.seen = self._zeros(packed_words(window), num_samples, dtype=torch.int32)
            self.squares = self._zeros(num_samples)
            self.squares_low = self._zeros(num_samples, dtype=torch.int16)

    @property
    def filled(self) -> int:
        """Rows that hold losses: the epochs so far, at most ``window``."""
        return min(self.written, self.window)

    @property
    def has_gaps(self) -> bool:
        """Whether any stored epoch misses a sample."""
        return any(self.row_has_gaps)

    @property
    def losses(self) -> Tensor:
        """The stored losses, oldest row first, float32 [filled, num_samples], NaN where a sample was not seen.

        A copy. Under "last_obs" a row is no epoch: see ``seen_at``.
        """
        return self.recent(self.filled)

    def recent(self, epochs: int) -> Tensor:
        """The last rows, oldest first, float32 [min(epochs, filled), num_samples], NaN at gaps; a copy.

        Args:
            epochs: rows wanted; fewer come back while fewer were written.
        """
        return self.trajectories(slice(0, self.num_samples))[self._by_age(min(epochs, self.filled))]

    def trajectories(self, columns: slice) -> Tensor:
        """The stored losses of some samples, rows as they are stored, NaN at gaps; a copy.

        Row i is of epoch ``row_epochs[i]``, except under "last_obs".
        """
        if self.gaps == "last_obs":
            return self.rows[:, columns].masked_fill(self.seen_at[:, columns] < 0, math.nan)
        gap = ~unpacked(self.seen[:, columns], self.filled)
        return self.rows[: self.filled, columns].masked_fill(gap, math.nan)

    def _by_age(self, epochs: int) -> list[int]:
        return [(self.written - age) % self.window for age in range(epochs, 0, -1)]

    def write(self, observed: Observed) -> None:
        """Store one epoch's losses, whoever learned from them, dropping the oldest when the window is full."""
        slot = self.written % self.window
        self.store(observed.epoch, observed.losses)
        if self.gaps != "last_obs":  # a gap on one rank makes all score alike, to the last digit
            gaps = observed.pool.highest(np.array([int(self.row_has_gaps[slot])]))
            self.row_has_gaps[slot] = bool(gaps[0])

    @torch.no_grad()
    def store(self, epoch: int, losses: Tensor) -> None:
        """Store losses without more of an epoch.

        Args:
            epoch: the epoch's number, for pairing with the reference.
            losses: float [num_samples], NaN where a sample was not seen.
        """
        if losses.shape != (self.num_samples,):
            raise ValueMistake(
                f"losses has shape {tuple(losses.shape)}, expected ({self.num_samples},): one loss a sample, NaN "
                f"where it was not seen"
            )
        losses = losses.to(self.device, torch.float32)
        if self.gaps == "last_obs":
            self._write_observations(epoch, losses)
        else:
            self._write_row(epoch, losses)
        self.written += 1

    def _write_row(self, epoch: int, losses: Tensor) -> None:
        slot, previous = self.written % self.window, (self.written - 1) % self.window
        first_lap, has_gaps = self.written < self.window, False
        for start in range(0, self.num_samples, _COLUMNS):
            columns = slice(start, start + _COLUMNS)
            observed = ~losses[columns].isnan()
            new = losses[columns].masked_fill(~observed, 0.0)
            if self.gaps == "carry" and self.written:
                new = torch.where(observed, new, self.rows[previous, columns])
                observed |= unpacked(self.seen[:, columns], self.window)[previous]
            old = torch.zeros_like(new) if first_lap else self.rows[slot, columns].clone()
            self.rows[slot, columns] = new
            set_packed(self.seen[:, columns], slot, observed)
            if slot == 0 and not first_lap:  # once per window from scratch, which bounds every drift
                self._sum_squares(columns)
            else:
                self._exchange_squares(columns, old, new)
            has_gaps = has_gaps or not bool(observed.all())
        if first_lap:
            self.row_epochs.append(epoch)
            self.row_has_gaps.append(has_gaps)
        else:
            self.row_epochs[slot], self.row_has_gaps[slot] = epoch, has_gaps

    def _exchange_squares(self, columns: slice, old: Tensor, new: Tensor) -> None:
        """Add new^2 - old^2 to the running sum of squares, or sum anew where the old loss was most of it.

        A float32 sum would keep the rounding of long gone large losses, and outweigh small ones. So it is kept to 39
        bits: ``squares * (1 + squares_low * 2**-38)``, of which scores read the float32 part. With a factor of at most
        2 lost in an epoch, and a fresh sum in every window, 14 bits are right in the worst case of window 25.
        """
        wide, old = self.squares[columns].double(), old.double()
        total = torch.addcmul(wide, wide, self.squares_low[columns].double(), value=_LOW)
        total.addcmul_(new - old, new + old)
        self._store_squares(columns, total)
        stale = (total >= old.square_()).logical_not_()  # also where something was infinite
        if bool(stale.any()):
            self._sum_squares(stale.nonzero().squeeze(1) + columns.start)

    def _sum_squares(self, columns: slice | Tensor) -> None:
        self._store_squares(columns, self.rows[: min(self.written + 1, self.window), columns].double().square_().sum(0))

    def _store_squares(self, columns: slice | Tensor, total: Tensor) -> None:
        high = total.float()
        wide = high.double()
        self.squares[columns] = high
        low = (total - wide).div_(wide.mul_(_LOW)).nan_to_num_(0.0, 0.0, 0.0).round_()
        self.squares_low[columns] = low.to(torch.int16)

    def _write_observations(self, epoch: int, losses: Tensor) -> None:
        seen = losses.isnan().logical_not_().nonzero().squeeze(1)
        count = self.seen_count[seen]
        slots = (count % self.window).long()
        self.rows[slots, seen] = losses[seen]
        self.seen_at[slots, seen] = epoch
        self.seen_count[seen] = count + 1

    def reference_of(self, history: Tensor, columns: slice) -> Tensor:
        """The reference loss that belongs to every stored loss.

        Args:
            history: reference losses by epoch, float [epochs].
            columns: which samples, for "last_obs".

        Returns:
            float [filled] by row, or [window, columns] under "last_obs"; NaN where there is none.
        """
        if self.gaps != "last_obs":
            return history[self.row_epochs]
        epochs = self.seen_at[:, columns].long()
        return history.to(self.device)[epochs.clamp_min(0)].masked_fill(epochs < 0, math.nan)

    def state_dict(self) -> dict[str, Any]:
        """Everything that later epochs depend on: tensors and plain values only.

        A memory-mapped bank may exceed the RAM, so its losses are handed on as they lie in the file: save the state
        before training goes on. All else is copied.
        """
        rows = self.rows if self.gaps == "last_obs" else self.rows[: self.filled]
        return {
            "gaps": self.gaps,
            "row_epochs": list(self.row_epochs),
            "row_has_gaps": list(self.row_has_gaps),
            "written": self.written,
            "rows": rows if self._lock is not None else rows.cpu().clone(),
            **{name: getattr(self, name).cpu().clone() for name in self._tables()},
        }

    def padded(self, state: dict[str, Any]) -> dict[str, Any]:
        """A state with the rows of a full window: those that were not written yet are 0."""
        missing = self.window - len(state["rows"])
        if not missing:
            return state
        return state | {"rows": torch.cat([state["rows"], state["rows"].new_zeros(missing, self.num_samples)])}

    def check_state_dict(self, state: dict[str, Any]) -> None:
        """Raise TypeMistake or ValueMistake for a state of a bank of another kind or size, and change nothing."""
        if not isinstance(state.get("gaps"), str) or state["gaps"] != self.gaps:
            raise ValueMistake(
                f"bank.gaps={described(state.get('gaps'))} does not fit, expected {self.gaps!r}: load the state into a "
                f"pruner made with the settings of the saved run"
            )
        written = integer("bank.written", state.get("written"), at_least=0, remedy=DAMAGED)
        filled = min(written, self.window)
        tables = {name: getattr(self, name) for name in self._tables()}
        rows = state.get("rows")
        whole = self.gaps == "last_obs" or (isinstance(rows, Tensor) and rows.shape == self.rows.shape)
        check_tensors("bank", state, tables | {"rows": self.rows if whole else self.rows[:filled]})
        check_finite("bank", state, ("rows",))
        self._check_epochs(state, 0 if self.gaps == "last_obs" else filled)

    def _check_epochs(self, state: dict[str, Any], rows: int) -> None:
        """Refuse a state whose rows, or observations, are not of the epochs that it says were written."""
        epochs, has_gaps, written = state.get("row_epochs"), state.get("row_has_gaps"), state["written"]
        last = int(state["seen_at"].max()) if self.gaps == "last_obs" else -1
        if (
            not isinstance(epochs, list)
            or not isinstance(has_gaps, list)
            or not len(epochs) == len(has_gaps) == rows
            or not all(isinstance(epoch, int) and 0 <= epoch < written for epoch in epochs)
            or not all(isinstance(has_gap, bool) for has_gap in has_gaps)
            or last >= written
        ):
            raise ValueMistake(
                f"bank.row_epochs={described(epochs)} or the epochs of its observations, up to {last}, do not fit, "
                f"expected {rows} rows, of epochs below written={written}: {DAMAGED}"
            )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state of `state_dict`, bit for bit."""
        self.row_epochs, self.row_has_gaps = list(state["row_epochs"]), list(state["row_has_gaps"])
        self.written = state["written"]
        self.rows[: len(state["rows"])] = state["rows"].to(self.device)
        for name in self._tables():
            getattr(self, name).copy_(state[name])

    def _tables(self) -> tuple[str, ...]:
        return ("seen_at", "seen_count") if self.gaps == "last_obs" else ("seen", "squares", "squares_low")

    def _zeros(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def _allocate(self, path: str | Path | None) -> Tensor:
        shape = (self.window, self.num_samples)
        if path is None:
            rows = uninitialised(*shape, device=self.device)
            return rows.zero_() if self.gaps == "last_obs" else rows  # a row is written whole, an observation is not
        if self.device.type != "cpu":
            raise ValueMistake(
                f"path={str(path)!r} is given with device={str(self.device)!r}, expected device='cpu': a file is "
                "mapped into the host's memory"
            )
        self._lock = _locked(Path(path))
        return torch.from_numpy(np.memmap(path, dtype=np.float32, mode="w+", shape=shape))


@dataclass(frozen=True)
class BankSpec(MemorySpec):
    """Asks for a `TrajectoryBank`.

    Attributes:
        window: epochs kept.
        gaps: how an epoch is stored in which a sample was not seen.
    """

    by_parts: ClassVar[bool] = True

    window: int
    gaps: Gaps = "paired"

    def make(self, room: Room) -> TrajectoryBank:
        return TrajectoryBank(room.num_samples, self.window, gaps=self.gaps, device=room.device, path=room.path)


def _locked(path: Path) -> IO[bytes]:
    """The file, opened and kept from every other bank as long as it is open; its content is not touched."""
    file = open(path, "ab")  # noqa: SIM115  # open as long as the bank lives
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise ValueMistake(
                f"path={str(path)!r} is in use by another bank, expected a file of its own for every bank: two would "
                f"overwrite each other's losses. Choose another path, or end the other run"
            ) from error
    return file

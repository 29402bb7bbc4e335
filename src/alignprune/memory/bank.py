"""The trajectory bank: what happened. Losses [window, num_samples], one row an epoch, in a ring.

Rows by epoch, not by sample: an epoch is then one contiguous write and a score one pass of long vector operations.
A gap (the sample was not seen in that epoch) is shown as NaN; it is stored as 0, which adds nothing to any sum, with
a bit that tells it from a loss. Paper section 3.2, equation 3; what a gap means is the choice ``gaps``.

A bank in a file is worked on part by part, so that the process holds a few megabytes of it at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from alignprune._checks import choice, described, integer
from alignprune._tensors import DAMAGED, check_finite, check_tensors
from alignprune.errors import ValueMistake
from alignprune.memory.capacity import free_memory, shown
from alignprune.memory.contract import Memory, MemorySpec, Observed, Room
from alignprune.memory.packing import chunks, packed_words, set_packed, uninitialised, unpacked_row
from alignprune.memory.row_file import RowFile

Gaps = Literal["paired", "carry", "last_obs"]
GAPS: tuple[str, ...] = get_args(Gaps)
Precision = Literal["float32", "bfloat16", "float16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)

_COLUMNS = 65_536  # samples per chunk of an update, so that its float64 temporaries stay in cache
_PART = 262_144  # samples that are read of a file at once: strips of a megabyte, 26 megabytes of window 25
_LOW = 2.0**-38  # unit of `squares_low`, relative to `squares`: a float32 rounds by at most 2^-24


class TrajectoryBank(Memory):
    """The last ``window`` epochs of every sample's training loss.

    Memory: ``num_samples * (4 * window + 10)`` bytes, 1.1 times the losses at window 25: beside them a bit for every
    epoch (4 bytes up to window 26) and the running sum of squares (6 bytes), so that a score needs a single pass.
    "last_obs" keeps the epoch of every loss instead, 8 bytes an entry. A half precision takes 2 bytes less an entry:
    ``num_samples * (2 * window + 10)``, 0.55 times as much at window 25.

    Args:
        num_samples: samples in the data set.
        window: epochs kept, the paper's N.
        gaps: "paired" leaves a gap (NaN) where a sample was not seen; "carry" repeats its last loss; "last_obs" keeps
            the last ``window`` losses that were seen, however old, each with its epoch.
        device: where the bank lives.
        path: a file to keep the losses in, for banks past the RAM; created, or overwritten unless another bank uses
            it. All else, 10 bytes a sample, stays in memory.
        precision: what a loss is stored in: "float32", "bfloat16" (3 digits) or "float16" (4 digits, up to 65,504).
            A loss beyond the largest number is stored as that.

    Attributes:
        rows: the losses as they are stored, [window, num_samples] of that precision; of a file its mapping.

    Raises:
        ValueMistake: for unknown gaps or precision, for a path that is used by another bank or goes with no CPU, and
            for a bank that does not fit into the memory or onto the disk.

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
        precision: Precision = "float32",
    ) -> None:
        choice("gaps", gaps, GAPS)
        choice("precision", precision, PRECISIONS)
        self.num_samples, self.window, self.gaps, self.precision = num_samples, window, gaps, precision
        self.device = torch.device(device)
        self._dtype = getattr(torch, precision)
        self._check_place(path)
        self._file = None if path is None else RowFile(Path(path), window, num_samples, self._dtype, _PART)
        self.rows = self._make_rows() if self._file is None else self._file.rows
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
        newest = range(self.written - min(epochs, self.filled), self.written)
        return self._shown([epoch % self.window for epoch in newest], slice(0, self.num_samples))

    def trajectories(self, columns: slice) -> Tensor:
        """The stored losses of some samples, float32, rows as they are stored, NaN at gaps; a copy.

        Row i is of epoch ``row_epochs[i]``, except under "last_obs".
        """
        start, stop, _ = columns.indices(self.num_samples)
        return self._shown(range(self.window if self.gaps == "last_obs" else self.filled), slice(start, stop))

    def parts(self) -> Iterator[slice]:
        """Columns that are all samples together, a slice at a time."""
        return chunks(slice(0, self.num_samples), self._widest)

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """The parts, each with its losses as stored, [filled, columns], 0 at gaps, until the next is asked for.

        Of a file the next part is read meanwhile.
        """
        if self._file is None:
            yield from ((columns, self.rows[: self.filled, columns]) for columns in self.parts())
        else:
            yield from self._file.stream(range(self.filled), self.parts())

    @property
    def _widest(self) -> int:
        return self.num_samples if self._file is None else _PART

    def _stored(self, rows: range, columns: slice) -> Tensor:
        if self._file is None:
            return self.rows[rows.start : rows.stop, columns]
        return self._file.read(rows, columns)

    def _put(self, row: int, columns: slice, losses: Tensor) -> None:
        if self._file is None:
            self.rows[row, columns] = losses
        else:
            self._file.write(row, columns, losses)

    def _shown(self, rows: Sequence[int], columns: slice) -> Tensor:
        """A copy of some rows, float32 [len(rows), columns], NaN where a sample was not seen."""
        shown = uninitialised(len(rows), columns.stop - columns.start, device=self.device)
        for part in chunks(columns, self._widest):
            place = slice(part.start - columns.start, part.stop - columns.start)
            for row, losses in zip(rows, shown[:, place], strict=True):
                seen = self._seen_in(row, part)
                # 1 over 1 is 1, and 0 over 0 is NaN: a product is several times as fast as to fill by a mask.
                losses.copy_(self._stored(range(row, row + 1), part)[0]).mul_(seen.div_(seen))
        return shown

    def _seen_in(self, row: int, columns: slice) -> Tensor:
        """Float32 [columns], 1 where a row holds a loss, 0 where it holds none."""
        if self.gaps == "last_obs":
            return (self.seen_at[row, columns] >= 0).float()
        return unpacked_row(self.seen[:, columns], row)

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
        for columns in chunks(slice(0, self.num_samples), _COLUMNS):
            given = losses[columns]
            seen = torch.eq(given, given, out=torch.empty_like(given))  # 1.0, and 0.0 for NaN: faster than a mask
            new = self._as_stored(given)
            if self.gaps == "carry" and self.written:
                last = self._stored(range(previous, previous + 1), columns)[0]
                new.addcmul_(last, 1 - seen.to(self._dtype))
                seen = seen.maximum(unpacked_row(self.seen[:, columns], previous))
            gone = new.new_zeros(len(new)) if first_lap else self._stored(range(slot, slot + 1), columns)[0]
            gone = gone.double().square_()
            self._put(slot, columns, new)
            set_packed(self.seen[:, columns], slot, seen)
            if slot == 0 and not first_lap:  # once per window from scratch, which bounds every drift
                self._sum_squares(columns)
            else:
                self._exchange_squares(columns, gone, new.double())
            has_gaps = has_gaps or float(seen.sum()) < len(seen)
        if first_lap:
            self.row_epochs.append(epoch)
            self.row_has_gaps.append(has_gaps)
        else:
            self.row_epochs[slot], self.row_has_gaps[slot] = epoch, has_gaps

    def _as_stored(self, losses: Tensor) -> Tensor:
        """Losses in the bank's precision, 0 at gaps; what would be infinite there is its largest number."""
        losses = losses.nan_to_num(0.0)
        if self._dtype == torch.float32:
            return losses
        largest = torch.finfo(self._dtype).max
        return losses.clamp_(-largest, largest).to(self._dtype)

    def _exchange_squares(self, columns: slice, gone: Tensor, new: Tensor) -> None:
        """Add new^2 - gone to the running sum of squares, or sum anew where the square that goes was most of it.

        A float32 sum would keep the rounding of long gone large losses, and outweigh small ones. So it is kept to 39
        bits: ``squares * (1 + squares_low * 2**-38)``, of which scores read the float32 part. With a factor of at most
        2 lost in an epoch, and a fresh sum in every window, 14 bits are right in the worst case of window 25.
        """
        total = self.squares[columns].double()
        total.addcmul_(total, self.squares_low[columns].double(), value=_LOW).addcmul_(new, new).sub_(gone)
        sound = gone.le_(total)  # 1.0, and 0.0 also where something was infinite
        self._store_squares(columns, total)
        if not bool(sound.amin()):
            self._sum_squares(columns, (sound == 0).nonzero().squeeze(1))

    def _sum_squares(self, columns: slice, among: Tensor | None = None) -> None:
        block = self._stored(range(min(self.written + 1, self.window)), columns)
        if among is None:
            self._store_squares(columns, block.double().square_().sum(0))
        else:
            self._store_squares(among + columns.start, block[:, among].double().square_().sum(0))

    def _store_squares(self, columns: slice | Tensor, total: Tensor) -> None:
        """Split sums, float64, which are overwritten, into the float32 next to them and what remains of them."""
        high = total.float()
        low = total.sub_(high.double()).float().div_(high).mul_(1 / _LOW).nan_to_num_(0.0, 0.0, 0.0).round_()
        self.squares[columns], self.squares_low[columns] = high, low.to(torch.int16)

    def _write_observations(self, epoch: int, losses: Tensor) -> None:
        for columns in chunks(slice(0, self.num_samples), _COLUMNS):
            seen = losses[columns].isnan().logical_not_().nonzero().squeeze(1)
            count = self.seen_count[columns][seen]
            slots = (count % self.window).long()
            block = self._stored(range(self.window), columns)
            block[slots, seen] = self._as_stored(losses[columns])[seen]
            if self._file is not None:
                for row in slots.unique().tolist():
                    self._file.write(row, columns, block[row])
            self.seen_at[:, columns][slots, seen] = epoch
            self.seen_count[columns][seen] = count + 1

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

        A bank in a file may exceed the RAM, so its losses are handed on as they lie there, mapped: save the state
        before training goes on. All else is copied.
        """
        rows = self.rows if self.gaps == "last_obs" else self.rows[: self.filled]
        return {
            "gaps": self.gaps,
            "row_epochs": list(self.row_epochs),
            "row_has_gaps": list(self.row_has_gaps),
            "written": self.written,
            "rows": rows if self._file is not None else rows.cpu().clone(),
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
        stored = getattr(state.get("rows"), "dtype", self._dtype)
        if stored != self._dtype and str(stored).removeprefix("torch.") in PRECISIONS:
            raise ValueMistake(
                f"bank.rows={described(state['rows'])} does not fit, expected precision={self.precision!r}: load the "
                f"state into a pruner made with the settings of the saved run"
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
        for row, losses in enumerate(state["rows"]):
            for columns in self.parts():
                self._put(row, columns, losses[columns].to(self.device))
        for name in self._tables():
            getattr(self, name).copy_(state[name])

    def _tables(self) -> tuple[str, ...]:
        return ("seen_at", "seen_count") if self.gaps == "last_obs" else ("seen", "squares", "squares_low")

    def _zeros(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def _make_rows(self) -> Tensor:
        rows = uninitialised(self.window, self.num_samples, device=self.device, dtype=self._dtype)
        return rows.zero_() if self.gaps == "last_obs" else rows  # a row is written whole, an observation is not

    def _check_place(self, path: str | Path | None) -> None:
        """Refuse a file beside another device, and what the memory has no room for, before anything is allocated."""
        if path is not None and self.device.type != "cpu":
            raise ValueMistake(
                f"path={str(path)!r} is given with device={str(self.device)!r}, expected device='cpu': a file is "
                "read into the host's memory"
            )
        beside = 4 * self.window + 4 if self.gaps == "last_obs" else 4 * packed_words(self.window) + 6
        losses = 0 if path is not None else self.window * self._dtype.itemsize
        needed, free = self.num_samples * (losses + beside), free_memory(self.device)
        if free is None or needed <= free:
            return
        ways = []
        if path is None:
            ways.append("bank_path= for a file" if self.device.type == "cpu" else "device='cpu'")
        if path is None and self.window > 1 and self.precision == "float32":
            ways.append("precision='float16'")
        if self.window > 1:
            ways.append("a smaller window")
        raise ValueMistake(
            f"num_samples={self.num_samples} with window={self.window} in {self.precision} needs {shown(needed)} of "
            f"memory on {self.device}, expected at most the {shown(free)} that are free: choose "
            f"{' or '.join(ways) or 'a machine with more'}"
        )


@dataclass(frozen=True)
class BankSpec(MemorySpec):
    """Asks for a `TrajectoryBank`.

    Attributes:
        window: epochs kept.
        gaps: how an epoch is stored in which a sample was not seen.
        precision: what a loss is stored in.
    """

    by_parts: ClassVar[bool] = True

    window: int
    gaps: Gaps = "paired"
    precision: Precision = "float32"

    def make(self, room: Room) -> TrajectoryBank:
        return TrajectoryBank(
            room.num_samples,
            self.window,
            gaps=self.gaps,
            device=room.device,
            path=room.path,
            precision=self.precision,
        )

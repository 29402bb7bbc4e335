"""The recorder: one epoch's losses, checked as they come in, merged over the ranks when the epoch ends.

A loss enters under the index of its sample. What would make a result wrong without a word is found here: indices of
another data set, samples that were not selected or were read before, losses that are not finite, an epoch that was read
in part, ranks that hold different runs. An index on the host is checked at once; to look at one on an accelerator would
stall it, so its faults are counted there and reported at the end of the epoch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignprune._modes import warn
from alignprune._ranks import rank_and_world
from alignprune._tensors import INTEGERS
from alignprune.errors import CallMistake, TypeMistake, ValueMistake
from alignprune.exchange import Exchange
from alignprune.pool import Pool

SELECTED, LEFT_OUT = "selected", "left out"
"""The two parts of a data set in an epoch."""

FAULTS = ("outside", "unexpected")
_BAD = 4096.0  # what a loss that is not finite adds to the number of ranks that saw a sample
_NEVER = torch.iinfo(torch.int32).max  # a step that no epoch reaches
_UNKNOWN = -1  # the length of a rank's part of a stream
_COUNTS = (*FAULTS, "read", "refreshed", "length", "largest")
_MENDED = "alignprune.integrations has the line that mends it, by trainer"
_CAUSES = (
    "The likely causes: reduce was not called for every batch; the trainer shards pruner.sampler once more, which "
    f"shards by itself ({_MENDED}); the loader's length was cached from another epoch; the loop stopped early. If the "
    "epoch was cut on purpose, close it with end_epoch(partial=True)"
)


@dataclass(frozen=True)
class Merged:
    """An epoch over all ranks, of the n samples that this rank remembers.

    Attributes:
        row: float32 [n], losses, inf where one is not finite, NaN where no rank has seen a sample.
        reference: mean reference loss of the ranks, NaN where one has none.
        counts: by name, int64 [ranks]: indices outside of the data set, samples that were not expected, samples read,
            refreshed, and to be read by the rank (-1 = unknown), and its largest batch.
        shared: samples that more than one rank has seen.
        predicted: int32 [n], the class that was predicted, -1 where none was; None = nowhere.
        steps: int32 [n], the step in which a sample was read, -1 = not read; None = not kept.
    """

    row: Tensor
    reference: float
    counts: Mapping[str, NDArray[np.int64]]
    shared: int = 0
    predicted: Tensor | None = None
    steps: Tensor | None = None

    @property
    def losses(self) -> Tensor:
        """The finite losses, float32 [n], NaN where there is none."""
        return self.row.masked_fill(self.row.isinf(), math.nan) if self.nonfinite else self.row

    @cached_property
    def nonfinite(self) -> int:
        """How many samples had a loss that is not finite."""
        return int((self.row == math.inf).count_nonzero())  # isinf takes three times as long

    def total(self, name: str) -> int:
        """A count over all ranks."""
        return int(self.counts[name].sum())


class Recorder:
    """Records the losses of an epoch, by slot: of the samples that this rank remembers, then of those that it reads
    for others.

    Args:
        pool: the samples of all ranks.
        keeps_steps: whether to keep in which step of an epoch a sample was read.

    Attributes:
        read: samples of this rank that were reduced.
        refreshed: samples of this rank that were recorded without training.
        largest: size of its largest batch.
    """

    def __init__(self, pool: Pool, *, keeps_steps: bool = False) -> None:
        self.pool, self.num_samples, self.keeps_steps = pool, pool.num_samples, keeps_steps
        self._sent: tuple[Tensor, ...] = ()  # what `merge` gave to the other ranks at the last epoch's end
        self.start(0, np.zeros(pool.size, dtype=bool), 0)

    def start(
        self,
        epoch: int,
        selected: NDArray[np.bool_] | None,
        total: int,
        *,
        streamed: bool = False,
        exchange: Exchange | None = None,
        before: int = 0,
    ) -> None:
        """Begin an epoch.

        Args:
            epoch: its number, for messages.
            selected: which samples are to be read, bool [n]; None = all.
            total: how many of them, by all ranks together.
            streamed: a rank reads as many as its part of a stream holds, instead of an even share.
            exchange: what ranks that own parts read of one another's; None where they do not.
            before: samples that every rank has read of the epoch and that are not among these.
        """
        self._before = before
        self.epoch, self._total, self._streamed, self._exchange = epoch, total, streamed, exchange
        self._slots = self.pool.size + (0 if exchange is None else len(exchange.here))
        self.read = self.refreshed = self.largest = 0
        self._selected = selected
        self._expected: dict[str, NDArray[np.bool_]] = {}
        self._expected_there: dict[str, Tensor] = {}
        self._row: Tensor | None = None
        self._faults: Tensor | None = None
        self._predicted: Tensor | None = None
        self._steps: Tensor | None = None
        self._step = 0

    @property
    def length(self) -> int | None:
        """Samples that this rank is to read in the epoch; None = as many as its part of a stream holds.

        Asked anew each time: a trainer may set up the ranks after the pruner was made.
        """
        _, world = rank_and_world()
        if self._streamed and world > 1:
            return None
        return -(-self._total // world) if self._exchange is None else self._before + self._exchange.length

    # ------------------------------------------------------------------ every step

    def check(self, index: Tensor, losses: Tensor) -> int:
        """Refuse what is no batch of losses with their indices; returns its size."""
        if not isinstance(losses, Tensor) or not losses.is_floating_point():
            kind = losses.dtype if isinstance(losses, Tensor) else type(losses).__name__
            raise TypeMistake(f"losses is {kind}, expected a float tensor [B]: the criterion with reduction='none'")
        if losses.ndim != 1:
            averaged = "they are averaged already: " if losses.ndim == 0 else ""
            raise ValueMistake(
                f"losses has shape {tuple(losses.shape)}, expected [B], one loss a sample: {averaged}compute the "
                f"criterion with reduction='none'"
            )
        if not isinstance(index, Tensor) or index.dtype not in INTEGERS:
            kind = index.dtype if isinstance(index, Tensor) else type(index).__name__
            raise TypeMistake(f"index is {kind}, expected an integer tensor [B]: the index that came with the batch")
        if index.shape != losses.shape:
            raise ValueMistake(
                f"index has shape {tuple(index.shape)} and losses {tuple(losses.shape)}, expected [B] both: pass the "
                f"index that came with this very batch"
            )
        size: int = index.shape[0]
        if not size:
            raise ValueMistake("the batch is empty, expected at least one sample: skip empty batches")
        return size

    def take(self, index: Tensor, part: str = SELECTED) -> Tensor:
        """Note that a batch is read, once and by whom it was meant for.

        Args:
            index: integers [B], checked, on any device.
            part: of the data set that it has to be of.

        Returns:
            int64 [B], the slots of the samples: on an accelerator what was outside is forced in, and counted.

        Raises:
            ValueMistake, CallMistake: for an index on the host that is outside, repeated, or not expected.
        """
        index, size = index if index.dtype == torch.int64 else index.to(torch.int64), index.shape[0]
        index = self._take_here(index, part) if index.is_cpu else self._take_there(index, part)
        if part == SELECTED:
            length = self.length
            length = self.num_samples if length is None else length
            if self.read + size > length:
                raise CallMistake(
                    f"epoch {self.epoch} has {length} samples on this rank, expected no more, and this batch "
                    f"makes it {self.read + size}: call pruner.end_epoch() after every epoch, and give the "
                    "DataLoader sampler=pruner.sampler"
                )
            self.read += size
            self.largest = max(self.largest, size)
        else:
            self.refreshed += size
        return index

    def _slots_of(self, index: Tensor) -> Tensor:
        """The slots of samples of the data set, int64 [B]; -1 where it is another rank's to read one."""
        return index if self._exchange is None else self._exchange.slots_of(index)

    def _take_here(self, index: Tensor, part: str) -> Tensor:
        positions = index.numpy()
        ordered = np.sort(positions)
        if ordered[0] < 0 or ordered[-1] >= self.num_samples:
            raise ValueMistake(
                f"index reaches from {ordered[0]} to {ordered[-1]}, expected 0 to {self.num_samples - 1}: make the "
                f"Pruner with num_samples=len(train_set) of the data set that is loaded"
            )
        if b"\1" in (ordered[1:] == ordered[:-1]).tobytes():  # several times as fast as any()
            twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
            raise ValueMistake(
                f"index repeats {twice[:5].tolist()} in one batch, expected every sample once: let pruner.sampler "
                f"choose the samples, and reduce every batch by itself"
            )
        taken = self._slots_of(index)
        slots, expected = taken.numpy(), self._expected_here(part)
        if self._exchange is not None and slots.min() < 0:
            raise ValueMistake(
                f"index holds {positions[slots < 0][:5].tolist()}, which other ranks read in epoch {self.epoch}, "
                f"expected what this rank owns: give the DataLoader sampler=pruner.sampler, or read the part of the "
                f"stream that the rank owns"
            )
        if b"\0" in expected.take(slots).tobytes():
            missing = ~expected[slots]
            self._refuse_unexpected(positions[missing], slots[missing], part)
        expected[slots] = False
        return taken

    def _refuse_unexpected(self, samples: NDArray[np.int64], slots: NDArray[np.int64], part: str) -> None:
        chosen = self._mask(part)[slots]
        if not chosen.all():
            raise ValueMistake(
                f"index holds {samples[~chosen][:5].tolist()}, which are not {part} in epoch {self.epoch}, expected "
                f"samples that are: give the DataLoader sampler=pruner.sampler, and call pruner.end_epoch() after "
                f"every epoch"
            )
        raise CallMistake(
            f"index holds {samples[:5].tolist()}, which were read in epoch {self.epoch} already, expected every sample "
            f"once an epoch: reduce each batch once, call pruner.end_epoch() after every epoch, and let no trainer "
            f"shard pruner.sampler once more ({_MENDED})"
        )

    def _take_there(self, index: Tensor, part: str) -> Tensor:
        faults = self._row_on(index.device)[1]
        inside = index.clamp(0, self.num_samples - 1)
        faults[0] += (inside != index).sum()
        if part not in self._expected_there:
            self._expected_there[part] = torch.from_numpy(self._expected_here(part)).to(index.device, non_blocking=True)
        expected, foreign, slots = self._expected_there[part], inside != index, inside
        if self._exchange is not None:
            owned = self._slots_of(inside)
            slots = owned.clamp_min(0)
            faults[1] += (owned != slots).logical_and_(~foreign).sum()
            foreign.logical_or_(owned != slots)
        taken = expected.index_select(0, slots)
        faults[1] += taken.logical_or(foreign).logical_not_().sum()
        expected.index_copy_(0, slots, taken.logical_and(foreign))
        return slots

    def take_part(self, index: Tensor, whole: Tensor) -> Tensor:
        """The part of a batch that was taken, int64 [m] inside of it; raises ValueMistake for a part of another batch.

        Args:
            index: integers [m], checked.
            whole: int64 [B], what `take` returned for the batch, by a policy that chooses inside of it: the samples.
        """
        part, whole = index.to(torch.int64), whole.to(index.device)
        foreign = ~torch.isin(part, whole)
        if not index.is_cpu:
            self._row_on(index.device)[1][1] += foreign.sum()
            return part.clamp(0, self.num_samples - 1)
        if bool(foreign.any()) or len(part.unique()) < len(part):
            raise ValueMistake(
                f"index holds {part[foreign][:5].tolist() or 'repetitions'}, expected a part of the batch that choose "
                "was asked about: reduce with index[chosen]"
            )
        return part

    def write(self, index: Tensor, losses: Tensor, labelled: Tensor | None = None, *, checked: bool) -> None:
        """Enter losses; those that are not finite in float32 are marked, and counted when the epoch ends.

        Args:
            index: int64 [B] on the losses' device, from `take`.
            losses: [B], without gradient.
            labelled: bool [B]; the loss of a sample without a label is none. None = all have one.
            checked: whether no index is repeated for sure; else repetitions are counted.
        """
        values = losses.float()
        row, faults = self._row_on(values.device)
        values = torch.where(values.isfinite(), values, math.inf)
        if labelled is not None:
            values.masked_fill_(~labelled, math.nan)
        row.index_copy_(0, index, values)
        if not checked:
            faults[1] += (row.index_select(0, index) != values).logical_and_(~values.isnan()).sum()

    def write_finite(self, index: Tensor, losses: Tensor) -> None:
        """Enter float32 losses on the host that are known to be finite; arguments as in `write`."""
        row = self._row_on(losses.device)[0].numpy()  # whose assignment takes a third of the time of index_copy_
        row[index.numpy()] = losses.numpy()

    def write_predicted(self, index: Tensor, predicted: Tensor) -> None:
        """Enter the classes that were predicted, integers [B]; ``index`` as in `write`."""
        own, classes = self._predictions_on(index.device), predicted.detach().to(index.device)
        if index.is_cpu:  # whose assignment by numpy takes a third of the time of index_copy_
            own.numpy()[index.numpy()] = classes.numpy()
        else:
            own.index_copy_(0, index, classes.to(torch.int32))

    def _predictions_on(self, device: torch.device) -> Tensor:
        """The class that was predicted of each sample, int32 by slot, -1 = none, on a device."""
        if self._predicted is None:
            self._predicted = torch.full((self._slots,), -1, dtype=torch.int32, device=device)
        elif self._predicted.device != device:
            self._predicted = self._predicted.to(device)
        return self._predicted

    def write_step(self, index: Tensor) -> None:
        """Enter that a batch was read in the next step, if steps are kept; ``index`` as in `write`."""
        if self.keeps_steps:
            self._steps_on(index.device).index_fill_(0, index, self._step)
            self._step += 1

    def _steps_on(self, device: torch.device) -> Tensor:
        """The step in which each sample was read, int32 by slot, -1 = not read, on a device."""
        if self._steps is None:
            self._steps = torch.full((self._slots,), -1, dtype=torch.int32, device=device)
        elif self._steps.device != device:
            self._steps = self._steps.to(device)
        return self._steps

    def _mask(self, part: str) -> NDArray[np.bool_]:
        """Which samples of a part are this rank's to read, bool by slot."""
        mask = np.full(self._slots, part == SELECTED)
        if self._selected is not None:
            mask[: self.pool.size] = self._selected if part == SELECTED else ~self._selected
        if self._exchange is not None and part == SELECTED:
            mask[self._exchange.given] = False
        return mask

    def _expected_here(self, part: str) -> NDArray[np.bool_]:
        """Which samples of a part are still to be read, bool by slot; made when it is first asked for."""
        if part not in self._expected:
            self._expected[part] = self._mask(part)
        return self._expected[part]

    def _row_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """This epoch's losses, float32 by slot, inf = not finite, NaN = not seen, and its faults, on a device."""
        if self._row is None or self._faults is None:
            self._row = torch.full((self._slots,), math.nan, dtype=torch.float32, device=device)
            self._sent = ()
            self._faults = torch.zeros(len(FAULTS), dtype=torch.int64, device=device)
        elif self._row.device != device:
            self._row, self._faults = self._row.to(device), self._faults.to(device)
        return self._row, self._faults

    # ------------------------------------------------------------------ once per epoch

    def merge(self, reference: float, fingerprints: Mapping[str, int]) -> Merged:
        """The epoch over all ranks: the one place where ranks talk, by one set of collectives.

        Args:
            reference: this rank's reference loss, NaN where there is none.
            fingerprints: by name, integers below 2^63 that have to be the same on every rank.

        Raises:
            CallMistake: on every rank, if a fingerprint differs.
        """
        row, faults = self._row_on(self._row.device if self._row is not None else torch.device("cpu"))
        length = self.length
        length = _UNKNOWN if length is None else length
        counts = [*faults.tolist(), self.read, self.refreshed, length, self.largest]
        steps = self._steps_on(row.device) if self.keeps_steps else None
        _, world = rank_and_world()
        if world == 1:
            return Merged(row, reference, _named(np.array([counts])), predicted=self._predicted, steps=steps)
        table, mean_reference, said = self._exchanged_numbers(reference, counts, fingerprints)
        if self._exchange is not None:
            row, predicted, steps = self._sent_home(
                self._exchange, row, self._predictions_on(row.device) if said else None, steps
            )
            return Merged(row, mean_reference, _named(table), predicted=predicted, steps=steps)
        if torch.distributed.get_backend() == "nccl":  # which cannot carry host memory
            row = row.cuda()
        finite = row.isfinite()
        both = torch.stack([row.masked_fill(~finite, 0.0), finite + _BAD * row.isinf()])
        torch.distributed.all_reduce(both)
        self._sent = (*self._sent, both)
        predicted = self._merged_predictions(row.device) if said else None
        steps = None if steps is None else self._merged_steps(steps.to(row.device))
        merged = (both[0] / both[1]).masked_fill_(both[1] >= _BAD, math.inf)  # 0 / 0 = NaN: seen by no rank
        seen_twice = int((both[1] % _BAD + both[1].div(_BAD, rounding_mode="floor") > 1).sum())
        return Merged(merged, mean_reference, _named(table), seen_twice, predicted, steps)

    def _exchanged_numbers(
        self, reference: float, counts: list[int], fingerprints: Mapping[str, int]
    ) -> tuple[NDArray[np.int64], float, bool]:
        """The counts of every rank, int64 [ranks, counts], the mean reference, and whether any rank has predicted."""
        rank, world = rank_and_world()
        bits = torch.tensor([reference], dtype=torch.float64, device="cpu").view(torch.int64)
        said = [int(self._predicted is not None)]
        own = torch.cat([torch.tensor([*counts, *fingerprints.values(), *said], device="cpu"), bits])
        every = torch.zeros(world, len(own), dtype=torch.int64, device="cpu")
        every[rank] = own
        every = every.cuda() if torch.distributed.get_backend() == "nccl" else every
        # A sum, in which each rank has its row: a rank that still trains sums gradients now, of another size, and both
        # abort, where with a gathering they would wait for each other for ever.
        torch.distributed.all_reduce(every)
        # Gloo's threads may let go of this after the collective returned. If Python had done so before them, they
        # would need its lock to free the tensor, and torch 2.4 hangs or aborts when the training ends at that moment.
        self._sent = (every,)
        table = every.cpu()
        _refuse_different(table[:, len(counts) : -2].numpy(), list(fingerprints), self.epoch)
        references = table[:, -1].clone().view(torch.float64)
        return table[:, : len(counts)].numpy(), float(references.mean()), bool(table[:, -2].any())

    def _sent_home(
        self, exchange: Exchange, row: Tensor, predicted: Tensor | None, steps: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The row, the predictions and the steps of this rank's own samples, with what others have read of them."""
        size, tables = self.pool.size, [table for table in (row, predicted, steps) if table is not None]
        home = exchange.sent_home(np.stack([_known(table[size:]) for table in tables]))
        merged = [_joined(table[:size], exchange.slots, news) for table, news in zip(tables, home, strict=True)]
        return (
            merged[0],
            None if predicted is None else merged[1],
            None if steps is None else merged[-1],
        )

    def _merged_predictions(self, device: torch.device) -> Tensor:
        """What any rank has predicted, by a collective; a sample has one prediction in an epoch."""
        if self._predicted is None:
            predicted = torch.full((self.num_samples,), -1, dtype=torch.int32, device=device)
        else:
            predicted = self._predicted.to(device, copy=True)
        torch.distributed.all_reduce(predicted, torch.distributed.ReduceOp.MAX)
        self._sent = (*self._sent, predicted)
        return predicted

    def _merged_steps(self, own: Tensor) -> Tensor:
        """The first step in which any rank has read a sample, by a collective; some are read once more at the end."""
        steps = own.masked_fill(own < 0, _NEVER)
        torch.distributed.all_reduce(steps, torch.distributed.ReduceOp.MIN)
        self._sent = (*self._sent, steps)
        return steps.masked_fill(steps == _NEVER, -1)

    def refuse_faults(self, merged: Merged) -> None:
        """Raise ValueMistake for faults that were counted on an accelerator, on any rank."""
        outside, unexpected = merged.total("outside"), merged.total("unexpected")
        if outside or unexpected:
            raise ValueMistake(
                f"in epoch {self.epoch}, {outside} indices were outside 0 to {self.num_samples - 1} and {unexpected} "
                f"were repeated or not selected, expected every selected sample once: make the Pruner with "
                f"num_samples=len(train_set) and let pruner.sampler choose the samples"
            )

    def refuse_partly_read(self, merged: Merged, selected: int) -> None:
        """Raise CallMistake if a rank read less than what was selected for it, but for a last batch that it dropped."""
        ranks, largest = len(merged.counts["read"]), np.maximum(merged.counts["largest"], 1)
        if (merged.counts["length"] == _UNKNOWN).any():
            missing = selected - merged.total("read")
            short = missing > 0 and missing >= largest.sum()
        else:
            left = merged.counts["length"] - merged.counts["read"]
            short = bool(((left > 0) & (left >= largest)).any())
        if not short:
            return
        raise CallMistake(
            f"epoch {self.epoch} was read in part: {merged.total('read')} of {selected} selected samples, on {ranks} "
            f"rank{'s' * (ranks > 1)}, expected all but a last batch that is dropped. {_CAUSES}"
        )

    def refuse_shared(self, merged: Merged) -> None:
        """Raise CallMistake if ranks have read the same samples, but for those that even out their shares."""
        ranks = len(merged.counts["read"])
        if merged.shared >= ranks:
            raise CallMistake(
                f"in epoch {self.epoch}, {merged.shared} samples were read by more than one of {ranks} ranks, expected "
                f"each by one: give every rank its own part of the data (pruner.sampler does it by itself; a stream is "
                f"split by node first), and set up torch.distributed before the first batch is loaded"
            )

    def warn_of_a_part(self) -> None:
        """Warn, before the ranks meet, if this one has read less than was selected for it.

        Ranks that have read different numbers of batches do not meet: what the one sends when it ends the epoch, the
        other takes for gradients, and both abort or wait for ever before `refuse_partly_read` can say why.
        """
        (rank, world), length = rank_and_world(), self.length
        if world > 1 and length is not None and length - self.read >= max(self.largest, 1):
            warn(
                f"rank {rank} ends epoch {self.epoch} with {self.read} of its {length} samples read, expected all "
                f"but a last batch that is dropped. {_CAUSES}"
            )

    # ------------------------------------------------------------------ state

    def resume(self, consumed: Mapping[str, Tensor], read: int, refreshed: int, largest: int, step: int) -> None:
        """Go on in the middle of an epoch that was started.

        Args:
            consumed: by part of the data set, int64 [k], samples that this rank is not to read any more.
            read, refreshed: how many samples of each part this rank has consumed.
            largest: size of the largest batch so far.
            step: the next one, where steps are kept.
        """
        self.read, self.refreshed, self.largest, self._step = read, refreshed, largest, step
        for part, samples in consumed.items():
            if len(samples):
                self._expected_here(part)[samples.numpy()] = False

    def restore(
        self, row: Tensor, faults: list[int], predicted: Tensor | None = None, steps: Tensor | None = None
    ) -> None:
        """Take over what all ranks had recorded, on one of them, or what each had of the samples that it owns."""
        host, size = torch.device("cpu"), len(row)
        self._row_on(host)[0][:size] = row
        self._faults = torch.tensor(faults, dtype=torch.int64, device="cpu")
        if predicted is not None:
            self._predictions_on(host)[:size] = predicted
        if steps is not None:
            self._steps_on(host)[:size] = steps

    def unread(self) -> Tensor:
        """Which samples that this rank owns nobody has read yet of those that are to be read, uint8 [n].

        A collective, where ranks own parts and read for one another.
        """
        left, size = self._left(), self.pool.size
        own = left[:size].copy()
        if self._exchange is not None:
            home = self._exchange.sent_home(left[None, size:].astype(np.float64))[0] > 0
            own[self._exchange.slots] = home & (own[self._exchange.slots] | ~self._exchange.kept)
        return torch.from_numpy(own.astype(np.uint8))

    def _left(self) -> NDArray[np.bool_]:
        """Which samples are still to be read, bool by slot, wherever they were noted."""
        if SELECTED in self._expected_there:
            return self._expected_there[SELECTED].cpu().numpy()
        return self._expected_here(SELECTED)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was recorded in this epoch."""
        return self._row is None

    def faults(self, merged: Merged) -> list[int]:
        """The counts of faults over all ranks, for `restore`."""
        return [merged.total(name) for name in FAULTS]


def _known(table: Tensor) -> NDArray[np.float64]:
    """Losses, or integers of which the negative ones stand for nothing, as numbers with NaN for nothing."""
    numbers: NDArray[np.float64] = table.cpu().numpy().astype(np.float64)
    return numbers if table.is_floating_point() else np.where(numbers < 0, np.nan, numbers)


def _joined(table: Tensor, slots: NDArray[np.int64], news: NDArray[np.float64]) -> Tensor:
    """A table of this rank's samples with what others have found of some: of two losses the mean, else the first."""
    if not len(slots):
        return table
    mine = _known(table[torch.from_numpy(slots).to(table.device)])
    both = (mine + news) / 2 if table.is_floating_point() else np.minimum(mine, news)
    joined = torch.from_numpy(np.where(np.isnan(mine), news, np.where(np.isnan(news), mine, both)))
    out = table.clone()
    joined = joined if table.is_floating_point() else joined.nan_to_num_(-1.0)
    out[torch.from_numpy(slots).to(table.device)] = joined.to(table.device, table.dtype)
    return out


def _named(table: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    return dict(zip(_COUNTS, table.T, strict=True))


def _refuse_different(table: NDArray[np.int64], names: list[str], epoch: int) -> None:
    different = [name for name, column in zip(names, table.T, strict=True) if len(set(column.tolist())) > 1]
    if different:
        raise CallMistake(
            f"the ranks hold different {' and '.join(different)} in epoch {epoch}, expected the same on every rank: "
            "make the pruners with the same arguments, seed and labels, load the same state, and give each rank a "
            "bank_path of its own"
        )
